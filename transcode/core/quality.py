"""What encoding loses of a tensor, gathered over its tiles."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from math import fsum, log10
from operator import itemgetter
from typing import Generic, TypeVar

from .records import dataclass

__all__ = ["Loss", "Quality", "Tally", "total"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Loss:
    """Sums over some values ``x`` and what is decoded of them, ``y``.

    Attributes:
        signal: sum of ``x**2``.
        noise: sum of ``(x - y)**2``.
        plain: ``noise`` without the search for better scales; None where nothing was searched.
        largest: largest ``|x - y|``.
    """

    signal: float
    noise: float
    plain: float | None
    largest: float

    @property
    def decibels(self) -> float | None:
        """Signal to quantization noise, ``10 log10(signal / noise)``; None where nothing was lost."""
        return 10 * log10(self.signal / self.noise) if self.noise and self.signal else None

    @property
    def gain(self) -> float | None:
        """Decibels that the search for better scales won; None without one."""
        return 10 * log10(self.plain / self.noise) if self.plain and self.noise else None

    def to_json(self) -> dict[str, float | None]:
        """Figures for scripts; ``sqnr_db`` is null where nothing was lost."""
        figures = {"sqnr_db": self.decibels, "largest_error": self.largest}
        return figures if self.plain is None else {**figures, "search_gain_db": self.gain}


def total(losses: Iterable[Loss]) -> Loss | None:
    """All of them as one; None of none. Searched and plain ones may be mixed."""
    every = list(losses)
    if not every:
        return None
    searched = any(one.plain is not None for one in every)
    return Loss(
        fsum(one.signal for one in every),
        fsum(one.noise for one in every),
        fsum(one.noise if one.plain is None else one.plain for one in every) if searched else None,
        max(one.largest for one in every),
    )


class _Tiles(Generic[T]):
    """What is known of each tile of a tensor, by its first row. Thread-safe; in whatever order tiles come."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tiles: dict[int, T] = {}

    def add(self, start: int, known: T) -> None:
        """Note that of the tile that begins at row ``start``; once more, should it be read again."""
        with self._lock:
            self._tiles[start] = known

    def within(self, start: int, stop: int) -> list[tuple[int, T]]:
        """Those of the tiles that begin at rows ``start`` to ``stop``, each with that row, in order."""
        with self._lock:
            return sorted(
                ((row, known) for row, known in self._tiles.items() if start <= row < stop),
                key=itemgetter(0),
            )

    def every(self) -> list[T]:
        """All of them, in the order of rows."""
        with self._lock:
            return [self._tiles[start] for start in sorted(self._tiles)]


class Quality(_Tiles[Loss]):
    """The losses of a tensor's tiles."""

    def total(self) -> Loss | None:
        """The loss of the whole tensor, once all its rows were read; None before the first."""
        return total(self.every())


class Tally(_Tiles[tuple[int, int]]):
    """How many blocks of a tensor's tiles kept every value, and how many there are."""

    def total(self) -> tuple[int, int]:
        """Blocks that kept every value, and all."""
        return sum(exact for exact, _ in self.every()), sum(blocks for _, blocks in self.every())
