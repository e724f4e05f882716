"""One editor at a time."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from ..errors import TranscodeError
from . import system

__all__ = ["Busy", "locked"]


_FLAGS = os.O_RDWR | getattr(os, "O_BINARY", 0)


class Busy(TranscodeError):
    """Another process is editing the file."""


@contextmanager
def locked(path: str, *, wait: float) -> Iterator[int]:
    """Open a file for reading and writing under an exclusive lock, and close it at the end.

    The lock (flock(2)) is on the file itself, so it leaves nothing behind and dies with its holder. Readers
    are not kept out: what they see is the business of the undo records of edits. A lock of Windows would keep
    them out, so there it is on a hidden file beside it, which goes with the lock.

    Args:
        path: without links in it.
        wait: seconds to wait for another editor.

    Raises:
        Busy: another editor did not finish in time.
        OSError: the file cannot be opened for writing.
    """
    deadline = time.monotonic() + wait
    while True:
        # Closed while waiting, because the editor may need to be the only one who has the file open.
        with _lock_beside(path) if system.WINDOWS else _lock_itself(path) as fd:
            if fd is not None:
                yield fd
                return
        if time.monotonic() >= deadline:
            raise Busy("another process is editing this file", file=path, hint="wait until it has finished")
        time.sleep(0.02)


@contextmanager
def _lock_itself(path: str) -> Iterator[int | None]:
    fd = os.open(path, _FLAGS)
    try:
        # A file that another editor has replaced meanwhile is not the one to lock.
        yield fd if system.try_lock(fd) and os.path.samestat(os.fstat(fd), os.stat(path)) else None
    finally:
        os.close(fd)


@contextmanager
def _lock_beside(path: str) -> Iterator[int | None]:
    folder, name = os.path.split(path)
    beside = os.path.join(folder, f".{name}.transcode-lock")
    try:
        lock = os.open(beside, _FLAGS | os.O_CREAT, 0o600)
    except PermissionError:
        if not os.path.lexists(beside):
            raise
        yield None  # whoever had it is just removing it
        return
    try:
        if system.try_lock(lock):
            fd = os.open(path, _FLAGS)
            try:
                yield fd
            finally:
                os.close(fd)
                system.unlock(lock)
        else:
            yield None
    finally:
        os.close(lock)
        with suppress(OSError):  # somebody waits for it, and removes it
            os.unlink(beside)
