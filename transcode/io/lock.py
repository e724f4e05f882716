"""One editor at a time."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import TranscodeError
from .system import try_lock

__all__ = ["Busy", "locked"]


class Busy(TranscodeError):
    """Another process is editing the file."""


@contextmanager
def locked(path: str, *, wait: float) -> Iterator[int]:
    """Open a file for reading and writing under an exclusive lock, and close it at the end.

    The lock (flock(2)) is on the file itself, so it leaves nothing behind and dies with its holder. Readers
    are not kept out: what they see is the business of the undo records of edits.

    Args:
        path: without links in it.
        wait: seconds to wait for another editor.

    Raises:
        Busy: another editor did not finish in time.
        OSError: the file cannot be opened for writing.
    """
    deadline = time.monotonic() + wait
    while True:
        fd = os.open(path, os.O_RDWR | getattr(os, "O_BINARY", 0))
        try:
            # A file that another editor has replaced meanwhile is not the one to lock.
            if try_lock(fd) and os.path.samestat(os.fstat(fd), os.stat(path)):
                yield fd
                return
        finally:
            os.close(fd)
        # Closed while waiting, because the editor may need to be the only one who has the file open.
        if time.monotonic() >= deadline:
            raise Busy("another process is editing this file", file=path, hint="wait until it has finished")
        time.sleep(0.02)
