"""The jobs of a plan: tiles of rows, looks at whole tensors, and bytes that only move."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from ..core.context import Context, Observation, Run, Statistic
from ..core.performance import MIN_TILE
from ..core.tensor import LazyTensor
from ..errors import PlanError, TranscodeError
from ..plan.plan import Plan
from ..voice import called
from . import journal
from .moves import Move, cut, moves

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..io.remote.ahead import Expected

__all__ = ["Job", "Jobs", "Writer"]


_AHEAD = 16
"""Looks at other tensors between those at a small one and its encoding: as many as workers may have in hand.
Not where bytes come from elsewhere, or leave in order: what is looked at is kept until it is encoded.
"""

Job = Callable[[Context], int]
"""One tile's work; returns the source bytes it dealt with."""


class Writer(Protocol):
    """Places bytes in the files of a plan; safe to call from any thread."""

    def write(self, file: int, offset: int, data: NDArray[np.uint8]) -> None:
        """Write ``data`` at a byte of a file, given by its number in the plan."""

    def copy(self, move: Move) -> int:
        """Have the system copy bytes of the source; returns how many it did, from the first on."""


class Jobs:
    """The jobs of a plan in reading order, handed to whichever worker asks next.

    A tensor's observation tiles come a tensor ahead of its encoding, and of small tensors a number of tiles,
    so that a worker rarely waits for the last tile of a look that another one still has in hand. Such a wait
    cannot deadlock: what is waited for was handed out before, and observing waits for nothing.

    What only moves is a row of its own beside them, of which one worker at a time takes the next: the system
    copies into a file no faster for several, and they would wait for each other in it.
    """

    def __init__(
        self,
        plan: Plan,
        writer: Writer,
        tile_bytes: int,
        run: Run,
        ledger: journal.Ledger,
        order: Sequence[int] | None = None,
    ) -> None:
        self._plan = plan
        self._order = range(len(plan.tensors)) if order is None else order
        self._ledger = ledger
        self._writer = writer
        self._tile_bytes = tile_bytes
        self._run = run
        self._places = plan.destinations()
        self._lock = threading.Lock()
        # Where the order counts, nothing goes a way of its own.
        every, self._moved = moves(plan, self._places) if order is None else ([], {})
        left = [piece for move in every for piece in self._left(move)]
        self._moves = (step for move in left for step in cut(move))
        self._moving = False
        self._goes_ahead = order is None and not plan.elsewhere
        self._jobs = self._generate()
        self.observations: list[Observation[Any]] = []
        self._wanted: Counter[Statistic[Any]] = Counter()
        self._tiles_left: dict[int, int] = {}
        self._recall()
        asked = sum(
            end - begin
            for move in every
            for begin, end in ledger.asked(journal.moved(move.file), move.offset, move.offset + move.nbytes)
        )
        self.total = asked + self._values(whole=True)
        self.resumed = self.total - sum(move.nbytes for move in left) - self._values(whole=False)

    def next(self) -> Job | None:
        """What a worker does next; None where nothing is left for it."""
        with self._lock:
            if not self._moving and (move := next(self._moves, None)) is not None:
                self._moving = True
                return partial(self._move, move)
            return next(self._jobs, None)

    def ahead(self) -> Expected | None:
        """What is still to be read of files that lie elsewhere; None where all are here."""
        if not self._plan.elsewhere:
            return None
        from ..io.remote.ahead import Expected  # most sources are here
        from ..plan.transfer import ranges

        return Expected(
            ranges(
                self._plan.tensors[number]
                for number in self._order
                if not self._plan.tensors[number].spec.nbytes or self._spans(number)
            )
        )

    def _recall(self) -> None:
        """Take over what an earlier run found of what it did.

        Raises:
            PlanError: it did some, and measured nothing.
        """
        for number, tensor in enumerate(self._plan.tensors):
            key, known = journal.values(number), self._ledger.findings
            if tensor.recoded is not None:
                for row, blocks in known.counts.get(key, ()):
                    self._run.tally(tensor.recoded).add(row, blocks)
            if tensor.measured is None:
                continue
            if self._ledger.is_begun(key) and key not in known.losses:
                raise PlanError(
                    "what the interrupted run did was not measured",
                    file=self._plan.destination,
                    hint=f"leave {called('measure')} out, or {called('resume')} to start anew",
                )
            for row, loss in known.losses.get(key, ()):
                self._run.loss(tensor.measured).add(row, loss)

    def _values(self, *, whole: bool) -> int:
        """Bytes of values that tiles count: once, and once more where an observation comes first.

        Args:
            whole: all that is asked for; else what an earlier run has left of it.
        """
        observed: dict[Statistic[Any], int] = {}
        count = 0
        for number, tensor in enumerate(self._plan.tensors):
            key, nbytes = journal.values(number), tensor.spec.nbytes
            spans = self._ledger.asked(key, 0, nbytes) if whole else self._spans(number)
            left = sum(end - begin for begin, end in spans)
            if left or not nbytes:
                observed.update((one, one.spec.nbytes) for one in tensor.needs)
            if not self._is_moved(number):
                count += left
        return sum(observed.values()) + count

    def _spans(self, number: int) -> list[tuple[int, int]]:
        """The bytes of a tensor's values that are to be dealt with."""
        return self._ledger.missing(journal.values(number), 0, self._plan.tensors[number].spec.nbytes)

    def _left(self, move: Move) -> Iterator[Move]:
        """The pieces of a move that are to be made."""
        for begin, end in self._ledger.missing(
            journal.moved(move.file), move.offset, move.offset + move.nbytes
        ):
            skipped = begin - move.offset
            yield replace(move, begin=move.begin + skipped, offset=begin, nbytes=end - begin)

    def _is_moved(self, number: int) -> bool:
        """Whether no part of a tensor is left to tiles."""
        return len(self._moved.get(number, ())) == len(self._plan.tensors[number].parts)

    def _move(self, move: Move, context: Context) -> int:
        try:
            done = self._writer.copy(move)
            while done < move.nbytes:  # the system cannot
                context.reset()
                context.untouched = True
                begin = move.begin + done
                size = min(move.nbytes - done, max(self._tile_bytes, MIN_TILE))
                data = move.source.bytes(begin, begin + size, context)
                self._writer.write(move.file, move.offset + done, data)
                done += size
            self._ledger.note(journal.moved(move.file), move.offset, move.offset + move.nbytes)
            return move.nbytes
        finally:
            self._moving = False

    def _generate(self) -> Iterator[Job]:
        seen: set[Statistic[Any]] = set()
        waiting: deque[tuple[int, int, LazyTensor]] = deque()
        looks = 0
        ahead = _AHEAD if self._goes_ahead else 0
        left = [number for number in self._order if not self._is_whole(number)]
        self._wanted.update(
            one for number in left if not self._is_moved(number) for one in self._plan.tensors[number].needs
        )
        for number in left:
            tensor = self._plan.tensors[number]
            for statistic in tensor.needs:
                if statistic not in seen:
                    seen.add(statistic)
                    for job in self._looks(self._run.observation(statistic)):
                        looks += 1
                        yield partial(_naming, tensor, job)
            if not self._is_moved(number):
                waiting.append((looks if tensor.needs else -ahead, number, tensor))
            while len(waiting) > 1 and looks - waiting[0][0] >= ahead:
                yield from self._tiles(*waiting.popleft()[1:])
        while waiting:
            yield from self._tiles(*waiting.popleft()[1:])

    def _is_whole(self, number: int) -> bool:
        """Whether an earlier run has made all of a tensor."""
        return self._plan.tensors[number].spec.nbytes > 0 and not self._spans(number)

    def _made(self, number: int) -> None:
        """After each tile of a tensor: with the last one, forget what was to be known of whole tensors for it
        and is for no other.
        """
        needs = self._plan.tensors[number].needs
        with self._lock:
            self._tiles_left[number] -= 1
            if self._tiles_left[number]:
                return
            self._wanted.subtract(needs)
            idle = [one for one in needs if not self._wanted[one]]
        for statistic in idle:
            self._run.forget(statistic)

    def _looks(self, observation: Observation[Any]) -> Iterator[Job]:
        spec = observation.statistic.spec
        tiles = list(observation.statistic.tiles(self._tile_bytes))
        observation.schedule(len(tiles))
        self.observations.append(observation)
        for start, stop in tiles:

            def job(context: Context, start: int = start, stop: int = stop) -> int:
                observation.see(start, stop, context)
                return spec.row_offset(stop) - spec.row_offset(start)

            yield job

    def _tiles(self, number: int, tensor: LazyTensor) -> Iterator[Job]:
        places = {part.role: self._places[number, part.role] for part in tensor.parts}
        moved = self._moved.get(number, frozenset())
        tensor = tensor.cut(self._tile_bytes)
        untouched = places.keys() <= tensor.value.extents().keys()
        key, spec = journal.values(number), tensor.spec
        tiles = [
            tile
            for begin, end in self._spans(number)
            for tile in tensor.tiles(self._tile_bytes, spec.row_of(begin), spec.row_of(end - 1) + 1)
        ]
        self._tiles_left[number] = len(tiles)
        for start, stop in tiles:

            def job(context: Context, start: int = start, stop: int = stop) -> int:
                context.untouched = untouched
                context.moved = moved
                for piece in tensor.read(start, stop, context):
                    if piece.role in moved:
                        continue
                    file, base = places[piece.role]
                    raw = piece.data.reshape(-1).view("u1")
                    self._writer.write(file, base + piece.offset, raw)
                begin, end = tensor.spec.row_offset(start), tensor.spec.row_offset(stop)
                measured, recoded = tensor.measured, tensor.recoded
                lost = () if measured is None else self._run.loss(measured).within(start, stop)
                counted = () if recoded is None else self._run.tally(recoded).within(start, stop)
                self._ledger.note(key, begin, end, lost, counted)
                self._made(number)
                return end - begin

            yield partial(_naming, tensor, job)


def _naming(tensor: LazyTensor, job: Job, context: Context) -> int:
    """A job, whose errors say which of two models' tensors of one name it was at."""
    try:
        return job(context)
    except TranscodeError as error:
        error.found_in(tensor.name, tensor.source)
        raise
