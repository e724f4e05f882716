"""Standard streams that the caller has closed."""

from __future__ import annotations

import os
import stat
import sys
from typing import TextIO

__all__ = ["is_pipe", "open_closed"]


def is_pipe(stream: TextIO) -> bool:
    """Whether a stream goes to another command."""
    try:
        return stat.S_ISFIFO(os.fstat(stream.fileno()).st_mode)
    except (OSError, ValueError):  # closed, or none of the operating system's
        return False


def open_closed() -> None:
    """Put the null device where standard input, output or errors are closed, as daemons and ``>&-`` do.

    Otherwise the next file that is opened gets the free number, and what is printed goes into it.
    """
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is not None:
            continue
        try:
            os.fstat(number)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)
        setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", closefd=False))
