"""A plan's files while they are sent elsewhere: in parts that are put together here, and placed at the end.

Tensors are dealt with in the order in which they lie in the output, so that only few parts are open at a
time. How many that will be is known from the plan: one that would take too much memory is refused.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from ..containers import table
from ..core.output import PlannedFile
from ..core.paths import Url
from ..core.performance import Performance
from ..core.text import size as text
from ..errors import PlanError, TranscodeError
from ..io import system
from ..io.remote.target import Target, Upload, target
from ..plan.plan import Plan
from ..voice import called
from . import journal
from .moves import Move

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["MOST", "Sending", "check_sending", "order", "waiting"]

MOST = 1 << 30
"""Bytes of parts that may be in memory at a time."""

_AT_ONCE = 4
"""Parts that are sent at a time."""


def order(plan: Plan) -> list[int]:
    """The numbers of a plan's tensors as they lie in its files: each by the largest of its parts."""
    largest: dict[int, tuple[int, int, int]] = {}
    for number, file in enumerate(plan.files):
        for place in file.places:
            nbytes = place.end - place.begin
            if place.tensor not in largest or nbytes > largest[place.tensor][0]:
                largest[place.tensor] = nbytes, number, place.begin
    return sorted(range(len(plan.tensors)), key=lambda tensor: largest.get(tensor, (0, 0, 0))[1:])


def waiting(plan: Plan, place: Target) -> int:
    """The most bytes of parts that are in memory at a time, between two tensors."""
    parts = [_Parts(file, place.part(file.size), place.ordered) for file in plan.files]
    pieces: dict[int, list[tuple[int, int, int]]] = {}
    for number, file in enumerate(plan.files):
        for one in file.places:
            begin = len(file.header) + one.begin
            pieces.setdefault(one.tensor, []).append((number, begin, begin + one.end - one.begin))
    held = most = 0
    for tensor in order(plan):
        for number, begin, end in pieces.get(tensor, ()):
            before = parts[number].held
            parts[number].fill(begin, end)
            held += parts[number].held - before
        most = max(most, held)
    return most * place.copies


def check_sending(plan: Plan, performance: Performance, *, force: bool) -> None:
    """Refuse a destination elsewhere that cannot be written, or not so.

    Raises:
        PlanError: with what to do.
        TranscodeError: it cannot be reached.
    """
    asked = {
        "resume": performance.resume,
        "checksums": performance.checksums,
        "attest": performance.attest,
        "part": performance.part is not None,
        "cluster": performance.cluster is not None,
        "reserve_disk": performance.reserve_disk is not None,
    }
    for name, given in asked.items():
        if given:
            raise PlanError(
                f"{called(name)} is for files of this machine",
                file=plan.destination,
                hint="leave it out, or write to a local path, and upload what appears there",
            )
    url = str(plan.destination)
    above = url if plan.folder else str(plan.destination.parent)
    for one in plan.inputs:
        if one.url == url or (plan.folder and one.path is None and str(Url(one.url).parent) == above):
            raise PlanError("is the source, which is never written to", file=url, hint="write elsewhere")
    where = target(url, plan.folder)
    there = where.existing()
    names = _names(plan)
    existing = [name for name in names if name in there]
    if existing and not force:
        more = f" (and {len(existing) - 1} more)" if len(existing) > 1 else ""
        raise PlanError(
            f"exists already{more}",
            file=f"{above}/{existing[0]}",
            hint=f"pass {called('force')} to replace it",
        )
    ends = tuple(f"{kind.suffixes[0]}{end}" for kind in table.WRITABLE for end in ("", ".index.json"))
    strangers = sorted(name for name in there if name.endswith(ends) and name not in names)
    if plan.folder and strangers:
        shown = ", ".join(strangers[:3]) + (", ..." if len(strangers) > 3 else "")
        raise PlanError(
            f"holds other weights ({shown})", file=url, hint="remove them or choose another folder"
        )
    if (most := waiting(plan, where)) > MOST:
        raise PlanError(
            f"would take {text(most)} of memory, more than the {text(MOST)} that parts may: there"
            f" {'files are sent in one piece' if where.copies > 1 else 'bytes are sent in their order'}",
            file=url,
            hint=f"write smaller files: {called('max_shard_size', '200MB')}; or write to a local path, and"
            " upload what appears there",
        )


def _names(plan: Plan) -> list[str]:
    if not plan.folder:
        return [plan.destination.name]
    return [file.name for file in plan.files] + [side.name for side in plan.side_files]


class _Parts:
    """The parts of one file, and how much of each is there.

    Attributes:
        held: bytes of the parts that something is there of and that are not to be sent yet.
    """

    def __init__(self, file: PlannedFile, nbytes: int, ordered: bool) -> None:
        self.nbytes = nbytes
        self.size = file.size
        self._ordered = ordered
        self.held = 0
        self._left = [self.length(number) for number in range(max(-(-file.size // nbytes), 1))]
        self._begun: set[int] = set()
        self._next = 0
        known = [(0, len(file.header)), (file.size - len(file.tail), file.size)]
        for begin, end in [*known, *_gaps(file)]:
            self._take(begin, end)
        self._whole = {number for number, left in enumerate(self._left) if not left}

    def _take(self, begin: int, end: int) -> list[int]:
        """Count a range; returns the parts that it is in."""
        numbers = []
        while begin < end:
            number = begin // self.nbytes
            stop = min(end, (number + 1) * self.nbytes)
            self._left[number] -= stop - begin
            numbers.append(number)
            begin = stop
        return numbers

    def fill(self, begin: int, end: int) -> list[int]:
        """Note that a range is there; returns the parts that are to be sent now, in order."""
        for number in self._take(begin, end):
            if number not in self._begun:
                self._begun.add(number)
                self.held += self.length(number)
            if not self._left[number]:
                self._whole.add(number)
        ready = [] if self._ordered else sorted(self._whole)
        while self._ordered and self._next in self._whole:
            ready.append(self._next)
            self._next += 1
        self._whole.difference_update(ready)
        self.held -= sum(self.length(number) for number in self._begun.intersection(ready))
        return ready

    def length(self, number: int) -> int:
        """Bytes of a part."""
        return min(self.nbytes, self.size - number * self.nbytes)


def _gaps(file: PlannedFile) -> list[tuple[int, int]]:
    """What a format leaves between parts: zeros that nobody writes."""
    gaps = []
    at = len(file.header)
    for place in file.places:
        begin = len(file.header) + place.begin
        if begin > at:
            gaps.append((at, begin))
        at = max(at, len(file.header) + place.end)
    end = file.size - len(file.tail)
    return [*gaps, (at, end)] if end > at else gaps


class Sending:
    """The files of a plan while they are being sent; a context manager, as :class:`.staging.Staging` is.

    Leaving the context without :meth:`commit` drops what was sent.

    Attributes:
        committed: whether all is in place, or on its way there.
        kept, cleared: nothing is kept for another run, nor was there anything of one.
        ledger: what is done of the plan: nothing.
    """

    kept = False
    cleared = False

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._target = target(str(plan.destination), plan.folder)
        self.ledger = journal.Ledger()
        self.committed = False
        self._lock = threading.Lock()
        self._parts: list[_Parts] = []
        self._data: dict[tuple[int, int], bytearray] = {}
        self._uploads: dict[int, Upload] = {}
        self._turns: dict[int, threading.Lock] = {}
        self._pool = ThreadPoolExecutor(_AT_ONCE, "send")
        self._room = threading.Semaphore(2 * _AT_ONCE)
        self._sent: list[Future[None]] = []
        self._error: BaseException | None = None

    @property
    def order(self) -> Sequence[int]:
        """The order in which tensors are to be dealt with."""
        return order(self._plan)

    def __enter__(self) -> Sending:
        self._target.existing()  # a commit goes onto what is there now
        for number, file in enumerate(self._plan.files):
            self._parts.append(_Parts(file, self._target.part(file.size), self._target.ordered))
            self._turns[number] = threading.Lock()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        for upload in self._uploads.values():
            upload.drop()
        self._data.clear()

    def keep(self) -> bool:
        """Nothing is kept."""
        return False

    def copy(self, move: Move) -> int:
        """No system copies to elsewhere: none."""
        return 0

    def write(self, file: int, offset: int, data: NDArray[np.uint8]) -> None:
        """Put bytes at an offset of a file, given by its number in the plan, and send what is whole by them.

        Thread-safe.

        Raises:
            TranscodeError: something could not be sent.
        """
        self._check()
        parts = self._parts[file]
        raw = data.data.cast("B")
        at = offset
        while at < offset + len(raw):
            number = at // parts.nbytes
            begin = at - number * parts.nbytes
            length = min(parts.nbytes - begin, offset + len(raw) - at)
            buffer = self._buffer(file, number)
            buffer[begin : begin + length] = raw[at - offset : at - offset + length]
            at += length
        self._advance(file, offset, offset + len(raw))

    def _buffer(self, file: int, number: int) -> memoryview:
        with self._lock:
            key = file, number
            if key not in self._data:
                parts, planned = self._parts[file], self._plan.files[file]
                data = bytearray(parts.length(number))
                first = number * parts.nbytes
                _overlay(data, first, 0, planned.header)
                _overlay(data, first, planned.size - len(planned.tail), planned.tail)
                self._data[key] = data
            return memoryview(self._data[key])

    def _advance(self, file: int, begin: int, end: int) -> None:
        # Of one file the parts must be handed over in their order where that counts.
        with self._turns[file]:
            with self._lock:
                ready = self._parts[file].fill(begin, end)
            for number in ready:
                self._buffer(file, number).release()
                with self._lock:
                    data = self._data.pop((file, number))
                self._hand_over(file, number, data)

    def _hand_over(self, file: int, number: int, data: bytearray) -> None:
        if file not in self._uploads:
            name = self._plan.files[file].name if self._plan.folder else self._plan.destination.name
            self._uploads[file] = self._target.begin(name, self._plan.files[file].size)
        upload = self._uploads[file]
        if self._target.ordered:
            upload.send(number, data)
            return
        while not self._room.acquire(timeout=0.2):
            self._check()
        self._sent.append(self._pool.submit(self._send, upload, number, data))

    def _send(self, upload: Upload, number: int, data: bytearray) -> None:
        try:
            upload.send(number, data)
        except BaseException as error:
            self._error = error
            raise
        finally:
            self._room.release()

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    def commit(self) -> None:
        """Have all files appear: the weights first, then what lies beside them, the index last.

        Raises:
            TranscodeError: one could not be sent or placed.
        """
        for number in range(len(self._plan.files)):
            self._advance(number, 0, 0)  # what no tensor is in
        for future in self._sent:
            future.result()
        contents = [_content(side.content) for side in self._plan.side_files]
        if self._data:
            raise TranscodeError("was not written as a whole", file=self._plan.destination)
        with system.undisturbed():
            for _, upload in sorted(self._uploads.items()):
                upload.place()
            for side, content in zip(self._plan.side_files, contents, strict=True):
                self._target.put(side.name, content)
            self._target.commit()
            self.committed = True


def _overlay(data: bytearray, first: int, begin: int, content: bytes) -> None:
    """Put what stands at a byte of a file into a part that begins at another."""
    low, high = max(begin, first), min(begin + len(content), first + len(data))
    if low < high:
        data[low - first : high - first] = content[low - begin : high - begin]


def _content(content: bytes | Path) -> bytes:
    return content if isinstance(content, bytes) else content.read_bytes()
