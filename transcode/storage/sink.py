"""Writing a plan's files: under temporary names, at known offsets, and into place when all is done."""

from __future__ import annotations

import os
import shutil
import threading
from collections import OrderedDict
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from ..core.plan import Plan
from ..errors import PlanError, TranscodeError
from . import system

__all__ = ["Staging", "check_destination"]

_OPEN_FILES = 64
_DROP_BATCH = 64 << 20


def check_destination(plan: Plan, *, force: bool, inputs: set[Path]) -> None:
    """Refuse a destination that exists, is part of the source, or has too little room.

    Args:
        force: what exists may be replaced.
        inputs: resolved paths of the source's files.

    Raises:
        PlanError: with the path and what to do.
    """
    targets = _targets(plan)
    for target in targets:
        if target.resolve() in inputs:
            raise PlanError(
                "is a file of the source, which is never overwritten", file=target, hint="write elsewhere"
            )
    if plan.folder and plan.destination.exists() and not plan.destination.is_dir():
        raise PlanError("is a file, not a folder", file=plan.destination, hint="write elsewhere")
    if not plan.folder and plan.destination.is_dir():
        raise PlanError("is a folder", file=plan.destination, hint="name the file inside it")
    for target in targets:
        if target.is_dir():
            raise PlanError("is a folder", file=target, hint="remove it")
    existing = [target for target in targets if target.exists()]
    if existing and not force:
        more = f" (and {len(existing) - 1} more)" if len(existing) > 1 else ""
        raise PlanError(f"exists already{more}", file=existing[0], hint="pass --force to replace it")
    if plan.folder and plan.destination.is_dir():
        ours = {target.name for target in targets}
        strangers = sorted(
            path.name
            for path in plan.destination.iterdir()
            if path.name.endswith((".safetensors", ".safetensors.index.json")) and path.name not in ours
        )
        if strangers:
            # Loaders glob *.safetensors or trust an index: old weights beside new ones would be mixed up.
            raise PlanError(
                f"holds other weights ({', '.join(strangers[:3])}{', ...' if len(strangers) > 3 else ''})",
                file=plan.destination,
                hint="remove them or choose another folder",
            )
    free = system.free_space(_existing_parent(plan.destination))
    if free < plan.bytes_out:
        raise PlanError(
            f"needs {plan.bytes_out} bytes, the file system has {free} left",
            file=plan.destination,
            hint="free some space or choose another destination",
        )


def _targets(plan: Plan) -> list[Path]:
    if not plan.folder:
        return [plan.destination]
    names = [file.name for file in plan.files] + [side.name for side in plan.side_files]
    return [plan.destination / name for name in names]


def _existing_parent(path: Path) -> Path:
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path


class Staging:
    """The files of a plan while they are being written; a context manager.

    They lie in a hidden folder beside the destination (inside it, if it is a folder that exists), on the same
    file system, so that moving them into place is a rename. Leaving the context without :meth:`commit`
    removes them. A killed process leaves the hidden folder behind; the next run to the same destination
    takes it over.
    """

    def __init__(self, plan: Plan, *, drop_cache: bool = False) -> None:
        self._plan = plan
        self._drop_cache = drop_cache
        destination = plan.destination.absolute()
        self._fresh = plan.folder and not destination.exists()
        parent = destination if plan.folder and not self._fresh else destination.parent
        self._folder = parent / f".{destination.name}.transcode-part"
        self._lock_fd: int | None = None
        self._fds: OrderedDict[int, int] = OrderedDict()
        self._users: dict[int, int] = {}
        self._unsynced: dict[int, list[tuple[int, int]]] = {}
        self._mutex = threading.Lock()
        self._committed = False

    def __enter__(self) -> Staging:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._take_lock()
            for old in self._folder.iterdir():  # left by a killed run
                if old.name != "lock":
                    old.unlink()
            for file in self._plan.files:
                path = self._folder / file.name
                fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | _BINARY, 0o666)
                try:
                    system.reserve(fd, file.size, path)
                    system.write_at(fd, memoryview(file.header), 0)
                finally:
                    os.close(fd)
        except OSError as error:
            self._abandon()
            raise TranscodeError(f"{error.strerror}", file=error.filename or self._folder) from error
        except BaseException:
            self._abandon()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._committed:
            self._abandon()

    def write(self, file: int, offset: int, data: NDArray[np.uint8]) -> None:
        """Write bytes at an offset of a file, given by its number in the plan. Thread-safe.

        Raises:
            TranscodeError: the system refused, with its reason.
        """
        fd = self._acquire(file)
        try:
            system.write_at(fd, data.data, offset)
            system.start_writeback(fd, offset, data.nbytes)
            if self._drop_cache:
                self._drop_behind(file, fd, offset, data.nbytes)
        except OSError as error:
            raise TranscodeError(f"writing failed: {error.strerror}", file=self._name(file)) from error
        finally:
            self._release(file)

    def commit(self) -> None:
        """Make everything durable, then put it under its own name.

        A new folder appears whole, by one rename. In a folder that existed files are replaced one by one,
        the index last.
        """
        self._close_all()
        destination = self._plan.destination.absolute()
        for side in self._plan.side_files:
            path = self._folder / side.name
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(side.content, Path):
                shutil.copyfile(side.content, path)
            else:
                path.write_bytes(side.content)
        names = [file.name for file in self._plan.files] + [side.name for side in self._plan.side_files]
        for name in names:
            fd = os.open(self._folder / name, os.O_RDWR | _BINARY)
            try:
                os.fsync(fd)
                if self._drop_cache:
                    system.drop_cache(fd, 0, 0)
            finally:
                os.close(fd)
        if self._fresh:
            self._drop_lock()
            system.sync_folder(self._folder)
            os.rename(self._folder, destination)
        else:
            for name in names:
                target = destination / name if self._plan.folder else destination
                os.replace(self._folder / name, target)
        self._committed = True
        system.sync_folder(destination.parent)
        if not self._fresh:
            if self._plan.folder:
                system.sync_folder(destination)
            self._abandon()

    # Locking: the hidden folder belongs to whoever holds the lock on the file in it.

    def _take_lock(self) -> None:
        fd = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | _BINARY, 0o666)
        if not system.try_lock(fd):
            os.close(fd)
            raise PlanError("another run is writing this destination", file=self._plan.destination)
        self._lock_fd = fd

    def _drop_lock(self) -> None:
        if self._lock_fd is not None:
            (self._folder / "lock").unlink(missing_ok=True)
            os.close(self._lock_fd)
            self._lock_fd = None

    def _abandon(self) -> None:
        self._close_all()
        if self._lock_fd is not None:  # else the folder is another run's
            self._drop_lock()
            shutil.rmtree(self._folder, ignore_errors=True)

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
                self._fds[file] = os.open(self._folder / self._name(file), os.O_RDWR | _BINARY)
            self._fds.move_to_end(file)
            return self._fds[file]

    def _release(self, file: int) -> None:
        with self._mutex:
            self._users[file] -= 1

    def _close_all(self) -> None:
        with self._mutex:
            while self._fds:
                os.close(self._fds.popitem()[1])

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


_BINARY = getattr(os, "O_BINARY", 0)
