"""A word to the user when kernels have to be compiled, which takes seconds. Does not load the compiler."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["compile_starts", "compiling"]

_tell: Callable[[], None] | None = None


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
