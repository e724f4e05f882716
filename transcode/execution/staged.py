"""A plan's files where they are staged: written at their offsets by any thread, and noted in a journal."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from ..errors import TranscodeError
from ..io import system
from ..io.commit import FILES
from ..io.directory import Directory
from ..plan.plan import Plan
from . import journal
from .keeping import Keeping
from .moves import Move

__all__ = ["Staged", "file_names", "inner_folders", "lay"]

_OPEN_FILES = 64
_DROP_BATCH = 64 << 20
_WRITEBACK_BATCH = 16 << 20
"""Bytes of a file between two calls that have them go on their way: each call lets other threads in."""


def file_names(plan: Plan) -> list[str]:
    """Names of the files that a run puts in place, weights first."""
    return [file.name for file in plan.files] + [side.name for side in plan.side_files]


def inner_folders(plan: Plan) -> list[str]:
    """The subfolders that files of a plan are in: models for themselves, of a folder that is new."""
    folders = (name.rpartition("/")[0] for name in file_names(plan))
    return list(dict.fromkeys(folder for folder in folders if folder))


def lay(staged: Directory, plan: Plan, *, reserve: bool) -> None:
    """Make the weight files, with their headers.

    Args:
        staged: the folder that they are staged in, which is empty.
        reserve: have disk blocks behind them, where the file system can do that.

    Raises:
        PlanError: the disk is too full.
        OSError: the system refused.
    """
    for inner in inner_folders(plan):
        staged.mkdir(inner)
    for file in plan.files:
        fd = staged.open(file.name, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        try:
            if reserve:
                system.reserve(fd, file.size, staged.path / file.name)
            else:
                os.ftruncate(fd, file.size)
            system.write_at(fd, memoryview(file.header), 0)
            system.write_at(fd, memoryview(file.tail), file.size - len(file.tail))
        finally:
            os.close(fd)


class Staged:
    """The files of a plan in a folder of their own, where tiles are written. Who inherits says whose it is.

    Args:
        path: of the folder that holds them, with what is noted of them.

    Attributes:
        on_written: called with a file, by its number, and the bytes from and to that it has by now.
        written: bytes that were written.
    """

    rehearses = False

    def __init__(self, plan: Plan, path: Path, *, drop_cache: bool = False) -> None:
        self._plan = plan
        self._path = path
        self._drop_cache = drop_cache
        self._keeping: Keeping | None = None
        self._hidden: Directory | None = None
        self._staged: Directory | None = None
        self._fds: OrderedDict[int, int] = OrderedDict()
        self._users: dict[int, int] = {}
        self._unsynced: dict[int, list[tuple[int, int]]] = {}
        self._waiting: dict[int, tuple[int, int, int]] = {}  # file: bytes from, to, and how many are written
        self._mutex = threading.Lock()
        self.on_written: Callable[[int, int, int], None] | None = None
        self.written = 0

    @property
    def order(self) -> None:
        """Tensors are dealt with as they lie in the source; see :class:`.sending.Sending`."""

    def _keep_in(self, fd: int, ledger: journal.Ledger) -> None:
        assert self._hidden is not None
        assert self._staged is not None
        names = [file.name for file in self._plan.files]
        self._keeping = Keeping(self._hidden, self._staged, names, fd, ledger)

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
        self.check()
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
        self.check()
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

    def check(self) -> None:
        """Raise what a sync has told."""
        if self._keeping is not None:
            self._keeping.check(self._path)

    def _let_go(self) -> None:
        """Close everything but the folder itself."""
        self._close_all()
        if self._staged is not None:
            self._staged.close()
            self._staged = None
        if self._keeping is not None:
            self._keeping.close()
            self._keeping = None

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
            self.written += size
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
