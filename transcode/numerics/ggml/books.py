"""What a search in a code book looks up: which of its numbers lie near to any row of codes.

As ``iq2xs_init_impl`` and ``iq3xs_init_impl`` of ``ggml-quants.c`` have them: of a row that the book does not
hold, those numbers whose distance is the least, or among the few least.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .grids import grid

__all__ = ["BOOKS", "LANES", "Book", "How", "book"]

LANES = 16
"""Groups that are searched side by side."""


class How(NamedTuple):
    """How a type is searched: see :func:`.book_search.search`, and ``distances``: how many count as near."""

    distances: int
    size: int
    levels: int
    even: bool
    least: float
    last: int
    delta: float
    held: int
    again: int


_NEXT = 1.401298464324817e-45  # the least number above 0: all but 0 have a scale
BOOKS = {
    "IQ2_XXS": How(2, 32, 3, True, 1e-15, 6, 0.1, 1, 2),
    "IQ2_XS": How(2, 16, 3, True, 1e-15, 9, 0.1, 1, 0),
    "IQ2_S": How(1, 16, 3, False, 1e-8, 9, 0.1, 1, 0),
    "IQ3_XXS": How(2, 32, 8, True, 1e-8, 15, 0.2, 1, 0),
    "IQ3_S": How(3, 32, 8, False, _NEXT, 9, 0.2, 0, 1),
}
"""The types with code books that are searched."""


class Book(NamedTuple):
    """A code book, ready to be searched. A row of codes is a number: its first code is the lowest digit.

    Attributes:
        found: int16 ``[rows]``, which number of the book a row is; -1 where none.
        starts: uint32 ``[rows + 1]``, where the neighbours of each row begin.
        near: int16 ``[n]``, numbers of the book: neighbours, the nearest first, then the lowest.
        halves: uint16 ``[n, 2]``, the first and the second half of the codes of each, as numbers, times
            :data:`LANES`.
        codes: uint8 ``[numbers, width]``, those of each number.
    """

    found: NDArray[np.int16]
    starts: NDArray[np.uint32]
    near: NDArray[np.int16]
    halves: NDArray[np.uint16]
    codes: NDArray[np.uint8]


@cache
def book(name: str) -> Book:
    """That of a type of :data:`BOOKS`."""
    values = grid(name)
    codes = np.searchsorted(np.unique(values), values).astype(np.uint8)
    width, levels = codes.shape[1], BOOKS[name].levels
    rows = np.stack([np.arange(levels**width) // levels**digit % levels for digit in range(width)], 1)
    distances = _distances(rows, codes)
    limits = distances.min(1)
    on = limits == 0
    for _ in range(BOOKS[name].distances - 1):
        further = np.where(distances > limits[:, None], distances, np.inf).min(1)
        limits = np.where(np.isfinite(further), further, limits)
    row, number = np.nonzero((distances <= limits[:, None]) & ~on[:, None])
    order = np.lexsort((number, distances[row, number], row))
    starts = np.searchsorted(row, np.arange(len(rows) + 1)).astype(np.uint32)
    found = np.where(on, distances.argmin(1), -1).astype(np.int16)
    near = number[order]
    digits = levels ** np.arange(width // 2)
    halves = (codes.reshape(-1, 2, width // 2) * digits).sum(2) * LANES
    return Book(found, starts, near.astype(np.int16), halves[near].astype(np.uint16), codes)


def _distances(rows: NDArray[Any], codes: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Squared, float32 ``[rows, numbers]``; whole numbers, and small."""
    a, b = rows.astype(np.float32), codes.astype(np.float32)
    squares = np.square(a).sum(1)[:, None] + np.square(b).sum(1)
    made: NDArray[np.float32] = squares - 2 * (a @ b.T)
    return made
