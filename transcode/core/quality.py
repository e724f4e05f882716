"""What encoding loses of a tensor, gathered over its tiles."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from math import fsum, log10

__all__ = ["Loss", "Quality", "Tally", "total"]


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


class Quality:
    """The losses of a tensor's tiles. Thread-safe; the order in which tiles come changes nothing."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tiles: dict[int, Loss] = {}

    def add(self, start: int, loss: Loss) -> None:
        """Note the loss of the tile that begins at row ``start``; once more, should it be read again."""
        with self._lock:
            self._tiles[start] = loss

    def within(self, start: int, stop: int) -> list[tuple[int, Loss]]:
        """The tiles that begin at rows from ``start`` up to ``stop``, each with that row."""
        with self._lock:
            return sorted((row, loss) for row, loss in self._tiles.items() if start <= row < stop)

    def total(self) -> Loss | None:
        """The loss of the whole tensor, once all its rows were read; None before the first."""
        with self._lock:
            return total(self._tiles[start] for start in sorted(self._tiles))


class Tally:
    """How many blocks of a tensor kept every value, counted over its tiles. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tiles: dict[int, tuple[int, int]] = {}

    def add(self, start: int, exact: int, blocks: int) -> None:
        """Note the blocks of the tile that begins at row ``start``; once more, should it be read again."""
        with self._lock:
            self._tiles[start] = exact, blocks

    def total(self) -> tuple[int, int]:
        """Blocks that kept every value, and all."""
        with self._lock:
            exact, blocks = zip(*self._tiles.values(), strict=True) if self._tiles else ((), ())
            return sum(exact), sum(blocks)
