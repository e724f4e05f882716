"""What of a run is done for good: kept beside its staged files, so that a run that was interrupted can go on.

A line of the journal says which bytes are on the disk, and is written when they are: first the files are
synced, then the line, so that nothing is believed that a power cut could have taken. A line that was cut off
is the end of the journal; what it would have told is done again.

Done is told in ranges of two kinds: of a tensor its logical values, which tiles of any size cover; of a file
what the system copied there. Neither depends on workers, memory or device.
"""

from __future__ import annotations

import json
import os
import threading
import zlib
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import field

from ..core.quality import Loss
from ..core.records import dataclass
from ..core.small_json import parse_object
from ..errors import FormatError, PlanError
from ..io import system
from ..io.commit import JOURNAL
from ..io.directory import Directory
from ..voice import called

__all__ = [
    "Findings",
    "Key",
    "Ledger",
    "Ranges",
    "Share",
    "begin",
    "consume",
    "extend",
    "moved",
    "read",
    "reopen",
    "resumable",
    "values",
]

_HEAD = "transcode-journal-1"
_MOST = 256 << 20

Key = str
"""Of what ranges are told: see :func:`values` and :func:`moved`."""

Span = tuple[Key, int, int]
"""Bytes from and to, of a key."""

Lost = tuple[int, Loss]
"""What was lost of a tile, by its first row."""

Counted = tuple[int, tuple[int, int]]
"""How many blocks of a tile kept every value, and how many there are, by its first row."""


def values(tensor: int) -> Key:
    """The logical values of a tensor of the plan, by its number: row-major, as they were before encoding."""
    return f"t{tensor}"


def moved(file: int) -> Key:
    """The bytes of a file of the plan, by its number, that the system copies."""
    return f"f{file}"


@dataclass
class Findings:
    """What tiles tell of their tensors beside their bytes: it goes into the report.

    Attributes:
        losses: where they were measured.
        counts: where codes became those of another scheme.
    """

    losses: dict[Key, list[Lost]] = field(default_factory=dict)
    counts: dict[Key, list[Counted]] = field(default_factory=dict)

    def add(self, key: Key, losses: Iterable[Lost], counts: Iterable[Counted]) -> None:
        """Add those of some tiles of a tensor."""
        for table, fresh in ((self.losses, list(losses)), (self.counts, list(counts))):
            if fresh:
                table.setdefault(key, []).extend(fresh)  # type: ignore[arg-type]

    def take_over(self, other: Findings) -> None:
        """Add all of others."""
        for key in other.losses.keys() | other.counts.keys():
            self.add(key, other.losses.get(key, ()), other.counts.get(key, ()))


class Ranges:
    """Disjoint ranges of integers, in order; those that touch are one."""

    def __init__(self) -> None:
        self._begins: list[int] = []
        self._ends: list[int] = []

    def add(self, begin: int, end: int) -> None:
        """Add ``begin`` to ``end``, which may be there in part or whole."""
        if begin >= end:
            return
        first = bisect_left(self._ends, begin)
        last = first
        while last < len(self._begins) and self._begins[last] <= end:
            begin, end = min(begin, self._begins[last]), max(end, self._ends[last])
            last += 1
        self._begins[first:last] = [begin]
        self._ends[first:last] = [end]

    def missing(self, begin: int, end: int) -> Iterator[tuple[int, int]]:
        """What of ``begin`` to ``end`` is not in them."""
        for number in range(bisect_left(self._ends, begin + 1), len(self._begins)):
            low, high = self._begins[number], self._ends[number]
            if low >= end:
                break
            if begin < low:
                yield begin, low
            begin = max(begin, high)
        if begin < end:
            yield begin, end

    def within(self, begin: int, end: int) -> Iterator[tuple[int, int]]:
        """What of ``begin`` to ``end`` is in them."""
        for number in range(bisect_left(self._ends, begin + 1), len(self._begins)):
            low, high = max(self._begins[number], begin), min(self._ends[number], end)
            if low >= high:
                break
            yield low, high

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(zip(self._begins, self._ends, strict=True))


Share = Mapping[Key, Ranges]
"""A part of what there is to do of a plan."""


@dataclass
class Ledger:
    """What is done of a plan. Thread-safe.

    Attributes:
        noted: whether the journal tells of anything.
        findings: what an earlier run found of what is done.
        share: what is asked for; None where that is all of the plan.
        consumed: inputs, by their numbers in the plan, that are deleted or to be: all that was made of them
            is there.
    """

    noted: bool = False
    share: Share | None = None
    consumed: set[int] = field(default_factory=set)
    findings: Findings = field(default_factory=Findings)
    _found: Findings = field(default_factory=Findings)
    _done: dict[Key, Ranges] = field(default_factory=dict)
    _fresh: list[Span] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def asked(self, key: Key, begin: int, end: int) -> list[tuple[int, int]]:
        """What of a range is asked for, in order."""
        if self.share is None:
            return [(begin, end)] if begin < end else []
        ranges = self.share.get(key)
        return [] if ranges is None else list(ranges.within(begin, end))

    def missing(self, key: Key, begin: int, end: int) -> list[tuple[int, int]]:
        """What of a range is asked for and was not done when the run began, in order."""
        done, asked = self._done.get(key), self.asked(key, begin, end)
        if done is None:
            return asked
        return [span for low, high in asked for span in done.missing(low, high)]

    def note(
        self, key: Key, begin: int, end: int, lost: Sequence[Lost] = (), counted: Sequence[Counted] = ()
    ) -> None:
        """A range is done: all that it becomes has been written, and this was found of it."""
        with self._lock:
            self._fresh.append((key, begin, end))
            if lost or counted:
                self._found.add(key, lost, counted)

    def take(self) -> tuple[list[Span], Findings]:
        """What was noted since the last time, joined; and what was found of it."""
        with self._lock:
            fresh, self._fresh = self._fresh, []
            findings, self._found = self._found, Findings()
        return list(_joined(fresh)), findings

    def is_begun(self, key: Key) -> bool:
        """Whether an earlier run did some of it."""
        return key in self._done

    @property
    def done(self) -> list[Span]:
        """What is known to be done."""
        return [(key, begin, end) for key, ranges in self._done.items() for begin, end in ranges]

    def is_whole(self, share: Share) -> bool:
        """Whether all of a share is known to be done."""
        none = Ranges()
        return not any(
            any(self._done.get(key, none).missing(begin, end))
            for key, ranges in share.items()
            for begin, end in ranges
        )

    def take_over(self, other: Ledger) -> None:
        """What another journal of the same plan knows."""
        self.believe(other.done)
        self.findings.take_over(other.findings)

    def believe(self, spans: Iterable[Span]) -> None:
        """What an earlier run did."""
        for key, begin, end in spans:
            self._done.setdefault(key, Ranges()).add(begin, end)
            self.noted = True


def _joined(spans: list[Span]) -> Iterator[Span]:
    table: dict[Key, Ranges] = {}
    for key, low, high in spans:
        table.setdefault(key, Ranges()).add(low, high)
    for key, ranges in table.items():
        for low, high in ranges:
            yield key, low, high


def begin(hidden: Directory, digest: str, name: str = JOURNAL) -> int:
    """Start a journal; returns its descriptor.

    Args:
        hidden: the folder of the run.
        digest: of the plan.
        name: what it is called there.
    """
    fd = hidden.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        system.write_at(fd, memoryview(_line({"format": _HEAD, "plan": digest})), 0)
    except BaseException:
        os.close(fd)
        raise
    return fd


def reopen(hidden: Directory, end: int) -> int:
    """The descriptor of a journal that goes on, at whose end a line may be cut short."""
    fd = hidden.open(JOURNAL, os.O_RDWR)
    os.ftruncate(fd, end)
    return fd


def extend(fd: int, spans: Iterable[Span], findings: Findings) -> None:
    """Add what is on the disk by now, and what was found of it; durable on return."""
    table: dict[Key, list[list[int]]] = {}
    for key, low, high in spans:
        table.setdefault(key, []).append([low, high])
    if table:
        line: dict[str, object] = {"done": table}
        if findings.losses:
            line["lost"] = {
                key: [[row, one.signal, one.noise, one.plain, one.largest] for row, one in of]
                for key, of in findings.losses.items()
            }
        if findings.counts:
            line["kept"] = {
                key: [[row, *blocks] for row, blocks in of] for key, of in findings.counts.items()
            }
        system.write_at(fd, memoryview(_line(line)), os.fstat(fd).st_size)
        system.sync(fd)


def consume(fd: int, inputs: Iterable[int]) -> None:
    """Add that inputs, by their numbers, are not needed any more; durable on return."""
    system.write_at(fd, memoryview(_line({"consumed": sorted(inputs)})), os.fstat(fd).st_size)
    system.sync(fd)


def resumable(hidden: Directory, digest: str, name: str = JOURNAL) -> tuple[Ledger, int] | None:
    """What an earlier run of the same plan did, and where its journal ends; None where that is not known.

    Raises:
        PlanError: what lies there is of another plan.
    """
    known = read(hidden, name)
    if known is None:
        return None
    plan, ledger, end = known
    if plan != digest:
        raise PlanError(
            "what an interrupted run left there is of another plan: another recipe, source or version",
            file=hidden.path,
            hint=f"leave {called('resume')} out to start anew",
        )
    return ledger, end


def read(hidden: Directory, name: str = JOURNAL) -> tuple[str, Ledger, int] | None:
    """The digest of the plan that a run is of, what it did, and where its journal ends; None where there is
    none that is whole at its beginning.
    """
    try:
        fd = hidden.open(name, os.O_RDONLY)
    except OSError:
        return None
    with os.fdopen(fd, "rb") as file:
        lines = file.read(_MOST).splitlines(keepends=True)
    tables = list(_tables(lines))
    if not tables or tables[0][0].get("format") != _HEAD:
        return None
    head, end = tables[0]
    ledger = Ledger()
    for table, stop in tables[1:]:
        spans, findings, consumed = _spans(table), _findings(table), table.get("consumed", [])
        if spans is None or findings is None or not isinstance(consumed, list):
            break
        ledger.believe(spans)
        ledger.consumed.update(number for number in consumed if isinstance(number, int))
        ledger.findings.take_over(findings)
        end = stop
    return str(head.get("plan")), ledger, end


def _line(table: object) -> bytes:
    body = json.dumps(table, separators=(",", ":")).encode()
    return b"%08x %b\n" % (zlib.crc32(body), body)


def _tables(lines: list[bytes]) -> Iterator[tuple[dict[str, object], int]]:
    """The objects of whole lines, each with where its line ends; up to the first that is damaged."""
    end = 0
    for line in lines:
        end += len(line)
        check, _, body = line.partition(b" ")
        if not body.endswith(b"\n") or check != b"%08x" % zlib.crc32(body[:-1]):
            return
        with suppress(FormatError):
            yield dict(parse_object(body)), end
            continue
        return


def _spans(table: dict[str, object]) -> list[Span] | None:
    """The ranges of a line; None if it is none."""
    done = table.get("done", {} if "consumed" in table else None)
    if not isinstance(done, dict):
        return None
    spans: list[Span] = []
    for key, ranges in done.items():
        for one in ranges if isinstance(ranges, list) else [None]:
            match one:
                case [int(low), int(high)] if 0 <= low < high:
                    spans.append((key, low, high))
                case _:
                    return None
    return spans


def _findings(table: dict[str, object]) -> Findings | None:
    """What was found, of a line; None if it is not told rightly."""
    findings = Findings()
    for kind in ("lost", "kept"):
        stated = table.get(kind, {})
        if not isinstance(stated, dict):
            return None
        for key, tiles in stated.items():
            for one in tiles if isinstance(tiles, list) else [None]:
                match kind, one:
                    case "lost", [
                        int(row),
                        float(signal),
                        float(noise),
                        (float() | None) as plain,
                        float(most),
                    ]:
                        findings.add(key, [(row, Loss(signal, noise, plain, most))], ())
                    case "kept", [int(row), int(exact), int(blocks)] if 0 <= exact <= blocks:
                        findings.add(key, (), [(row, (exact, blocks))])
                    case _:
                        return None
    return findings
