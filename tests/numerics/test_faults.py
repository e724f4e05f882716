"""A look at a lost page of a map, in a process of its own: it may die of it."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import ctypes, mmap, os, sys, tempfile
import llvmlite
from transcode.numerics import faults

page = mmap.PAGESIZE
with tempfile.TemporaryFile() as file:
    file.write(b"x" * 4 * page)
    file.flush()
    mapped = mmap.mmap(file.fileno(), 4 * page, access=mmap.ACCESS_COPY)
    address = ctypes.addressof(ctypes.c_char.from_buffer(mapped))
    note = ctypes.c_uint64()
    watch = faults.watch(address, 4 * page, note)
    assert watch is not None
    os.ftruncate(file.fileno(), page)
    print(mapped[0], note.value, mapped[2 * page], note.value)
    if sys.argv[1] == "ended":
        watch.end()
        mapped[3 * page]
    print("alive")
"""


def run(how):
    return subprocess.run([sys.executable, "-c", SCRIPT, how], capture_output=True, text=True, check=False)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere maps are not looked at")
def test_a_lost_page_is_zeros_and_noted():
    done = run("watched")
    assert done.stdout.split() == [str(ord("x")), "0", "0", "1", "alive"], done.stderr


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere maps are not looked at")
def test_what_is_watched_no_longer_kills_as_before():
    done = run("ended")
    assert done.returncode == -7, done.stderr
    assert "alive" not in done.stdout


def test_without_compiled_code_nothing_is_watched(monkeypatch):
    import ctypes

    from transcode.numerics import faults

    monkeypatch.setattr(faults, "used", lambda: False)
    assert faults.watch(1 << 30, 4096, ctypes.c_uint64()) is None


def test_no_more_maps_than_there_are_places(monkeypatch):
    import ctypes

    from transcode.numerics import faults

    table = (ctypes.c_uint64 * (3 * faults.MOST))()
    monkeypatch.setattr(faults, "_TABLE", table)
    monkeypatch.setattr(faults, "_install", lambda: True)
    monkeypatch.setattr(faults, "used", lambda: True)
    note = ctypes.c_uint64()
    watches = [faults.watch(4096 * (n + 1), 10, note) for n in range(faults.MOST)]
    assert all(watches)
    assert faults.watch(1 << 40, 10, note) is None
    watches[5].end()
    assert list(table[15:17]) == [4096 * 6, 0]
    assert faults.watch(1 << 40, 10, note) is not None
    assert list(table[15:18]) == [1 << 40, (1 << 40) + 10, ctypes.addressof(note)]
