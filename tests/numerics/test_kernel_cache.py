"""Compiled kernels are read only as they were written."""

from __future__ import annotations

import hashlib

import pytest

from transcode.numerics import kernel_cache, notice
from transcode.numerics.elf import Image


@pytest.fixture
def heard(monkeypatch):
    """What is said of trouble, however often it was said before."""
    texts = []
    monkeypatch.setattr(notice, "_told_of_trouble", False)
    monkeypatch.setattr(notice, "_warn", texts.append)
    return texts


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where kernels are kept in this test."""
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    kernel_cache.cache_folder.cache_clear()
    yield kernel_cache.cache_folder()
    kernel_cache.cache_folder.cache_clear()


@pytest.mark.parametrize("code", [Image(b"\xc3" * 40, 3, [8], {"mmap": [16, 24]}), b"\x7fELF object"])
def test_what_is_kept_comes_back(code, folder, heard):
    assert kernel_cache.kept("module.name(int)", "1") is None
    kernel_cache.keep("module.name(int)", "1", (code, "int64"))
    assert kernel_cache.kept("module.name(int)", "1") == (code, "int64")
    assert kernel_cache.kept("module.name(int)", "2") is None
    assert kernel_cache.kept("module.name(float)", "1") is None
    assert heard == []
    (path,) = folder.iterdir()
    assert path.name.startswith("module.name-")
    assert path.suffix == ".kernel"


def test_every_flipped_byte_is_seen(folder, heard, monkeypatch):
    kernel_cache.keep("module.name()", "", (Image(b"\xc3", 0), "none"))
    (path,) = folder.iterdir()
    raw = path.read_bytes()
    for place in range(len(raw)):
        path.write_bytes(raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :])
        assert kernel_cache.kept("module.name()", "") is None
    for size in range(len(raw)):
        path.write_bytes(raw[:size])
        assert kernel_cache.kept("module.name()", "") is None
    assert len(heard) == 1
    assert f"{path} is damaged" in heard[0]
    path.write_bytes(raw)
    assert kernel_cache.kept("module.name()", "") == (Image(b"\xc3", 0), "none")


@pytest.mark.parametrize(
    "body", [b"", b"\0" * 8, b"\2\0\0\0\0\0\0\0[]", b"\2\0\0\0\0\0\0\0{}", b"\1\0\0\0\0\0\0\0x"]
)
def test_a_right_digest_of_nonsense_is_not_enough(body, folder, heard):
    kernel_cache.keep("module.name()", "", (b"code", "none"))
    (path,) = folder.iterdir()
    path.write_bytes(hashlib.sha256(body).digest() + body)
    assert kernel_cache.kept("module.name()", "") is None
    assert "is damaged" in heard[0]


def test_of_another_kernel_under_this_name(folder, heard):
    for name in ("module.one()", "module.two()"):
        kernel_cache.keep(name, "", (name.encode(), "none"))
    one, two = sorted(folder.iterdir())
    two.write_bytes(one.read_bytes())
    assert kernel_cache.kept("module.one()", "") == (b"module.one()", "none")
    assert kernel_cache.kept("module.two()", "") is None
    assert "is damaged" in heard[0]


def test_a_folder_in_the_place_of_a_file(folder, heard):
    kernel_cache.keep("module.name()", "", (b"code", "none"))
    (path,) = folder.iterdir()
    path.unlink()
    path.mkdir()
    assert kernel_cache.kept("module.name()", "") is None
    assert "cannot be read" in heard[0]
    kernel_cache.keep("module.name()", "", (b"code", "none"))
    assert list(folder.iterdir()) == [path]  # nothing half-written stays
