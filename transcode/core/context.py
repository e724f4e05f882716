"""All that is alive while a plan is carried out, looks at whole tensors among it; plans hold none of it."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from .cache import CachedMatrix, MatrixCache, T
from .quality import Quality, Tally
from .scratch import Scratch
from .spec import Spec
from .value import Value

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Abandoned", "Context", "Observation", "Run", "Statistic"]

S = TypeVar("S")

_DECODED = 8
"""Tensors whose scales are held at once: enough for the workers not to read them again for each tile."""


class Run:
    """What the workers of one run share. Thread-safe.

    Attributes:
        factors: small matrices of adapters.
        scales: small parts of tensors that are decoded.
        rehearses: whether all that counts is which values are refused: nothing is searched or measured.
    """

    def __init__(self, *, rehearses: bool = False) -> None:
        self.rehearses = rehearses
        self.factors = MatrixCache()
        self.scales = MatrixCache(0, _DECODED)
        self._lock = threading.Lock()
        self._observations: dict[Statistic[Any], Observation[Any]] = {}
        self._losses: dict[int, Quality] = {}
        self._tallies: dict[int, Tally] = {}

    def observation(self, statistic: Statistic[S]) -> Observation[S]:
        """The look that finds a statistic: one for all who want to know it."""
        with self._lock:
            if statistic not in self._observations:
                self._observations[statistic] = Observation(statistic)
            return self._observations[statistic]

    def forget(self, statistic: Statistic[Any]) -> None:
        """Let go of what a look has found: nobody is going to ask. Who does all the same looks again."""
        with self._lock:
            observation = self._observations.pop(statistic, None)
        if observation is not None:
            observation.forget()

    def loss(self, number: int) -> Quality:
        """Where the losses of a tensor are gathered, which is known by a number."""
        with self._lock:
            return self._losses.setdefault(number, Quality())

    def tally(self, number: int) -> Tally:
        """Where the blocks of a tensor are counted, which is known by a number."""
        with self._lock:
            return self._tallies.setdefault(number, Tally())


class Context(Scratch):
    """A worker's memory for the tile that it is at, and the run that it works for.

    Args:
        allocate: as for :class:`~.scratch.Scratch`.
        run: shared with others; one of its own without it.

    Attributes:
        moved: roles of parts that are copied from file to file: their pieces are not wanted.
    """

    def __init__(
        self, allocate: Callable[[int], NDArray[np.uint8]] | None = None, *, run: Run | None = None
    ) -> None:
        super().__init__(allocate)
        self.run = run or Run()
        self.moved: frozenset[str] = frozenset()

    def reset(self) -> None:
        """See :meth:`.scratch.Scratch.reset`; all parts are wanted again."""
        super().reset()
        self.moved = frozenset()

    def inner(self) -> Context:
        """Memory of its own for what is emptied more often than the tile changes."""
        inner = Context(run=self.run)
        inner.read = self.read
        return inner

    def held(self, one: CachedMatrix[T]) -> T:
        """``one.matrix()``, which the run remembers."""
        return self.run.factors.get(one, one.matrix)

    def value(self, statistic: Statistic[S]) -> S:
        """A statistic of a whole tensor, see :meth:`.context.Observation.value`."""
        return self.run.observation(statistic).value(self)


class Abandoned(RuntimeError):
    """A look at a tensor that somebody waited for was given up: the error that ended it is elsewhere."""


class Statistic(Value, ABC, Generic[S]):
    """What is to be known of a whole tensor, as a value: implementations are frozen dataclasses.

    :meth:`merge` must be exact, associative and commutative (a maximum is), so that neither the number of
    workers nor the size of tiles changes the result.
    """

    @property
    @abstractmethod
    def spec(self) -> Spec:
        """Facts of the tensor looked at."""

    @abstractmethod
    def tiles(self, nbytes: int) -> Iterator[tuple[int, int]]:
        """The row ranges to look at, given a tile size in bytes."""

    @abstractmethod
    def look(self, start: int, stop: int, context: Context) -> S:
        """That of rows ``start`` to ``stop``."""

    @abstractmethod
    def merge(self, one: S, other: S) -> S:
        """That of two sets of rows."""


class Observation(Generic[S]):
    """The look that finds a statistic, tile by tile, and remembers it."""

    def __init__(self, statistic: Statistic[S]) -> None:
        self.statistic = statistic
        self._seen: S | None = None
        self._done = False
        self._pending: int | None = None
        self._failed = False
        self._changed = threading.Condition()

    def schedule(self, tiles: int) -> None:
        """Promise that :meth:`see` will be called for that many tiles: :meth:`value` then waits for them."""
        with self._changed:
            if not self._done:
                self._pending = tiles
                self._failed = False
                self._seen = None

    def see(self, start: int, stop: int, context: Context) -> None:
        """Look at one scheduled tile."""
        try:
            seen = self.statistic.look(start, stop, context)
        except BaseException:
            self.cancel()
            raise
        with self._changed:
            self._add(seen)
            assert self._pending is not None
            self._pending -= 1
            if self._pending == 0:
                self._done = True
                self._changed.notify_all()

    def cancel(self) -> None:
        """Wake whoever waits; they raise Abandoned. Does nothing to a complete observation."""
        with self._changed:
            self._failed = not self._done
            self._pending = None
            self._changed.notify_all()

    def forget(self) -> None:
        """Be as before the look."""
        with self._changed:
            self._seen, self._done, self._pending = None, False, None

    def value(self, context: Context) -> S:
        """The statistics of the whole tensor: waits for scheduled tiles, else looks for itself."""
        with self._changed:
            if self._pending is not None and not self._done:
                self._changed.wait_for(lambda: self._done or self._failed)
            if self._failed:
                raise Abandoned("the look at a tensor was abandoned")
            if not self._done:
                own = context.inner()
                for start, stop in self.statistic.tiles(4 << 20):
                    own.reset()
                    self._add(self.statistic.look(start, stop, own))
                self._done = True
            assert self._seen is not None
            return self._seen

    def _add(self, seen: S) -> None:
        self._seen = seen if self._seen is None else self.statistic.merge(self._seen, seen)
