"""Standard streams that the caller has closed."""

from __future__ import annotations

import os
import sys

__all__ = ["open_closed"]


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
