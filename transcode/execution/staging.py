"""A plan's files while they are being written: under temporary names, and into place when all is done."""

from __future__ import annotations

import os
import shutil
import threading
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from ..core.output import SideFile
from ..errors import PlanError, TranscodeError
from ..io import commit, system
from ..io.commit import FILES, LOCK, PART
from ..io.directory import Directory, claim
from ..plan.plan import Plan
from . import journal
from .keeping import Keeping
from .moves import Move

__all__ = ["Staging", "hidden_folder", "leftover", "refuse_other", "targets"]

_OPEN_FILES = 64
_DROP_BATCH = 64 << 20
_WRITEBACK_BATCH = 16 << 20
"""Bytes of a file between two calls that have them go on their way: each call lets other threads in."""


def targets(plan: Plan) -> list[Path]:
    """The files that a run puts in place, weights first."""
    if not plan.folder:
        return [plan.destination]
    return [plan.destination / name for name in _names(plan)]


def _names(plan: Plan) -> list[str]:
    return [file.name for file in plan.files] + [side.name for side in plan.side_files]


def _inner(plan: Plan) -> list[str]:
    """The subfolders that files of a plan are in: models for themselves, of a folder that is new."""
    folders = (name.rpartition("/")[0] for name in _names(plan))
    return list(dict.fromkeys(folder for folder in folders if folder))


def hidden_folder(plan: Plan) -> Path:
    """Where a plan's files are staged: on the file system of the destination, so that a rename places them.

    Inside the destination if that is a folder that exists, else beside it.
    """
    destination = plan.destination.absolute()
    return destination / PART if plan.folder and destination.exists() else _beside(destination)


def _beside(destination: Path) -> Path:
    return destination.parent / f".{destination.name}{PART}"


def leftover(plan: Plan) -> int:
    """Bytes that a killed run left where this one stages its files, and clears; 0 if one goes on there."""
    with suppress(OSError, PlanError), Directory(hidden_folder(plan)) as folder:
        if (lock := _locked(folder)) is not None:
            os.close(lock)
            return folder.nbytes()
    return 0


def refuse_other(plan: Plan) -> None:
    """Refuse to go on where an interrupted run left something of another plan.

    Raises:
        PlanError: it did.
    """
    try:
        hidden = Directory(hidden_folder(plan))
    except OSError:
        return
    with hidden:
        journal.resumable(hidden, plan.digest)


def _locked(hidden: Directory) -> int | None:
    """The descriptor that holds the lock of a hidden folder; None if another run has it."""
    fd = hidden.open(LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    # Whoever held the lock may have finished and taken the file away between our opening and our locking.
    now = hidden.stat(LOCK) if system.try_lock(fd) else None
    if now is None or not os.path.samestat(os.fstat(fd), now):
        os.close(fd)
        return None
    return fd


def _discard(hidden: Directory, lock: int) -> None:
    """Empty a hidden folder whose lock we hold, remove it, and close the lock."""
    try:
        with suppress(OSError):
            for name in hidden.names():
                if name != LOCK:
                    hidden.remove(name)
            # The lock goes last, so that nobody else works in the folder while it is being emptied.
            if not system.WINDOWS:
                commit.remove_lock(hidden)
    finally:
        system.unlock(lock)
        os.close(lock)
    if system.WINDOWS:
        commit.remove_lock(hidden)


def _sweep(path: Path) -> None:
    """Remove what a run left beside a folder that did not exist then and does now."""
    if not os.path.lexists(path):
        return
    with suppress(OSError, PlanError), claim(path) as hidden:
        if (lock := _locked(hidden)) is not None:
            _discard(hidden, lock)


class Staging:
    """The files of a plan while they are being written; a context manager.

    They lie in :func:`hidden_folder`, which is for its owner alone. Leaving the context without
    :meth:`commit` removes them. A killed process leaves the hidden folder behind; the next run to the same
    destination takes it over, or finishes what it had begun to put in place.

    Args:
        resume: go on with what an earlier run of the same plan left; and leave what is done if it comes to no
            end.

    Attributes:
        committed: whether the output has its own name, or will have it whatever happens.
        on_written: called with a file, by its number, and the bytes from and to that it has by now.
        kept: whether what is done was left for a run that resumes.
        cleared: whether an earlier run of the same plan had done something, which was not asked for.
    """

    def __init__(self, plan: Plan, *, drop_cache: bool = False, resume: bool = False) -> None:
        self._plan = plan
        self._resume = resume
        self.kept = False
        self.cleared = False
        self._keeping: Keeping | None = None
        self._drop_cache = drop_cache
        self._destination = plan.destination.absolute()
        self._path = hidden_folder(plan)
        self._joins = plan.folder and self._path.parent == self._destination
        self._made: list[Path] = []  # folders above the output that were absent, innermost first
        self._before = {target for target in targets(plan) if target.exists()}
        self._hidden: Directory | None = None
        self._staged: Directory | None = None
        self._lock_fd: int | None = None
        self._fds: OrderedDict[int, int] = OrderedDict()
        self._users: dict[int, int] = {}
        self._unsynced: dict[int, list[tuple[int, int]]] = {}
        self._waiting: dict[int, tuple[int, int, int]] = {}  # file: bytes from, to, and how many are written
        self._mutex = threading.Lock()
        self._added: list[str] = []
        self.on_written: Callable[[int, int, int], None] | None = None
        self.committed = False

    @property
    def order(self) -> None:
        """Tensors are dealt with as they lie in the source; see :class:`.sending.Sending`."""

    def __enter__(self) -> Staging:
        try:
            self._made = [folder for folder in self._path.parents if not folder.exists()]
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._take_over()
            if self._keeping is None:
                self._begin()
            # First, not last: one that cannot be read is no reason to find out after hours.
            for side in self._plan.side_files:
                self._write_side_file(side)
        except OSError as error:
            self._abandon()
            raise TranscodeError(f"{error.strerror}", file=error.filename or self._path) from error
        except BaseException:
            self._abandon()
            raise
        return self

    def _begin(self) -> None:
        """Make the files, and the journal."""
        assert self._hidden is not None
        self._hidden.mkdir(FILES)
        self._staged = Directory(self._path / FILES, self._hidden)
        for inner in _inner(self._plan):
            self._staged.mkdir(inner)
        for file in self._plan.files:
            fd = self._staged.open(file.name, os.O_RDWR | os.O_CREAT | os.O_EXCL)
            try:
                system.reserve(fd, file.size, self._staged.path / file.name)
                system.write_at(fd, memoryview(file.header), 0)
                system.write_at(fd, memoryview(file.tail), file.size - len(file.tail))
            finally:
                os.close(fd)
        self._keep_in(journal.begin(self._hidden, self._plan.digest), journal.Ledger())

    def _keep_in(self, fd: int, ledger: journal.Ledger) -> None:
        assert self._hidden is not None
        assert self._staged is not None
        names = [file.name for file in self._plan.files]
        self._keeping = Keeping(self._hidden, self._staged, names, fd, ledger)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._resume and error is not None and not self.committed:
            self.kept = self.keep()
        self._abandon()

    @property
    def ledger(self) -> journal.Ledger:
        """What is done of the plan, and where what is done is to be noted."""
        assert self._keeping is not None
        return self._keeping.ledger

    def keep(self) -> bool:
        """See :meth:`.keeping.Keeping.keep`."""
        return self._keeping is not None and self._keeping.keep()

    def write(self, file: int, offset: int, data: NDArray[np.uint8]) -> None:
        """Write bytes at an offset of a file, given by its number in the plan. Thread-safe.

        Raises:
            TranscodeError: the system refused, with its reason.
        """
        self._check()
        fd = self._acquire(file)
        try:
            system.write_at(fd, data.data, offset)
            self._written(file, fd, offset, data.nbytes)
        except OSError as error:
            raise TranscodeError(f"writing failed: {error.strerror}", file=self._name(file)) from error
        finally:
            self._release(file)

    def copy(self, move: Move) -> int:
        """Have the system copy bytes of the source to their place. Thread-safe.

        Returns:
            How many it copied, from the first on; less than all where it cannot.

        Raises:
            TranscodeError: the source has changed, or the system has no room.
        """
        self._check()
        fd = self._acquire(move.file)
        try:
            copied = move.source.copy(move.begin, move.begin + move.nbytes, fd, move.offset)
            self._written(move.file, fd, move.offset, copied)
        except OSError as error:
            raise TranscodeError(f"writing failed: {error.strerror}", file=self._name(move.file)) from error
        finally:
            self._release(move.file)
        return copied

    def open_file(self, file: int) -> BinaryIO:
        """A file of the plan, by its number, for reading what is written."""
        assert self._staged is not None
        return os.fdopen(self._staged.open(self._name(file), os.O_RDONLY), "rb", buffering=0)

    def staged(self, name: str) -> Path:
        """Where a file lies while it is not in place yet."""
        return self._path / FILES / name

    def add(self, name: str, content: bytes) -> None:
        """One more file, which takes its place with the others."""
        assert self._staged is not None
        self._staged.unlink(name)
        with os.fdopen(self._staged.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL), "wb") as out:
            out.write(content)
        self._added.append(name)

    def commit(self) -> None:
        """Make everything durable, then put it under its own name.

        A file and a new folder appear whole, by one rename. In a folder that existed, files are replaced as
        :mod:`transcode.io.commit` says. Signals wait until the renames are done.

        Raises:
            PlanError: the destination has appeared since the run began.
            TranscodeError: the system refused, with its reason.
        """
        self._check()
        try:
            self._sync()
            with system.undisturbed():
                self._place()
        except OSError as error:
            if not self.committed:
                raise TranscodeError(f"{error.strerror}", file=error.filename or self._path) from error
            raise TranscodeError(
                f"the output is whole, but not all of it is in place yet: {error.strerror}",
                file=self._plan.destination,
                hint="the next transcode command that reads or writes this folder finishes it",
            ) from error

    def _sync(self) -> None:
        self._close_all()
        assert self._staged is not None
        for name in [*_names(self._plan), *self._added]:
            fd = self._staged.open(name, os.O_RDWR)
            try:
                system.sync(fd)
                if self._drop_cache:
                    system.drop_cache(fd, 0, 0)
            finally:
                os.close(fd)
        for inner in _inner(self._plan):
            with Directory(self._path / FILES / inner, self._staged) as below:
                below.sync()
        self._staged.sync()

    def _place(self) -> None:
        assert self._hidden is not None
        assert self._staged is not None
        for target in targets(self._plan):
            if target.exists() and target not in self._before:
                raise PlanError("has appeared while this run was going on", file=target, hint="move it away")
        if self._joins:
            with Directory(Path(os.path.realpath(self._destination))) as folder:
                record = commit.decide(self._hidden, folder, [*_names(self._plan), *self._added])
                self.committed = True
                commit.carry_out(self._hidden, folder, record)
            return
        with Directory(Path(os.path.realpath(self._destination.parent))) as folder:
            if self._plan.folder:
                self._hidden.move(FILES, folder, self._destination.name)
            else:
                self._staged.move(self._plan.files[0].name, folder, self._destination.name)
                for name in self._added:
                    self._staged.move(name, folder, name)
            self.committed = True
            folder.sync()

    def _write_side_file(self, side: SideFile) -> None:
        assert self._staged is not None
        fd = self._staged.open(side.name, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        with os.fdopen(fd, "wb") as out:
            if isinstance(side.content, Path):
                with side.content.open("rb") as content:
                    shutil.copyfileobj(content, out)
            else:
                out.write(side.content)

    # Locking: the hidden folder belongs to whoever holds the lock on the file in it.

    def _take_over(self) -> None:
        """Become the owner of the hidden folder, and empty it of what a killed run left."""
        self._hidden = claim(self._path)
        self._lock_fd = _locked(self._hidden)
        if self._lock_fd is None:
            raise PlanError("another run is writing this destination", file=self._plan.destination)
        if self._joins:
            if (record := commit.load(self._hidden)) is not None:
                with Directory(Path(os.path.realpath(self._destination))) as folder:
                    commit.carry_out(self._hidden, folder, record)
            _sweep(_beside(self._destination))
        if self._resume and self._goes_on():
            return
        if not self._resume:
            with suppress(PlanError):
                known = journal.resumable(self._hidden, self._plan.digest)
                self.cleared = known is not None and known[0].noted
        for name in self._hidden.names():
            if name != LOCK:
                self._hidden.remove(name)

    def _goes_on(self) -> bool:
        """Take over what an earlier run of the same plan did; False where there is nothing that is whole.

        Raises:
            PlanError: it is of another plan; it stays where it is.
        """
        assert self._hidden is not None
        try:
            known = journal.resumable(self._hidden, self._plan.digest)
        except PlanError:
            self.kept = True
            raise
        if known is None or not known[0].noted:
            return False
        try:
            self._staged = Directory(self._path / FILES, self._hidden)
        except OSError:
            return False
        for file in self._plan.files:
            stat = self._staged.stat(file.name)
            if stat is None or stat.st_size != file.size:
                self._staged.close()
                self._staged = None
                return False
        for side in self._plan.side_files:
            self._staged.unlink(side.name)
        ledger, end = known
        self._keep_in(journal.reopen(self._hidden, end), ledger)
        return True

    def _check(self) -> None:
        """Raise what a sync has told."""
        if self._keeping is not None:
            self._keeping.check(self._path)

    def _abandon(self) -> None:
        """Remove what is staged, unless it is decided that it be put in place, and let others in."""
        self._close_all()
        if self._staged is not None:
            self._staged.close()
            self._staged = None
        if self._keeping is not None:
            self._keeping.close()
            self._keeping = None
        if self._hidden is not None:
            # Else the folder is not ours to empty, or is to be found as it is.
            if self._lock_fd is not None and not self.kept and not self._is_pending():
                _discard(self._hidden, self._lock_fd)
                self._lock_fd = None
            self._hidden.close()
            self._hidden = None
        if self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None
        for folder in () if self.committed or self.kept else self._made:
            with suppress(OSError):  # somebody else may use it by now
                folder.rmdir()

    def _is_pending(self) -> bool:
        assert self._hidden is not None
        try:
            return self.committed and self._joins and commit.is_decided(self._hidden)
        except OSError:
            return True  # better left lying there than lost

    # A by-block output may have more files than a process may have descriptors.

    def _acquire(self, file: int) -> int:
        with self._mutex:
            self._users[file] = self._users.get(file, 0) + 1
            if file not in self._fds:
                for other in list(self._fds):
                    if len(self._fds) < _OPEN_FILES:
                        break
                    if not self._users.get(other):
                        os.close(self._fds.pop(other))
                assert self._staged is not None
                self._fds[file] = self._staged.open(self._name(file), os.O_RDWR)
            self._fds.move_to_end(file)
            return self._fds[file]

    def _release(self, file: int) -> None:
        with self._mutex:
            self._users[file] -= 1

    def _close_all(self) -> None:
        with self._mutex:
            while self._fds:
                os.close(self._fds.popitem()[1])

    def _written(self, file: int, fd: int, offset: int, size: int) -> None:
        """Have what was written go on its way to the disk, once it is enough."""
        if not size:
            return
        assert self._keeping is not None
        self._keeping.touch(file)
        if self.on_written is not None:
            self.on_written(file, offset, offset + size)
        with self._mutex:
            begin, end, count = self._waiting.pop(file, (offset, offset, 0))
            begin, end, count = min(begin, offset), max(end, offset + size), count + size
            if count < _WRITEBACK_BATCH:
                self._waiting[file] = begin, end, count
        if count >= _WRITEBACK_BATCH:
            system.start_writeback(fd, begin, end - begin)
        if self._drop_cache:
            self._drop_behind(file, fd, offset, size)

    def _drop_behind(self, file: int, fd: int, offset: int, size: int) -> None:
        """Once enough has been written, wait for it to reach the disk and forget it."""
        with self._mutex:
            ranges = self._unsynced.setdefault(file, [])
            ranges.append((offset, size))
            if sum(nbytes for _, nbytes in ranges) < _DROP_BATCH:
                return
            self._unsynced[file] = []
        for begin, nbytes in ranges:
            system.drop_cache(fd, begin, nbytes, written=True)

    def _name(self, file: int) -> str:
        return self._plan.files[file].name
