"""Being told to end: Ctrl-C, SIGTERM (as from a job scheduler), SIGHUP (the terminal went away)."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, TypeVar

__all__ = ["insisting", "is_behind", "listen"]

T = TypeVar("T")

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP")
PATIENCE = 2.0
"""Seconds after a signal in which others are taken for the same: what it began must be able to clean up."""

_told = False
_since = float("-inf")
_others: list[Callable[[Any], Any]] = []


def listen() -> None:
    """From now on each of these signals raises KeyboardInterrupt in the main thread.

    Pressed twice at once it counts once; pressed again after :data:`PATIENCE` it ends what still cleans up.
    What the caller's caller has set to be ignored, as nohup does with SIGHUP, stays ignored.
    """
    global _told, _since
    _told, _since = False, float("-inf")
    if sys.unraisablehook is not _unraisable:
        _others.append(sys.unraisablehook)
        sys.unraisablehook = _unraisable
    for name in _NAMES:
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, _interrupt)


def _interrupt(number: int, frame: FrameType | None) -> None:
    global _told, _since
    _told = True
    now = time.monotonic()
    if now - _since >= PATIENCE:
        _since = now
        raise KeyboardInterrupt


def is_behind(error: BaseException) -> bool:
    """Whether an error comes of an interrupt: Python 3.11 makes RuntimeError of what ``__set_name__`` raises,
    some make ImportError of what a module raises.
    """
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, KeyboardInterrupt):
        cause = cause.__cause__ or cause.__context__
    return cause is not None


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
