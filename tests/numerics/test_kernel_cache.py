"""Compiled kernels are read only as they were written."""

from __future__ import annotations

import numba
import pytest

from transcode.numerics import kernel_cache, notice


@pytest.fixture
def heard(monkeypatch):
    """What is said of trouble, however often it was said before."""
    texts = []
    monkeypatch.setattr(notice, "_told_of_trouble", False)
    monkeypatch.setattr(notice, "_warn", texts.append)
    return texts


@pytest.fixture
def function(tmp_path, monkeypatch):
    """Gives a function, compiled anew each time, whose kernels are kept in a folder."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "kernels"))

    def make():
        compiled = numba.njit(lambda x: x + 3)
        kernel_cache.checked(compiled)
        return compiled

    return make


def test_a_kernel_is_kept_and_read(function, tmp_path, heard):
    first = function()
    assert first(4) == 7
    assert first._cache_misses
    second = function()
    assert second(4) == 7
    assert second._cache_hits
    assert not second._cache_misses
    assert heard == []
    assert {path.suffix for path in tmp_path.rglob("*.nb*")} == {".nbi", ".nbc"}


@pytest.mark.parametrize("suffix", [".nbi", ".nbc"])
def test_one_flipped_bit_is_compiled_anew(suffix, function, tmp_path, heard):
    assert function()(4) == 7
    (path,) = tmp_path.rglob(f"*{suffix}")
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    again = function()
    assert again(4) == 7
    assert again._cache_misses
    assert len(heard) == 1
    assert f"{path} is damaged" in heard[0]
    assert function()(4) == 7
    assert len(heard) == 1
