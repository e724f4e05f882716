"""A plan's files while they are sent elsewhere: in parts that are put together here, and placed at the end.

Tensors are dealt with in the order in which they lie in the output, so that only few parts are open at a
time. How many that will be is known from the plan: one that would take too much memory is refused.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from ..containers import table
from ..core.paths import Url
from ..core.performance import Performance
from ..core.text import size as text
from ..errors import PlanError, TranscodeError
from ..io import system
from ..io.remote.target import Upload, target
from ..plan.plan import Plan
from ..voice import called
from . import checksums, journal
from .flowing import Flowing
from .moves import Move
from .portions import Portions, order, waiting

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["MOST", "Sending", "check_sending"]

MOST = 1 << 30
"""Bytes of parts that may be in memory at a time."""

_AT_ONCE = 4
"""Parts that are sent at a time."""


def check_sending(plan: Plan, performance: Performance, *, force: bool) -> None:
    """Refuse a destination elsewhere that cannot be written, or not so.

    Raises:
        PlanError: with what to do.
        TranscodeError: it cannot be reached.
    """
    asked = {
        "resume": performance.resume,
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
    sums = checksums.beside(plan)
    if performance.checksums:
        names.append(sums)
    elif sums in there:
        raise PlanError(
            f"tells of what was written here before, and would be false of {plan.destination.name}",
            file=f"{above}/{sums}",
            hint=f"remove it, or write it anew with {called('checksums')}",
        )
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
    if (most := waiting(plan, where, performance.checksums)) > MOST:
        because = (
            "there files are sent in one piece"
            if where.copies > 1
            else (
                "there bytes are sent in their order"
                if where.ordered
                else "checksums take bytes in their order"
            )
        )
        raise PlanError(
            f"would take {text(most)} of memory, more than the {text(MOST)} that parts may: {because}",
            file=url,
            hint=f"write smaller files: {called('max_shard_size', '200MB')}; or write to a local path, and"
            " upload what appears there",
        )


def _names(plan: Plan) -> list[str]:
    if not plan.folder:
        return [plan.destination.name]
    return [file.name for file in plan.files] + [side.name for side in plan.side_files]


class Sending:
    """The files of a plan while they are being sent; a context manager, as :class:`.staging.Staging` is.

    Leaving the context without :meth:`commit` drops what was sent.

    Args:
        hashed: whether digests are made of all that is sent.

    Attributes:
        committed: whether all is in place, or on its way there.
        kept, cleared: nothing is kept for another run, nor was there anything of one.
        ledger: what is done of the plan: nothing.
        unfinished: objects there that another run began to send and did not end.
    """

    kept = False
    cleared = False
    rehearses = False

    def __init__(self, plan: Plan, *, hashed: bool = False) -> None:
        system.give_back_freed()  # parts are as large as what it would keep
        self._plan = plan
        self._flowing = [Flowing(file) for file in plan.files] if hashed else None
        self._sums: bytes | None = None
        self._target = target(str(plan.destination), plan.folder)
        self.ledger = journal.Ledger()
        self.committed = False
        self.unfinished = 0
        self._lock = threading.Lock()
        self._parts: list[Portions] = []
        self._data: dict[tuple[int, int], bytearray] = {}
        self._uploads: dict[int, Upload] = {}
        self._turns: dict[int, threading.Lock] = {}
        self._pool = ThreadPoolExecutor(_AT_ONCE, "send")
        self._room = threading.Semaphore(_AT_ONCE + 1)
        self._sent: list[Future[None]] = []
        self._error: BaseException | None = None

    @property
    def order(self) -> Sequence[int]:
        """The order in which tensors are to be dealt with."""
        return order(self._plan)

    def __enter__(self) -> Sending:
        self._target.existing()  # a commit goes onto what is there now
        self.unfinished = self._target.unfinished()
        for number, file in enumerate(self._plan.files):
            ordered = self._target.ordered or self._flowing is not None
            self._parts.append(Portions(file, self._target.part(file.size), ordered))
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
        if self._flowing is not None:
            self._flowing[file].take(data)
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

    def digests(self) -> checksums.Digests | None:
        """All is written: the digests of it, if they were asked for, which are to be placed too.

        Raises:
            TranscodeError: something could not be sent.
        """
        for number in range(len(self._plan.files)):
            self._advance(number, 0, 0)  # what no tensor is in
        if self._flowing is None:
            return None
        files = {file.name: one for file, one in zip(self._plan.files, self._flowing, strict=True)}
        sides = {side.name: sha256(_content(side.content)).hexdigest() for side in self._plan.side_files}
        digests = checksums.Digests(
            {**{name: one.file for name, one in files.items()}, **sides},
            {name: one.tensors for name, one in files.items()},
        )
        self._sums = checksums.text(digests).encode()
        return digests

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
            if self._sums is not None:
                self._target.put(checksums.beside(self._plan), self._sums)
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
