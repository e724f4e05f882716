"""Kernels are compiled once per machine, wherever the package lies, and the user hears of it just then."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import transcode

SCRIPT = """
import numpy as np
from transcode.numerics.jit import cache_folder
from transcode.numerics.notice import compiling
told = []
with compiling(lambda: told.append(1)):
    from transcode.numerics.reduce import largest
    rows = np.array([[1, 0xC000, 2]], np.uint16)
    rows.setflags(write=False)
    print(largest(rows))
print(len(told), cache_folder())
"""


def run(**environment):
    """What the script prints in a fresh process."""
    base = {
        key: value for key, value in os.environ.items() if key not in ("NUMBA_CACHE_DIR", "XDG_CACHE_HOME")
    }
    base["PYTHONPATH"] = str(Path(transcode.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={**base, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    value, told = done.stdout.splitlines()
    assert value == "2.0"
    count, folder = told.split(maxsplit=1)
    return int(count), folder


def test_the_second_process_compiles_nothing(tmp_path):
    first = run(XDG_CACHE_HOME=str(tmp_path))
    assert first[0] == 1
    assert Path(first[1]).parent == tmp_path / "transcode"
    assert list(Path(first[1]).rglob("*.nbi"))
    assert run(XDG_CACHE_HOME=str(tmp_path)) == (0, first[1])


def test_numba_cache_dir_wins(tmp_path):
    assert run(NUMBA_CACHE_DIR=str(tmp_path / "own")) == (1, str(tmp_path / "own"))
    assert run(NUMBA_CACHE_DIR=str(tmp_path / "own")) == (0, str(tmp_path / "own"))


def test_without_a_home_the_temporary_folder_serves(tmp_path):
    # A file where the folder should be: this stops root too, which no permission does.
    (tmp_path / "file").touch()
    (tmp_path / "tmp").mkdir()
    count, folder = run(XDG_CACHE_HOME=str(tmp_path / "file"), TMPDIR=str(tmp_path / "tmp"))
    assert count == 1
    assert Path(folder).is_relative_to(tmp_path / "tmp")


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="permissions as on Unix")
def test_a_cache_that_others_can_write_is_not_used(tmp_path):
    (tmp_path / "transcode").mkdir()
    (tmp_path / "transcode").chmod(0o777)
    (tmp_path / "tmp").mkdir()
    _, folder = run(XDG_CACHE_HOME=str(tmp_path), TMPDIR=str(tmp_path / "tmp"))
    assert Path(folder).is_relative_to(tmp_path / "tmp")


def test_nowhere_to_write_still_works(tmp_path, monkeypatch):
    from transcode.numerics import jit

    monkeypatch.setattr(jit, "_private", lambda folder: False)
    monkeypatch.setattr(jit.numba.config, "CACHE_DIR", "")
    jit.cache_folder.cache_clear()
    try:
        assert jit.cache_folder() is None
        assert jit.kernel(lambda x: x + 1)(2) == 3
    finally:
        jit.cache_folder.cache_clear()
