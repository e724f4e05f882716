"""System calls that Python's standard library lacks, with what to do where they are missing."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import signal
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from os import PathLike
from pathlib import Path
from typing import BinaryIO

from ..errors import PlanError

__all__ = [
    "WINDOWS",
    "clone",
    "copy_range",
    "drop_cache",
    "free_space",
    "let_go",
    "populate",
    "replace",
    "reserve",
    "start_writeback",
    "sync",
    "sync_folder",
    "sync_names",
    "try_lock",
    "undisturbed",
    "unlock",
    "write_at",
]

WINDOWS = os.name == "nt"
"""Where files that anybody has open keep their names: they can be neither replaced nor removed."""

_SYNC_FILE_RANGE_WAIT_BEFORE = 1
_SYNC_FILE_RANGE_WRITE = 2
_SYNC_FILE_RANGE_WAIT_AFTER = 4

_UNKNOWN = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}
"""What file systems answer that lack a call."""


def _libc_function(name: str, *types: type) -> Callable[..., int] | None:
    if not sys.platform.startswith("linux"):
        return None
    try:
        function = getattr(ctypes.CDLL(None, use_errno=True), name)
    except (AttributeError, OSError):
        return None
    function.argtypes = types
    function.restype = ctypes.c_int
    typed: Callable[..., int] = function
    return typed


_fallocate = _libc_function("fallocate", ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
_sync_file_range = _libc_function(
    "sync_file_range", ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint
)


_madvise = _libc_function("madvise", ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_POPULATE_READ = 22  # linux/mman.h, since 5.14
_DONTNEED = getattr(mmap, "MADV_DONTNEED", None)
_PAGE = mmap.PAGESIZE
_FICLONE = 0x40049409  # linux/fs.h


def populate(address: int, size: int) -> bool:
    """Bring pages of a map into memory, as touching them would, but with an error where that would kill.

    Not by Python's own ``mmap.madvise``, which holds the GIL while the disk is at work.

    Returns:
        False where the system cannot do that; then nothing was touched.

    Raises:
        OSError: the file ends before these pages, or its device cannot read them.
    """
    if _madvise is None:
        return False
    begin = address - address % _PAGE
    while _madvise(begin, address + size - begin, _POPULATE_READ) != 0:
        code = ctypes.get_errno()
        if code == errno.EINVAL:
            return False
        if code not in (errno.EINTR, errno.EAGAIN):
            raise OSError(code, os.strerror(code))
    return True


def let_go(map: mmap.mmap, begin: int, end: int) -> None:
    """Have pages of a map not count as this process's any more, where the system can do that.

    Args:
        begin, end: bytes of the map; ``begin`` at a page's first.

    Looked at again, they come back from the page cache. Not by Python's own ``mmap.madvise`` where that can
    be helped: it holds the GIL, and other workers wait while the kernel tells all processors.
    """
    if _DONTNEED is None:
        return
    if _madvise is None:
        map.madvise(_DONTNEED, begin, end - begin)
        return
    import numpy as np  # here, for commands that look at facts alone

    _madvise(np.frombuffer(map, np.uint8, end - begin, begin).ctypes.data, end - begin, _DONTNEED)


def reserve(fd: int, size: int, path: Path) -> None:
    """Give an empty file its full size, with disk blocks behind it where the file system can do that.

    A full disk is found here, before any work is done; and writing into reserved blocks is faster.

    Raises:
        PlanError: the disk is too full.
    """
    if size == 0:
        return
    if _fallocate is not None:
        if _fallocate(fd, 0, 0, size) == 0:
            return
        code = ctypes.get_errno()
        if code in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)):
            raise PlanError(
                f"no room for {size} bytes, the file system has {free_space(path.parent)} left",
                file=path,
                hint="free some space or choose another destination",
            )
        # Any other answer means that this file system cannot reserve: fall back to a sparse file.
    os.ftruncate(fd, size)


def start_writeback(fd: int, offset: int, size: int) -> None:
    """Ask the kernel to begin writing a range to disk, without waiting for it.

    Without this, dirty pages pile up and the final sync waits for all of them.
    """
    if _sync_file_range is not None:
        _sync_file_range(fd, offset, size, _SYNC_FILE_RANGE_WRITE)


def drop_cache(fd: int, offset: int, size: int, *, written: bool = False) -> None:
    """Take a range out of the page cache; with ``written``, wait first until it is on disk."""
    if written and _sync_file_range is not None:
        flags = _SYNC_FILE_RANGE_WAIT_BEFORE | _SYNC_FILE_RANGE_WRITE | _SYNC_FILE_RANGE_WAIT_AFTER
        _sync_file_range(fd, offset, size, flags)
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(fd, offset, size, os.POSIX_FADV_DONTNEED)


def clone(fd: int, out: int) -> bool:
    """Make a file share the blocks of another (reflink); False where the file system cannot do that."""
    try:
        import fcntl

        fcntl.ioctl(out, _FICLONE, fd)
    except (ImportError, OSError):
        return False
    return True


_FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC), errno.EFBIG}


def copy_range(fd: int, out: int, begin: int, offset: int, size: int) -> int:
    """Copy bytes of one open file to an offset of another without their passing through this process: shared
    blocks where the file system has them, a copy at the server on network shares, else one in the kernel.

    Returns:
        How many were copied; less than ``size`` where the file ends, or the system cannot go on: then who
        reads and writes them himself learns why.

    Raises:
        OSError: there is no room for them.
    """
    copy = getattr(os, "copy_file_range", None)
    done = 0
    while copy is not None and done < size:
        try:
            copied = copy(fd, out, size - done, begin + done, offset + done)
        except InterruptedError:
            continue
        except OSError as error:
            if error.errno in _FULL:
                raise
            break
        if copied == 0:
            break
        done += copied
    return done


def sync(fd: int) -> None:
    """Make what was written to a file durable.

    On macOS fsync(2) leaves it in the cache of the disk; what empties that is asked for first.
    """
    try:
        import fcntl

        fcntl.fcntl(fd, fcntl.F_FULLFSYNC)  # type: ignore[attr-defined,unused-ignore]
    except (ImportError, AttributeError, OSError):  # not macOS; or a network share there
        os.fsync(fd)


def replace(new: str, path: str, fd: int) -> None:
    """Give a file the name of another, which ``fd`` has open and keeps open wherever that is possible.

    On Windows the descriptor is of the file that has the name afterwards, whichever that is.
    """
    if not WINDOWS:
        os.replace(new, path)
        return
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, fd)  # closes the file, and nobody else gets the number
    os.close(null)
    try:
        os.replace(new, path)
    finally:
        now = os.open(path, os.O_RDWR | getattr(os, "O_BINARY", 0))
        os.dup2(now, fd)
        os.close(now)


def give_back_freed() -> bool:
    """Have the C library return large blocks to the system once they are freed, for the rest of the process.

    Where one was freed, glibc puts later ones of up to its size (32 MiB at most) among small blocks, in an
    arena for each thread. There they leave holes: memory grows with what passed by, not with what is held.

    Returns:
        Whether there is such a thing.
    """
    tune = _libc_function("mallopt", ctypes.c_int, ctypes.c_int)
    return tune is not None and tune(_MMAP_THRESHOLD, 1 << 17) == 1


_MMAP_THRESHOLD = -3
"""``M_MMAP_THRESHOLD`` of glibc's malloc.h: blocks from that size on are mapped; once set it stays."""


def open_file(path: str | PathLike[str], *, buffered: bool = True) -> BinaryIO:
    """A file to be read. What is no file is refused: opening a pipe would wait for whoever writes into it.

    Raises:
        OSError: it cannot be read, or is a folder, a pipe, a socket or a device.
    """
    return open(path, "rb", buffering=-1 if buffered else 0, opener=_open_file)


def _open_file(path: str, flags: int) -> int:
    fd = os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
    mode = os.fstat(fd).st_mode
    if stat.S_ISREG(mode):
        return fd
    os.close(fd)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    raise OSError(errno.EINVAL, "is a pipe, a socket or a device, not a file", path)


def free_space(folder: Path) -> int:
    """Bytes that an ordinary user may still write to the file system of a folder."""
    import shutil

    return shutil.disk_usage(folder).free


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable, where folders can be synced."""
    if WINDOWS:
        return
    try:
        fd = os.open(folder, os.O_RDONLY)
    except PermissionError:  # one may write to it, but not list it
        return
    try:
        sync_names(fd)
    finally:
        os.close(fd)


def sync_names(fd: int) -> None:
    """:func:`sync_folder` of an open folder. Network shares and FUSE may know no such thing."""
    try:
        sync(fd)
    except OSError as error:
        if error.errno not in _UNKNOWN:
            raise


def try_lock(fd: int) -> bool:
    """Take an exclusive lock on an open file, without waiting; released when it is closed.

    flock(2), which only those heed who ask for it too; on Windows a lock of the first byte, which nobody
    else can read or write then: a file for locks alone. Where the file system knows no locks there is nobody
    to be kept out by one: taken.
    """
    if WINDOWS:
        return _try_lock_byte(fd)
    import fcntl

    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _UNKNOWN:
            raise
    return True


def _try_lock_byte(fd: int) -> bool:
    import msvcrt

    os.lseek(fd, 0, os.SEEK_SET)
    try:
        msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EDEADLK, errno.EAGAIN):
            return False
        if error.errno not in _UNKNOWN:
            raise
    return True


def unlock(fd: int) -> None:
    """Give a lock of :func:`try_lock` back, before the file is closed: Windows would do so late."""
    if WINDOWS:
        import msvcrt

        os.lseek(fd, 0, os.SEEK_SET)
        with suppress(OSError):
            msvcrt.locking(fd, msvcrt.LK_UNLCK, 1)  # type: ignore[attr-defined,unused-ignore]


@contextmanager
def undisturbed() -> Iterator[None]:
    """A block that Ctrl-C, SIGTERM and SIGHUP do not cut short: what they raise comes behind it."""
    if threading.current_thread() is not threading.main_thread():
        yield  # handlers run in the main thread alone
        return
    held: list[int] = []
    handlers = {}
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and callable(signal.getsignal(number)):
            handlers[number] = signal.signal(number, lambda number, frame: held.append(number))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if held:
        signal.raise_signal(held[0])


_WRITE = 1 << 20
"""Bytes of one write. Larger ones make the kernel look for larger runs of free memory for its page cache,
which costs several times as much once memory is full of cache.
"""


def write_at(fd: int, data: memoryview, offset: int) -> None:
    """Write all of ``data`` at an offset; from several threads at once if need be."""
    while data:
        written = _pwrite(fd, data[:_WRITE], offset)
        data = data[written:]
        offset += written


def _seek_and_write(fd: int, data: memoryview, offset: int) -> int:
    with _seek_lock:
        os.lseek(fd, offset, os.SEEK_SET)
        return os.write(fd, data)


_seek_lock = threading.Lock()
_pwrite: Callable[[int, memoryview, int], int] = getattr(os, "pwrite", _seek_and_write)  # Windows has none
