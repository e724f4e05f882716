"""A look at all rows of a tensor that must come before its first row can be encoded."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, Generic, TypeVar

from .spec import Spec
from .value import Value

if TYPE_CHECKING:
    from .context import Context

__all__ = ["Abandoned", "Observation", "S", "Statistic"]

S = TypeVar("S")


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
