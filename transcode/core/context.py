"""All that is alive while a plan is carried out; plans themselves hold none of it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .kept import Held, Kept, T
from .quality import Quality
from .scratch import Scratch
from .statistic import Observation, S, Statistic

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Context", "Run"]

_DECODED = 8
"""Tensors whose scales are held at once: enough for the workers not to read them again for each tile."""


class Run:
    """What the workers of one run share. Thread-safe.

    Attributes:
        factors: small matrices of adapters.
        scales: small parts of tensors that are decoded.
    """

    def __init__(self) -> None:
        self.factors = Kept()
        self.scales = Kept(0, _DECODED)
        self._lock = threading.Lock()
        self._observations: dict[Statistic[Any], Observation[Any]] = {}
        self._losses: dict[int, Quality] = {}

    def observation(self, statistic: Statistic[S]) -> Observation[S]:
        """The look that finds a statistic: one for all who want to know it."""
        with self._lock:
            if statistic not in self._observations:
                self._observations[statistic] = Observation(statistic)
            return self._observations[statistic]

    def loss(self, number: int) -> Quality:
        """Where the losses of a tensor are gathered, which is known by a number."""
        with self._lock:
            return self._losses.setdefault(number, Quality())


class Context(Scratch):
    """A worker's memory for the tile that it is at, and the run that it works for.

    Args:
        allocate: as for :class:`~.scratch.Scratch`.
        run: shared with others; one of its own without it.
    """

    def __init__(
        self, allocate: Callable[[int], NDArray[np.uint8]] | None = None, *, run: Run | None = None
    ) -> None:
        super().__init__(allocate)
        self.run = run or Run()

    def inner(self) -> Context:
        """Memory of its own for what is emptied more often than the tile changes."""
        return Context(run=self.run)

    def held(self, one: Held[T]) -> T:
        """``one.matrix()``, which the run remembers."""
        return self.run.factors.get(one, one.matrix)

    def value(self, statistic: Statistic[S]) -> S:
        """A statistic of a whole tensor, see :meth:`.statistic.Observation.value`."""
        return self.run.observation(statistic).value(self)
