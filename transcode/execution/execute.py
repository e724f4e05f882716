"""Carrying out a plan: tiles of rows through the transforms to their offsets, on any number of workers."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from contextvars import copy_context
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from ..core.context import Abandoned, Context, Observation, Run, Statistic
from ..core.performance import MIN_TILE
from ..core.quality import Loss, total
from ..core.shown import Overview, Shown
from ..core.tensor import LazyTensor
from ..core.text import count, size
from ..errors import PlanError, TranscodeError
from ..io.remote.ahead import Expected, Range
from ..plan.plan import Plan
from ..plan.transfer import ranges
from ..voice import called
from . import journal
from .checksums import Digests
from .moves import Move, cut, moves
from .pace import Pace

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Progress", "Report", "Writer", "by_scheme", "execute"]


class Writer(Protocol):
    """Places bytes in the files of a plan; safe to call from any thread."""

    def write(self, file: int, offset: int, data: NDArray[np.uint8]) -> None:
        """Write ``data`` at a byte of a file, given by its number in the plan."""

    def copy(self, move: Move) -> int:
        """Have the system copy bytes of the source; returns how many it did, from the first on."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is: bytes of values dealt with, of all; what is going on; seconds since it began."""

    done: int
    total: int
    stage: str
    seconds: float


@dataclass(frozen=True, repr=False)
class Report(Shown):
    """What a run did."""

    plan: Plan
    seconds: float
    bytes_read: int
    """Bytes of the source's tensors read, observation passes included."""
    bytes_written: int
    """Bytes of the weight files written, headers included."""

    measured: Mapping[str, tuple[str, Loss]] = field(default_factory=dict)
    recoded: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Of tensors of which codes became those of another scheme: blocks that kept every value, and all."""
    checksums: Digests | None = None
    """SHA-256 of all that was written, where that was asked for."""
    resumed: int = 0
    """Bytes of values that an earlier run of the plan, which was interrupted, had dealt with."""

    def overview(self) -> Overview:
        """What was done, how fast, and what it lost."""
        plan = self.plan.overview()
        rate = f" ({size(self.bytes_read / self.seconds)}/s)" if self.seconds else ""
        lines = list(plan.lines)
        if self.resumed:
            lines.append(f"went on behind {size(self.resumed)} that an interrupted run had done")
        for scheme, (number, loss) in list(by_scheme(self.measured).items())[:8]:
            lost = "exact" if loss.decibels is None else f"{loss.decibels:.2f} dB"
            lines.append(f"{scheme}: SQNR {lost} of {count(number, 'tensor')}")
        if self.recoded:
            lines.append(self.kept_blocks)
        head = f"Report {self.plan.source} -> {self.plan.destination}, in {self.seconds:.1f} s{rate}"
        return Overview(head, lines, plan.tables)

    @property
    def kept_blocks(self) -> str:
        """How many blocks kept every value where codes became those of another scheme."""
        exact, blocks = (sum(one) for one in zip(*self.recoded.values(), strict=True))
        return f"lossless: {exact:,} of {blocks:,} blocks of {count(len(self.recoded), 'tensor')}"

    def losses(self) -> dict[str, tuple[str, Loss]]:
        """Scheme and loss of every tensor that was measured, by its name."""
        return dict(self.measured)

    def to_json(self) -> dict[str, Any]:
        """The plan's facts and the run's figures, for scripts; losses where they were measured."""
        report = self.plan.to_json()
        losses = self.losses()
        for entry in report["tensors"]:
            if entry["name"] in self.recoded:
                exact, blocks = self.recoded[entry["name"]]
                entry["recoded"] = {"blocks": blocks, "exact": exact}
            if entry["name"] in losses:
                entry["loss"] = losses[entry["name"]][1].to_json()
        if losses:
            report["losses"] = {scheme: loss.to_json() for scheme, (_, loss) in by_scheme(losses).items()}
        if self.checksums is not None:
            report["checksums"] = self.checksums.to_json()
        return {
            **report,
            "seconds": round(self.seconds, 3),
            "bytes_read": self.bytes_read,
            "bytes_written": self.bytes_written,
            "bytes_resumed": self.resumed,
        }


def by_scheme(losses: Mapping[str, tuple[str, Loss]]) -> dict[str, tuple[int, Loss]]:
    """For each scheme how many tensors were measured, and what was lost of all of them together."""
    groups: dict[str, list[Loss]] = {}
    for scheme, loss in losses.values():
        groups.setdefault(scheme, []).append(loss)
    return {scheme: (len(group), joined) for scheme, group in groups.items() if (joined := total(group))}


Job = Callable[[Context], int]
"""One tile's work; returns the source bytes it dealt with."""


class _Jobs:
    """The jobs of a plan in reading order, handed to whichever worker asks next.

    A tensor's observation tiles come one tensor ahead of its encoding, so that a worker rarely waits for
    the last tile of a look that another one still has in hand. Such a wait cannot deadlock: what is waited
    for was handed out before, and observing waits for nothing.

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
        order: Sequence[int] | None,
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
        self._jobs = self._generate()
        self.observations: list[Observation[Any]] = []
        self._recall()
        self.total = sum(move.nbytes for move in every) + self._values(whole=True)
        self.resumed = self.total - sum(move.nbytes for move in left) - self._values(whole=False)

    def next(self) -> Job | None:
        """What a worker does next; None where nothing is left for it."""
        with self._lock:
            if not self._moving and (move := next(self._moves, None)) is not None:
                self._moving = True
                return partial(self._move, move)
            return next(self._jobs, None)

    def ranges(self) -> Iterator[Range]:
        """What is still to be read of files that lie elsewhere."""
        if all(one.path is not None for one in self._plan.inputs):
            return iter(())
        return ranges(
            self._plan.tensors[number]
            for number in self._order
            if not self._plan.tensors[number].spec.nbytes or self._spans(number)
        )

    def _recall(self) -> None:
        """Take over what an earlier run measured of what it did.

        Raises:
            PlanError: it did some, and measured nothing.
        """
        for number, tensor in enumerate(self._plan.tensors):
            if tensor.measured is None:
                continue
            key = journal.values(number)
            if self._ledger.is_begun(key) and key not in self._ledger.losses:
                raise PlanError(
                    "what the interrupted run did was not measured",
                    file=self._plan.destination,
                    hint=f"leave {called('measure')} out, or {called('resume')} to start anew",
                )
            for row, loss in self._ledger.losses.get(key, ()):
                self._run.loss(tensor.measured).add(row, loss)

    def _values(self, *, whole: bool) -> int:
        """Bytes of values that tiles count: once, and once more where an observation comes first.

        Args:
            whole: of the plan; else of what an earlier run has left of it.
        """
        observed: dict[Statistic[Any], int] = {}
        count = 0
        for number, tensor in enumerate(self._plan.tensors):
            nbytes = tensor.spec.nbytes
            left = nbytes if whole else sum(end - begin for begin, end in self._spans(number))
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
        waiting: deque[tuple[int, LazyTensor]] = deque()
        for number in self._order:
            tensor = self._plan.tensors[number]
            if tensor.spec.nbytes and not self._spans(number):
                continue
            for statistic in tensor.needs:
                if statistic not in seen:
                    seen.add(statistic)
                    yield from self._looks(self._run.observation(statistic))
            if not self._is_moved(number):
                waiting.append((number, tensor))
            if len(waiting) > 1:
                yield from self._tiles(*waiting.popleft())
        while waiting:
            yield from self._tiles(*waiting.popleft())

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
        tiles = (
            tile
            for begin, end in self._spans(number)
            for tile in tensor.tiles(self._tile_bytes, spec.row_of(begin), spec.row_of(end - 1) + 1)
        )
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
                measured = tensor.measured
                lost = () if measured is None else self._run.loss(measured).within(start, stop)
                self._ledger.note(key, begin, end, lost)
                return end - begin

            yield job


def _losses(plan: Plan, run: Run) -> dict[str, tuple[str, Loss]]:
    losses = {}
    for tensor in plan.tensors:
        loss = None if tensor.measured is None else run.loss(tensor.measured).total()
        if loss is not None and tensor.scheme is not None:
            losses[tensor.name] = tensor.scheme.name, loss
    return losses


def _recoded(plan: Plan, run: Run) -> dict[str, tuple[int, int]]:
    counted = {
        tensor.name: run.tally(tensor.recoded).total()
        for tensor in plan.tensors
        if tensor.recoded is not None
    }
    return {name: blocks for name, blocks in counted.items() if blocks[1]}


def execute(
    plan: Plan,
    writer: Writer,
    *,
    workers: int = 1,
    tile_bytes: int = 8 << 20,
    surroundings: Callable[[int], AbstractContextManager[Context]] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    ledger: journal.Ledger | None = None,
    pace: Pace | None = None,
    nice: int | None = None,
    order: Sequence[int] | None = None,
) -> Report:
    """Read, convert and write all tensors of a plan.

    The number of workers and the size of tiles change nothing but time. The first error of a worker stops
    all of them and is raised here; so is KeyboardInterrupt.

    Args:
        workers: threads.
        tile_bytes: about how many source bytes a worker deals with at a time.
        surroundings: what a worker, given by its number, enters in its own thread for as long as it works;
            yields the memory that it works in.
        on_progress: called about ten times a second from the calling thread, and once at the end.
        ledger: what is done already, which is not done again; and where what is done is noted.
        pace: how fast the source may be read.
        nice: niceness of the workers.
        order: numbers of the tensors, in the order in which they are dealt with; else that of the plan.
    """
    began = time.monotonic()
    run = Run()
    ledger = ledger or journal.Ledger()
    jobs = _Jobs(plan, writer, tile_bytes, run, ledger, order)
    ahead = Expected(jobs.ranges())
    lock = threading.Lock()
    finished = threading.Event()
    stop = threading.Event()
    errors: list[BaseException] = []
    state = {"done": jobs.resumed, "alive": workers}

    def work(number: int) -> None:
        try:
            with nullcontext(Context()) if surroundings is None else surroundings(number) as context:
                context.run = run
                if nice is not None:
                    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), nice)
                while not stop.is_set() and (job := jobs.next()) is not None:
                    context.reset()
                    done = job(context)
                    with lock:
                        state["done"] += done
                    if pace is not None:  # what the system copies is not read here
                        stop.wait(pace.spend(context.read[0] or done))
                        context.read[0] = 0
        except BaseException as error:
            with lock:
                errors.append(error)
            stop.set()
            for observation in list(jobs.observations):
                observation.cancel()
        finally:
            with lock:
                state["alive"] -= 1
                if state["alive"] == 0:
                    finished.set()

    threads = [
        threading.Thread(target=copy_context().run, args=(work, n), name=f"worker-{n}", daemon=True)
        for n in range(workers)
    ]

    def tell(stage: str) -> None:
        if on_progress is not None:
            on_progress(Progress(state["done"], jobs.total, stage, time.monotonic() - began))

    try:
        ahead.begin()
        started = _start(threads)
        with lock:
            state["alive"] -= workers - started
            if state["alive"] == 0:
                finished.set()
        while not finished.wait(0.1):
            tell("convert")
    finally:
        # Reached with an interrupt too: no thread may touch the output after this.
        stop.set()
        ahead.end()
        if not finished.is_set():
            for observation in list(jobs.observations):
                observation.cancel()
        _join([thread for thread in threads if thread.ident is not None])
    if errors:
        # Who waited for a look at a tensor may have noted its end before the one who failed noted why.
        raise next((error for error in errors if not isinstance(error, Abandoned)), errors[0])
    tell("convert")
    seconds = time.monotonic() - began
    losses, kept = _losses(plan, run), _recoded(plan, run)
    return Report(plan, seconds, plan.bytes_read, plan.file_bytes, losses, recoded=kept, resumed=jobs.resumed)


def _start(threads: list[threading.Thread]) -> int:
    """Start as many as the system allows; returns how many. Fewer workers change nothing but time."""
    for number, thread in enumerate(threads):
        try:
            thread.start()
        except RuntimeError as error:
            if number == 0:
                raise TranscodeError(
                    f"no thread can be started: {error}", hint="raise the limit of processes (ulimit -u)"
                ) from None
            return number
    return len(threads)


def _join(threads: list[threading.Thread]) -> None:
    """Wait for threads that were told to stop, even if the user is impatient: they hold open files."""
    impatient: KeyboardInterrupt | None = None
    while any(thread.is_alive() for thread in threads):
        try:
            for thread in threads:
                thread.join()
        except KeyboardInterrupt as error:
            impatient = error
    if impatient is not None:
        raise impatient
