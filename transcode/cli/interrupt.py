"""Being told to end: Ctrl-C, SIGTERM (as from a job scheduler), SIGHUP (the terminal went away)."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, TypeVar

__all__ = ["insisting", "listen"]

T = TypeVar("T")

_told = False
_others: list[Callable[[Any], Any]] = []


def listen() -> None:
    """From now on each of these signals raises KeyboardInterrupt in the main thread.

    What the caller's caller has set to be ignored, as nohup does with SIGHUP, stays ignored.
    """
    global _told
    _told = False
    if sys.unraisablehook is not _unraisable:
        _others.append(sys.unraisablehook)
        sys.unraisablehook = _unraisable
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, _interrupt)


def _interrupt(number: int, frame: FrameType | None) -> None:
    global _told
    _told = True
    raise KeyboardInterrupt


def _unraisable(lost: sys.UnraisableHookArgs) -> None:
    """Say nothing of a lost interrupt, which :func:`insisting` repeats; all else as before."""
    if not (_told and issubclass(lost.exc_type, KeyboardInterrupt)):
        _others[-1](lost)


def insisting(update: Callable[[T], Any] | None) -> Callable[[T], None]:
    """A progress callback that raises KeyboardInterrupt where the first one was lost.

    An exception in a callback from C, of which the compiler of kernels has many, is lost.
    """

    def checked(now: T) -> None:
        if _told:
            raise KeyboardInterrupt
        if update is not None:
            update(now)

    return checked
