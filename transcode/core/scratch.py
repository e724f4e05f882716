"""Memory that one worker uses again for every tile."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import TYPE_CHECKING

from .types import Array

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import DTypeLike, NDArray

__all__ = ["Scratch"]

_ALIGN = 64


class Scratch:
    """A bump allocator over one block that grows to the largest tile seen and stays.

    The first touch of fresh memory costs as much as several passes over warm memory, so tiles are never
    allocated anew: a stage takes what it needs, and the worker empties the whole block before its next tile.
    Arrays taken are therefore valid until the worker's next :meth:`reset`, and are not zeroed.

    Args:
        allocate: makes a block of so many bytes, where it must be memory of a special kind.

    Attributes:
        untouched: what a reader yields for this tile is only handed to system calls, never looked at by the
            process itself, which pages of a file that was cut would kill.
        read: one number: the bytes of files that readers gave since somebody set it to 0.
    """

    def __init__(self, allocate: Callable[[int], NDArray[np.uint8]] | None = None) -> None:
        self.untouched = False
        self.read = [0]
        self._allocate = allocate or _ordinary
        self._block: NDArray[np.uint8] = _ordinary(0)
        self._used = 0
        self._overflow = 0
        self._borrowed: list[Callable[[], None]] = []

    def __del__(self) -> None:
        if hasattr(self, "_borrowed"):  # else an interrupt came while it was made
            self._give_back()

    def borrow(self, give_back: Callable[[], None]) -> None:
        """Note what is to be called when arrays that were lent for this tile are not looked at any more."""
        self._borrowed.append(give_back)

    def take(self, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        """An uninitialised C-contiguous array, aligned to a cache line."""
        import numpy as np

        kind = np.dtype(dtype)
        nbytes = prod(shape) * kind.itemsize
        start = self._used
        end = start + nbytes
        self._used = end + (-end % _ALIGN)
        if self._used > self._block.nbytes:
            # Served from fresh memory this once; the block is enlarged at the next reset, when nobody
            # holds a view of it.
            self._overflow = max(self._overflow, self._used)
            return np.empty(shape, kind)
        return self._block[start:end].view(kind).reshape(shape)

    def reset(self) -> None:
        """Take all arrays back, and give back what was borrowed."""
        self._give_back()
        self.untouched = False
        if self._overflow:
            self._block = _ordinary(0)  # let go of the old block first: never hold both
            raw = self._allocate(self._overflow + _ALIGN)
            skip = -raw.ctypes.data % _ALIGN
            self._block = raw[skip : skip + self._overflow]
            self._overflow = 0
        self._used = 0

    def _give_back(self) -> None:
        while self._borrowed:
            self._borrowed.pop()()


def _ordinary(nbytes: int) -> NDArray[np.uint8]:
    import numpy as np  # here and above: commands that look at facts alone do without

    return np.empty(nbytes, np.uint8)
