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


def damage(path, how):
    raw = path.read_bytes()
    if how == "emptied":
        raw = b""
    elif how == "cut":
        raw = raw[: len(raw) // 2]
    elif how == "flipped":
        raw = bytes([*raw[: len(raw) // 2], raw[len(raw) // 2] ^ 0x10, *raw[len(raw) // 2 + 1 :]])
    else:  # a pickle that runs a command
        raw = f"cos\nsystem\n(S'touch {path.parent / 'never'}'\ntR.".encode() * 9
    path.write_bytes(raw)


@pytest.mark.parametrize("kind", ["*.nbi", "*.nbc"])
@pytest.mark.parametrize("how", ["emptied", "cut", "flipped", "foreign"])
def test_a_damaged_cache_is_compiled_anew(kind, how, tmp_path):
    _, folder = run(XDG_CACHE_HOME=str(tmp_path))
    files = list(Path(folder).rglob(kind))
    assert files
    for path in files:
        damage(path, how)
    assert run(XDG_CACHE_HOME=str(tmp_path), PYTHONWARNINGS="ignore") == (1, folder)
    assert not list(Path(folder).rglob("never"))
    assert run(XDG_CACHE_HOME=str(tmp_path)) == (0, folder)


WHOLE = """
import errno, os, sys
from numba.core.caching import IndexDataCacheFile
from transcode.cli import main

def full(self, path):
    raise OSError(errno.ENOSPC, "No space left on device", path)

if sys.argv[1] == "full":
    IndexDataCacheFile._open_for_write = full
main(sys.argv[2:])
"""


@pytest.mark.parametrize("how", ["emptied", "full"])
def test_a_run_goes_on_without_its_cache_and_says_so_once(how, tmp_path, wan):
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    environment.pop("NUMBA_CACHE_DIR", None)
    for number in range(2 if how == "emptied" else 1):
        done = subprocess.run(
            [sys.executable, "-c", WHOLE, how, "run", wan, tmp_path / f"{number}.safetensors", "-sint8"],
            env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        for path in (tmp_path / "transcode").rglob("*.nbi"):
            path.write_bytes(b"")
    assert done.stderr.count("transcode: warning: ") == 1
    assert ("No space left on device" if how == "full" else "is damaged") in done.stderr
    assert len(list(tmp_path.glob("*.safetensors"))) == number + 1
