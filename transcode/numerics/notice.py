"""A word to the user when kernels must be compiled, or cannot be kept. Does not load the compiler."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["compile_starts", "compiling", "on_trouble", "trouble"]

_tell: Callable[[], None] | None = None
_warn: Callable[[str], None] | None = None
_told_of_trouble = False


@contextmanager
def compiling(tell: Callable[[], None]) -> Iterator[None]:
    """Call ``tell`` once if a kernel has to be compiled in this block, just before that starts.

    Kernels that come from the cache do not count.
    """
    global _tell
    before, _tell = _tell, tell
    try:
        yield
    finally:
        _tell = before


def compile_starts() -> None:
    """Called by the compiler's side."""
    global _tell
    tell, _tell = _tell, None
    if tell is not None:
        tell()


def on_trouble(warn: Callable[[str], None]) -> None:
    """From now on ``warn`` is given what is wrong with the kept kernels, instead of Python's warnings."""
    global _warn
    _warn = warn


def trouble(text: str) -> None:
    """Called by the compiler's side: its cache does not work. The first word serves for all."""
    global _told_of_trouble
    if _told_of_trouble:
        return
    _told_of_trouble = True
    if _warn is not None:
        _warn(text)
    else:
        warnings.warn(text, RuntimeWarning, stacklevel=2)
