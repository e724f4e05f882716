"""A look at all rows of a tensor that must come before its first row can be encoded."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from .scratch import Scratch
from .spec import Spec

__all__ = ["Abandoned", "Observation"]

S = TypeVar("S")


class Abandoned(RuntimeError):
    """A look at a tensor that somebody waited for was given up: the error that ended it is elsewhere."""


class Observation(Generic[S]):
    """Statistics of a whole tensor, gathered tile by tile and remembered.

    ``merge`` must be exact, associative and commutative (a maximum is), so that neither the number of
    workers nor the size of tiles changes the result.

    Args:
        spec: facts of the tensor looked at.
        tiles: the row ranges to look at, given a tile size in bytes.
        look: statistics of rows ``start`` to ``stop``.
        merge: joins two statistics.
    """

    def __init__(
        self,
        spec: Spec,
        tiles: Callable[[int], Iterator[tuple[int, int]]],
        look: Callable[[int, int, Scratch], S],
        merge: Callable[[S, S], S],
    ) -> None:
        self.spec = spec
        self.tiles = tiles
        self._look = look
        self._merge = merge
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

    def see(self, start: int, stop: int, scratch: Scratch) -> None:
        """Look at one scheduled tile."""
        try:
            seen = self._look(start, stop, scratch)
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

    def value(self, scratch: Scratch) -> S:
        """The statistics of the whole tensor: waits for scheduled tiles, else looks for itself."""
        with self._changed:
            if self._pending is not None and not self._done:
                self._changed.wait_for(lambda: self._done or self._failed)
            if self._failed:
                raise Abandoned("the look at a tensor was abandoned")
            if not self._done:
                own = Scratch()
                for start, stop in self.tiles(4 << 20):
                    own.reset()
                    self._add(self._look(start, stop, own))
                self._done = True
            assert self._seen is not None
            return self._seen

    def _add(self, seen: S) -> None:
        self._seen = seen if self._seen is None else self._merge(self._seen, seen)
