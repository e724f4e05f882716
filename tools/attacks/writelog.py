"""Power cuts: what a command does to the disk is recorded, and cut at every point.

The folder is looked at before and after each call. That gives operations: bytes of a file that change, and
names that come, go or move in one step. An operation is durable once its file, or the folder of the name, was
synced; until then a power cut may keep it or lose it, whatever became of others, and of bytes keep a part. No
file system loses more. Of each prefix of the operations, with any subset of those that are not durable, the
state is built, and our own next command must find the old output or the new one.

Inserting blocks before the first byte (``meta`` in its second way) is one operation here, as it is one
transaction in the journal of the file systems that can do it.
"""

from __future__ import annotations

import itertools
import json
import os
import pickle
import random
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .engine import CALLS, Attack, Outcome, Tally
from .scenarios import Scenario, Stage

__all__ = ["attack"]

_SMALL = 5  # so many lost operations are tried in every combination
_RANDOM = 24  # else so many combinations


@dataclass(frozen=True)
class Bytes:
    """A file, by a number that no other file of the record has, gets a size and bytes at an offset."""

    file: int
    size: int
    offset: int
    data: bytes
    inserted: int = 0  # bytes of blocks that it inserts before the first one, all or none


@dataclass(frozen=True)
class Names:
    """Names, each of a folder, come to stand for a file or folder, or for nothing; all in one step."""

    changes: tuple[tuple[int, str, int | None], ...]


@dataclass(frozen=True)
class Sync:
    """A file or folder is durable."""

    node: int


@dataclass
class Record:
    """What a command did, from a first state on."""

    folders: dict[int, dict[str, int]] = field(default_factory=dict)
    files: dict[int, bytes] = field(default_factory=dict)
    times: dict[int, int] = field(default_factory=dict)
    events: list[Bytes | Names | Sync] = field(default_factory=list)


class Recorder:
    """Looks at a folder again and again."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._numbers: dict[int, int] = {}  # inode -> our number
        self._fresh = itertools.count()
        self._times: dict[int, int] = {}
        self.folders, self.files = self._look()
        self.record = Record(dict(self.folders), dict(self.files), dict(self._times))

    def _look(self) -> tuple[dict[int, dict[str, int]], dict[int, bytes]]:
        folders: dict[int, dict[str, int]] = {}
        files: dict[int, bytes] = {}
        inodes: dict[int, int] = {}

        def number(inode: int) -> int:
            if inode not in inodes:
                known = self._numbers.get(inode)
                inodes[inode] = next(self._fresh) if known is None else known
            return inodes[inode]

        def walk(path: str, mine: int) -> None:
            names = folders[mine] = {}
            for entry in sorted(_REAL["listdir"](path)):
                below = f"{path}/{entry}"
                known = _REAL["lstat"](below)
                node = names[entry] = number(known.st_ino)
                if stat.S_ISDIR(known.st_mode):
                    walk(below, node)
                elif node not in files:
                    self._times[node] = known.st_mtime_ns
                    fd = _REAL["open"](below, os.O_RDONLY)
                    files[node] = _REAL["read"](fd, known.st_size)
                    _REAL["close"](fd)

        walk(str(self.root), number(_REAL["lstat"](self.root).st_ino))
        self._numbers = inodes
        return folders, files

    def step(self, inserted: int = 0) -> None:
        """Note what has changed since the last look, by an insertion of so many bytes or otherwise."""
        folders, files = self._look()
        for node, now in files.items():
            before = self.files.get(node, b"")
            if now != before:
                low = next(
                    (i for i, (a, b) in enumerate(zip(before, now, strict=False)) if a != b),
                    min(len(before), len(now)),
                )
                high = len(now)
                if len(before) == len(now):
                    while high > low and before[high - 1] == now[high - 1]:
                        high -= 1
                self.record.events.append(Bytes(node, len(now), low, now[low:high], inserted))
        changes = []
        for node in {**self.folders, **folders}:
            old, new = self.folders.get(node, {}), folders.get(node, {})
            if node not in folders:
                continue  # it is gone, and with it its names
            changes += [
                (node, name, new.get(name)) for name in {**old, **new} if old.get(name) != new.get(name)
            ]
        gone = [change for change in changes if change[2] is None]
        come = [change for change in changes if change[2] is not None]
        for change in come:
            # A rename: what has come to this name stood for another one before.
            partners = [other for other in gone if self.folders[other[0]].get(other[1]) == change[2]]
            gone = [other for other in gone if other not in partners]
            self.record.events.append(Names((*partners, change)))
        self.record.events += [Names((change,)) for change in gone]
        self.folders, self.files = folders, files

    def sync(self, fd: int) -> None:
        """Note that an open file or folder is durable."""
        node = self._numbers.get(os.fstat(fd).st_ino)
        if node is not None:
            self.record.events.append(Sync(node))


_REAL: dict[str, Callable[..., Any]] = {
    name: getattr(os, name) for name in ("listdir", "lstat", "open", "read", "close")
}


def recorded(stage: Stage) -> Record:
    """Play a scenario and record it."""
    told = stage.root / "record"
    stage.reset()

    def install() -> None:
        recorder = Recorder(stage.place)
        busy = [False]

        def watched(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **options: Any) -> Any:
                if busy[0]:
                    return real(*args, **options)
                busy[0] = True
                try:
                    recorder.step()
                    result = real(*args, **options)
                    recorder.step(args[1] if name == "insert" and result else 0)
                    if name in ("fsync", "fdatasync"):
                        recorder.sync(args[0])
                    return result
                finally:
                    busy[0] = False

            return call

        from transcode.io import insert_range, system

        for name in {*CALLS, "fdatasync"} - {
            "stat",
            "lstat",
            "fstat",
            "read",
            "preadv",
            "listdir",
            "scandir",
        }:
            setattr(os, name, watched(name, getattr(os, name)))
        system._pwrite = watched("pwrite", system._pwrite)
        insert_range.insert = watched("insert", insert_range.insert)
        insert_range.remove = watched("remove", insert_range.remove)
        leave = os._exit

        def last(code: int) -> None:
            busy[0] = True
            recorder.step()
            told.write_bytes(pickle.dumps(recorder.record))
            leave(code)

        os._exit = last  # type: ignore[assignment]

    # The tree is looked at by one thread at a time, or its steps would run into one another.
    outcome = stage.play(install, limit=300)
    assert outcome.code == 0, outcome
    record: Record = pickle.loads(told.read_bytes())
    return record


def states(record: Record, dice: random.Random) -> Iterator[tuple[str, list[Bytes | Names]]]:
    """Each point of a cut, with the operations that the disk has then."""
    for point in range(len(record.events) + 1):
        done = record.events[:point]
        lost = [
            i
            for i, event in enumerate(done)
            if not isinstance(event, Sync) and not _durable(event, done[i + 1 :])
        ]
        if len(lost) <= _SMALL:
            choices = [
                set(chosen) for n in range(len(lost) + 1) for chosen in itertools.combinations(lost, n)
            ]
        else:
            choices = [{i for i in lost if dice.random() < 0.5} for _ in range(_RANDOM)]
            choices += [set(), set(lost), set(lost[:1]), set(lost[-1:])]
        for kept in choices:
            operations: list[Bytes | Names] = []
            shift: dict[int, int] = {}
            for i, event in enumerate(done):
                if isinstance(event, Sync):
                    continue
                if isinstance(event, Bytes) and event.file in shift:
                    event = _shifted(event, shift[event.file])
                if i not in lost or i in kept:
                    operations.append(event)
                elif isinstance(event, Bytes) and event.inserted:
                    shift[event.file] = event.inserted
                elif isinstance(event, Bytes) and len(event.data) > 1 and dice.random() < 0.5:
                    half = event.data[: dice.randrange(len(event.data))]
                    operations.append(Bytes(event.file, event.size, event.offset, half))
            yield f"cut at {point} of {len(record.events)}, of {len(lost)} kept {sorted(kept)}", operations


def _shifted(event: Bytes, lost: int) -> Bytes:
    """Bytes written after an insertion that the disk has lost: they lie in the same blocks all the same."""
    skip = max(lost - event.offset, 0)
    return Bytes(event.file, event.size - lost, max(event.offset - lost, 0), event.data[skip:])


def _durable(event: Bytes | Names, later: list[Bytes | Names | Sync]) -> bool:
    nodes = {event.file} if isinstance(event, Bytes) else {folder for folder, _, _ in event.changes}
    return any(isinstance(other, Sync) and other.node in nodes for other in later)


def build(record: Record, operations: list[Bytes | Names], place: Path) -> None:
    """Make a folder what the disk would hold."""
    folders = {node: dict(names) for node, names in record.folders.items()}
    files = dict(record.files)
    for operation in operations:
        if isinstance(operation, Bytes):
            now = bytearray(files.get(operation.file, b"")[: operation.size].ljust(operation.size, b"\0"))
            now[operation.offset : operation.offset + len(operation.data)] = operation.data
            files[operation.file] = bytes(now)
        else:
            for folder, name, node in operation.changes:
                names = folders.setdefault(folder, {})
                if node is None:
                    names.pop(name, None)
                else:
                    names[name] = node
    known_folders = set(folders) | {
        event.node for event in record.events if isinstance(event, Sync) and event.node not in files
    }
    kinds = {e.file for e in record.events if isinstance(e, Bytes)} | set(files)

    def make(path: Path, node: int) -> None:
        for name, below in folders.get(node, {}).items():
            if below in kinds and below not in folders:
                (path / name).write_bytes(files.get(below, b""))
                if (
                    below in record.times and files[below] == record.files[below]
                ):  # else its time is that of the change
                    os.utime(path / name, ns=(record.times[below],) * 2)
            elif below in known_folders:
                (path / name).mkdir(mode=0o700)
                make(path / name, below)
            else:
                (path / name).write_bytes(b"")

    for entry in place.iterdir():
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    make(place, min(record.folders))


def attack(scenario: Scenario) -> Attack:
    """The attack on a scenario."""

    def run(root: Path, dice: random.Random, count: int, until: float, tally: Tally) -> None:
        stage = Stage(root, scenario)
        record = recorded(stage)
        syncs = sum(isinstance(event, Sync) for event in record.events)
        tally.notes.append(f"{len(record.events) - syncs} operations, {syncs} syncs")
        seen = set()
        cuts = list(states(record, dice))
        if count and len(cuts) > count:
            cuts = [*dice.sample(cuts[:-1], count - 1), cuts[-1]]
        for where, operations in cuts:
            if time.monotonic() > until:
                break
            build(record, operations, stage.place)
            look = _fingerprint(stage.place)
            tally.add("trials")
            if look in seen:
                tally.add("states seen before")
                continue
            seen.add(look)
            # Nothing is known of how the command ended, unless it was at its end.
            stage.judge(Outcome(None, 9, ""), tally, f"{scenario.name}: {where}")
        # What a command that has ended leaves is durable, whatever of the rest is lost.
        ended = [
            event
            for i, event in enumerate(record.events)
            if not isinstance(event, Sync) and _durable(event, record.events[i + 1 :])
        ]
        build(record, ended, stage.place)
        stage.judge(Outcome(0, None, ""), tally, f"{scenario.name}: cut after the end")

    return run


def _fingerprint(place: Path) -> str:
    found = {}
    for path in sorted(place.rglob("*")):
        found[str(path.relative_to(place))] = None if path.is_dir() else hash(path.read_bytes())
    return json.dumps(found)
