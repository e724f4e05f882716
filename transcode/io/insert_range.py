"""Growing a file at its front, where the file system can: no byte of what follows is moved."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from .system import _libc_function

__all__ = ["PAGE", "alone", "block_size", "can_insert", "insert", "remove"]

PAGE = 4096
"""Data sections of new files start at a multiple of this, so that they can later grow at their front."""

_COLLAPSE_RANGE = 0x08  # linux/falloc.h
_INSERT_RANGE = 0x20
_PATIENCE = 0.3  # seconds to wait for somebody who reads no more than the header
_NOT_HERE = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS, errno.EPERM, errno.EFBIG)

_fallocate = _libc_function("fallocate", ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


def block_size(fd: int) -> int:
    """What an insertion must be a multiple of, in bytes; at least a page."""
    return max(getattr(os.fstat(fd), "st_blksize", 0), PAGE)


def can_insert(folder: str) -> bool:
    """Whether the file system of a folder can insert ranges.

    Asked of a file without a name, because the mere attempt touches a file's modification time: a file system
    that can refuses a single byte as no multiple of its block, one that cannot says so.
    """
    if _fallocate is None or not hasattr(os, "O_TMPFILE"):
        return False
    try:
        fd = os.open(folder, os.O_TMPFILE | os.O_RDWR, 0o600)
    except OSError:
        return False
    try:
        return _fallocate(fd, _INSERT_RANGE, 0, 1) != 0 and ctypes.get_errno() == errno.EINVAL
    finally:
        os.close(fd)


def insert(fd: int, size: int) -> bool:
    """Insert ``size`` zero bytes, a multiple of :func:`block_size`, before the first byte of a file.

    The data of the file does not move on disk, whatever its length: extents are renumbered. Returns False
    when the file system cannot do that, and then nothing has changed.

    Raises:
        OSError: it could, but failed (disk full, I/O error).
    """
    return _shift(fd, _INSERT_RANGE, size)


def remove(fd: int, size: int) -> bool:
    """The inverse of :func:`insert`: take ``size`` bytes away from the front."""
    return _shift(fd, _COLLAPSE_RANGE, size)


def _shift(fd: int, mode: int, size: int) -> bool:
    if _fallocate is None:
        return False
    while _fallocate(fd, mode, 0, size) != 0:
        code = ctypes.get_errno()
        if code == errno.EINTR:
            continue
        if code in _NOT_HERE:
            return False
        raise OSError(code, os.strerror(code))
    return True


@contextmanager
def alone(fd: int) -> Iterator[bool]:
    """Whether nobody else has the file open or mapped; if so, keep it so for as long as the context lasts.

    An insertion moves the tensors to other offsets under whoever has them mapped: a server would silently
    compute with shifted weights. A write lease (fcntl(2), ``F_SETLEASE``) is granted only when no other
    descriptor and no map of the file exists, and whoever opens the file while it is held waits until it is
    given back. Where leases cannot be had (another owner's file without CAP_LEASE, a file system that knows
    none, another system) nothing is known, and the answer is no. The process itself must not open the file
    again inside the context.
    """
    if not sys.platform.startswith("linux"):
        yield False
        return
    import fcntl

    # Announces a waiting opener by a signal whose default is to be ignored; the usual SIGIO would kill.
    fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
    deadline = time.monotonic() + _PATIENCE
    while (refused := _lease(fd, fcntl.F_WRLCK)) == errno.EAGAIN and time.monotonic() < deadline:
        time.sleep(0.005)
    try:
        yield not refused
    finally:
        if not refused:
            _lease(fd, fcntl.F_UNLCK)


def _lease(fd: int, kind: int) -> int:
    import fcntl

    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, kind)
    except OSError as error:
        return error.errno or errno.EINVAL
    return 0
