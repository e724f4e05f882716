"""A source is deleted shard by shard as it is done: for disks that hold one model only.

A run is a row of steps, each of one shard, or of several that some tensor needs together: what depends on
them is converted and made durable, the journal notes that they are not needed any more, and then they go. So
at any moment what is left of the source and the staged files together hold the model; and as a source that
lacks shards cannot be planned again, the plan lies with the staged files before anything goes.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from ..core.paths import Url
from ..core.performance import Performance
from ..core.quality import Loss
from ..core.records import dataclass
from ..core.source import Input
from ..core.text import count, size
from ..errors import FormatError, PlanError, TranscodeError
from ..io.commit import CONSUMING
from ..io.directory import Directory
from ..io.links import shared
from ..io.local import MappedFile
from ..plan import file as plan_file
from ..plan.plan import Plan
from ..voice import called
from . import journal
from .moves import moves
from .pace import Pace
from .rehearsal import Rehearsal
from .report import Progress, Report
from .shares import Shares, nbytes
from .staging import Staging, hidden_folder
from .working import verify, work

__all__ = ["Consumption", "consumed"]


@dataclass(frozen=True)
class _Step:
    """Shards, by their numbers among the inputs, and all that depends on them."""

    shards: tuple[int, ...]
    share: journal.Share
    written: int

    def freed(self, plan: Plan) -> int:
        return sum(_size(plan.inputs[number]) for number in self.shards)


class Consumption:
    """In which steps the source of a plan is done and deleted.

    Raises:
        PlanError: it cannot be deleted shard by shard, or something asks for it afterwards.
    """

    def __init__(self, plan: Plan, performance: Performance) -> None:
        self.plan = plan
        self._refuse(performance)
        self._readers: dict[Path, list[MappedFile]] = {}
        self.steps = self._steps()

    @property
    def shards(self) -> list[int]:
        """The inputs that are deleted, by their numbers."""
        return [number for step in self.steps for number in step.shards]

    def __str__(self) -> str:
        freed = sum(step.freed(self.plan) for step in self.steps)
        return (
            f"{count(len(self.shards), 'weight file')} of {self.plan.source} ({size(freed)}) will be DELETED,"
            " one by one, as soon as what becomes of them is on the disk"
        )

    def room(self) -> int:
        """The bytes of disk that it takes at most beyond those that it has freed by then."""
        most = held = 0
        done = consumed(self.plan)
        for step in self.steps:
            if done.issuperset(step.shards) and step.shards:
                continue
            held += step.written
            most = max(most, held)
            held -= step.freed(self.plan)
        return most

    def run(
        self,
        staging: Staging,
        performance: Performance,
        pace: Pace,
        on_progress: Callable[[Progress], None] | None,
    ) -> Report:
        """Do every step that is left, and delete what it was made of.

        Raises:
            TranscodeError: see its leaves; what is done is kept.
        """
        ledger, whole = staging.ledger, Shares(self.plan).whole()
        self._keep_plan()
        if not ledger.consumed:
            self._rehearse(performance, pace, on_progress)
        total, before, resumed = nbytes(whole), 0, 0
        losses: dict[str, tuple[str, Loss]] = {}
        recoded: dict[str, tuple[int, int]] = {}
        report = Report(self.plan, 0.0, self.plan.bytes_read, self.plan.file_bytes)
        for step in self.steps:
            ledger.share = step.share

            def tell(now: Progress, before: int = before) -> None:
                if on_progress is not None:
                    on_progress(replace(now, done=min(before + now.done, total), total=total))

            done = work(self.plan, staging, performance, pace, tell)
            losses |= done.losses()
            recoded |= done.recoded
            resumed += done.resumed
            before += nbytes(step.share)
            self._delete(step, staging)
        ledger.share = None
        return replace(report, measured=losses, recoded=recoded, resumed=resumed)

    def _rehearse(
        self, performance: Performance, pace: Pace, on_progress: Callable[[Progress], None] | None
    ) -> None:
        """Convert everything once, and keep nothing of it.

        Raises:
            DataError: a value cannot be converted.
        """

        def tell(now: Progress) -> None:
            if on_progress is not None:
                on_progress(replace(now, stage="rehearse"))

        rehearsal = Rehearsal(self.plan)
        if rehearsal.order:
            work(self.plan, rehearsal, performance, pace, tell)

    def _delete(self, step: _Step, staging: Staging) -> None:
        """Delete shards, once all that was made of them is durable and they are still what they were."""
        fresh = [number for number in step.shards if number not in staging.ledger.consumed]
        verify([self.plan.inputs[number] for number in fresh])
        staging.keep()
        staging.check()
        try:
            if fresh:
                staging.consume(fresh)
            for number in step.shards:
                self._delete_one(self.plan.inputs[number])
        except OSError as error:
            raise TranscodeError(f"cannot be deleted: {error.strerror}", file=error.filename) from error

    def _delete_one(self, shard: Input) -> None:
        try:
            shard.verify()
        except FormatError:  # gone by now, or somebody else's
            return
        assert shard.path is not None
        for reader in self._readers.get(shard.path, ()):
            reader.close()
        os.unlink(shard.path)

    def _keep_plan(self) -> None:
        """Have the plan, and the names that lead to it, on the disk."""
        hidden = hidden_folder(self.plan)
        if not (hidden / CONSUMING).exists():
            plan_file.save(self.plan, hidden / CONSUMING)
            with open(hidden / CONSUMING, "rb+") as file:
                os.fsync(file.fileno())
        for folder in (hidden, hidden.parent):
            with Directory(Path(os.path.realpath(folder))) as opened:
                opened.sync()

    def _refuse(self, performance: Performance) -> None:
        plan, own = self.plan, self.plan.inputs[: self.plan.own]
        because = None
        if plan.source.is_file() and len(own) < 2:
            because = "is one file, of which nothing can go before the end"
        elif len(own) < 2:
            because = f"holds {count(len(own), 'weight file')}, of which nothing can go before the end"
        elif performance.part is not None:
            because = "is read by other parts, too"
        elif performance.cluster is not None:
            because = "is read by other machines, too"
        elif isinstance(plan.destination, Url):
            because = "would be gone before what is sent is in place"
        elif performance.attest:
            because = "is hashed for the statement, which takes all of it"
        if because is not None:
            raise PlanError(because, file=plan.source, hint=f"leave {called('consume_source')} out")
        gone = consumed(plan)
        for number, one in enumerate(own):
            if number not in gone:
                _refuse_shared(one)

    def _steps(self) -> list[_Step]:
        plan = self.plan
        numbers = {one.path: number for number, one in enumerate(plan.inputs[: plan.own])}
        needed = [sorted(self._needed(tensor, numbers)) for tensor in plan.tensors]
        first = _joined(len(numbers), needed)
        shares: dict[int, dict[journal.Key, journal.Ranges]] = {}

        def add(step: int, key: journal.Key, begin: int, end: int) -> None:
            shares.setdefault(step, {}).setdefault(key, journal.Ranges()).add(begin, end)

        every, taken = moves(plan, plan.destinations())
        written: dict[int, int] = {}
        for number, tensor in enumerate(plan.tensors):
            step = first[needed[number][0]] if needed[number] else -1  # of no shard: at once
            written[step] = written.get(step, 0) + tensor.nbytes
            if tensor.spec.nbytes and len(taken.get(number, ())) < len(tensor.parts):
                add(step, journal.values(number), 0, tensor.spec.nbytes)
        for move in every:
            source = move.source.path if isinstance(move.source, MappedFile) else None
            step = first[numbers[source]] if source in numbers else -1
            add(step, journal.moved(move.file), move.offset, move.offset + move.nbytes)
        used = {shard for shards in needed for shard in shards}
        return [
            _Step(
                tuple(shard for shard in range(len(numbers)) if first[shard] == step and shard in used),
                shares.get(step, {}),
                written[step],
            )
            for step in sorted(written)
        ]

    def _needed(self, tensor: object, numbers: Mapping[Path | None, int]) -> set[int]:
        """The shards that a tensor is made of."""
        shards = set()
        for file in _files(tensor, {}):
            if file.path in numbers:
                shards.add(numbers[file.path])
                readers = self._readers.setdefault(file.path, [])
                if file not in readers:
                    readers.append(file)
        return shards


def _files(value: Any, seen: dict[int, None]) -> Iterator[MappedFile]:
    """The files that anything in a value reads."""
    if isinstance(value, MappedFile):
        yield value
    elif isinstance(value, tuple | list):
        for one in value:
            yield from _files(one, seen)
    elif is_dataclass(value) and id(value) not in seen:
        seen[id(value)] = None
        for one in fields(value):
            yield from _files(getattr(value, one.name), seen)


def _joined(length: int, groups: list[list[int]]) -> list[int]:
    """For each number the first of those that it is joined with by some group."""
    first = list(range(length))
    for group in groups:
        if len(joined := {first[number] for number in group}) > 1:
            least = min(joined)
            first = [least if one in joined else one for one in first]
    return first


def _size(one: Input) -> int:
    return int(one.identity[0])


def _refuse_shared(one: Input) -> None:
    """Refuse to delete what has other names, or may not be deleted."""
    if (path := one.path) is None:
        raise PlanError("is no local file", file=one.url, hint=f"leave {called('consume_source')} out")
    one.verify()
    facts = os.lstat(path)
    because = None
    if stat.S_ISLNK(facts.st_mode):
        because = f"is a link to {os.readlink(path)}, whose bytes may be others' too"
    elif (why := shared(path)) is not None:
        because = why.partition(",")[0] + ": to delete one frees nothing"
    elif not os.access(path.parent, os.W_OK | os.X_OK):
        because = "lies in a folder that may not be written to"
    if because is not None:
        raise PlanError(because, file=path, hint=f"leave {called('consume_source')} out")


def consumed(plan: Plan) -> frozenset[int]:
    """The inputs that an interrupted run of a plan has deleted, or was about to."""
    try:
        hidden = Directory(hidden_folder(plan))
    except OSError:
        return frozenset()
    with hidden:
        known = journal.read(hidden)
    return frozenset() if known is None or known[0] != plan.digest else frozenset(known[1].consumed)
