"""System calls and what stands in for them where they are missing."""

from __future__ import annotations

import errno
import mmap
import os
import platform
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from transcode.errors import PlanError
from transcode.io import system


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, (3 << 20) + 5])
@pytest.mark.parametrize("whole", [True, False])
def test_all_is_written_at_its_offset_however_little_is_taken_at_once(size, whole, tmp_path, monkeypatch):
    if not whole:
        real = system._pwrite
        monkeypatch.setattr(system, "_pwrite", lambda fd, data, at: real(fd, data[: len(data) // 2 + 1], at))
    data = os.urandom(size)
    path = tmp_path / "a"
    with open(path, "w+b") as file:
        system.write_at(file.fileno(), memoryview(data), 3)
    assert path.read_bytes() == (b"\0" * 3 + data if size else b"")


def test_without_positional_writes_the_place_is_sought(tmp_path, monkeypatch):
    monkeypatch.setattr(system, "_pwrite", system._seek_and_write)
    path = tmp_path / "a"
    with open(path, "w+b") as file:
        system.write_at(file.fileno(), memoryview(b"world"), 6)
        system.write_at(file.fileno(), memoryview(b"hello "), 0)
    assert path.read_bytes() == b"hello world"


@pytest.mark.parametrize("call", ["real", "none", "unknown"])
def test_a_file_gets_its_size_whether_or_not_blocks_can_be_reserved(call, tmp_path, monkeypatch):
    if call == "none":
        monkeypatch.setattr(system, "_fallocate", None)
    elif call == "unknown":
        monkeypatch.setattr(system, "_fallocate", lambda *arguments: -1)
        monkeypatch.setattr(system.ctypes, "get_errno", lambda: errno.EOPNOTSUPP)
    path = tmp_path / "a"
    with open(path, "wb") as file:
        system.reserve(file.fileno(), 12345, path)
    assert path.stat().st_size == 12345


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_found_before_any_work(code, tmp_path, monkeypatch):
    monkeypatch.setattr(system, "_fallocate", lambda *arguments: -1)
    monkeypatch.setattr(system.ctypes, "get_errno", lambda: code)
    with open(tmp_path / "a", "wb") as file, pytest.raises(PlanError, match="no room for 7 bytes"):
        system.reserve(file.fileno(), 7, tmp_path / "a")
    with open(tmp_path / "a", "wb") as file:
        system.reserve(file.fileno(), 0, tmp_path / "a")


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_a_signal_comes_behind_the_block_and_handlers_are_back(monkeypatch):
    heard = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    mine = signal.getsignal(signal.SIGTERM)
    try:
        with system.undisturbed():
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)
            assert heard == []
        assert heard == [signal.SIGTERM]
        assert signal.getsignal(signal.SIGTERM) is mine
    finally:
        signal.signal(signal.SIGTERM, before)


def test_pages_of_a_map_that_the_file_lost_are_an_error_not_a_death(tmp_path):
    import ctypes
    import mmap

    path = tmp_path / "a"
    path.write_bytes(b"x" * 4 * mmap.PAGESIZE)
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as mapped:
        view = ctypes.c_char.from_buffer(mapped)
        address = ctypes.addressof(view)
        if not system.populate(address + 5, mmap.PAGESIZE):
            del view
            pytest.skip("this kernel cannot bring pages into memory so")
        os.ftruncate(file.fileno(), mmap.PAGESIZE)
        with pytest.raises(OSError, match="address") as error:
            system.populate(address, 4 * mmap.PAGESIZE)
        assert error.value.errno == errno.EFAULT
        del view


@pytest.mark.parametrize(("code", "taken"), [(errno.ENOLCK, True), (errno.ENOSYS, True), (errno.EIO, None)])
def test_where_there_are_no_locks_nobody_is_kept_out(code, taken, tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")

    def flock(fd, how):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)
    if taken is None:
        with pytest.raises(OSError, match=r"[Ii]nput/output"):
            system.try_lock(0)
    else:
        assert system.try_lock(0) is taken


def test_free_space_is_that_of_the_file_system(tmp_path):
    facts = os.statvfs(tmp_path)
    assert abs(system.free_space(tmp_path) - facts.f_bavail * facts.f_frsize) < 1 << 30


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
def test_a_pipe_is_no_file(tmp_path, refused):
    """Nobody writes into it: what opened it would wait for ever."""
    pipe = tmp_path / "a.safetensors"
    os.mkfifo(pipe)
    for arguments in (
        ["inspect", pipe],
        ["run", pipe, tmp_path / "o"],
        ["meta", "get", pipe],
        ["meta", "set", pipe, "a=b"],
        ["meta", "diff", pipe, pipe],
    ):
        assert "is a pipe, a socket or a device, not a file" in refused(*arguments)
    assert "not a file" in refused("inspect", tmp_path)
    with pytest.raises(IsADirectoryError):
        system.open_file(tmp_path)
    with pytest.raises(FileNotFoundError):
        system.open_file(tmp_path / "none")
    (tmp_path / "file").write_bytes(b"abc")
    with system.open_file(tmp_path / "file", buffered=False) as file:
        assert file.read() == b"abc"


HOLES = """
import sys
from transcode.io import system

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

if sys.argv[1] == "told":
    assert system.give_back_freed()
del (large := [bytearray(16 << 20)])[:]  # one that is freed: blocks up to its size are no longer mapped
held, before = [], resident()
for _ in range(64):
    held += [bytearray(b"x") * (1 << 20), bytes(1000)]
del held[::4]  # every other large block
print((resident() - before) >> 20)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is another")
def test_freed_blocks_are_given_back():
    def left(how: str) -> int:
        run = subprocess.run([sys.executable, "-c", HOLES, how], capture_output=True, text=True, check=True)
        return int(run.stdout)

    assert left("told") < 40
    assert left("not told") > 56


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts the pages of Linux")
@pytest.mark.parametrize("way", ["system", "python"])
def test_pages_that_are_let_go_do_not_count_and_come_back(way, tmp_path, monkeypatch):
    if way == "python":
        monkeypatch.setattr(system, "_madvise", None)
    page = mmap.PAGESIZE
    (tmp_path / "a").write_bytes(bytes(range(256)) * (page // 256 * 7 + 1))
    with open(tmp_path / "a", "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:

        def resident() -> int:
            lines = Path("/proc/self/smaps").read_text().split(str(tmp_path / "a"))[1].splitlines()
            return int(next(line.split()[1] for line in lines if line.startswith("Rss:")))

        assert sum(mapped[::page]) == 0
        assert resident() == 8 * page // 1024
        system.let_go(mapped, 2 * page, 4 * page)
        kept = resident()
        system.let_go(mapped, 6 * page, len(mapped))
        assert (kept, resident()) == (6 * page // 1024, 4 * page // 1024)
        assert mapped[2 * page + 5] == 5
        assert mapped[-1] == 255
