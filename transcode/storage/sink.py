"""Writing a plan's files: under temporary names, at known offsets, and into place when all is done."""

from __future__ import annotations

import os
import shutil
import threading
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from ..core.plan import Plan
from ..errors import PlanError, TranscodeError
from . import system

__all__ = ["Staging", "check_destination"]

_LOCK = ".transcode-lock"
_OPEN_FILES = 64
_DROP_BATCH = 64 << 20


def check_destination(plan: Plan, *, force: bool, inputs: set[Path]) -> None:
    """Refuse a destination that exists, is read by the run, or has too little room.

    Args:
        force: what exists may be replaced.
        inputs: resolved paths of the files that are read.

    Raises:
        PlanError: with the path and what to do.
    """
    targets = _targets(plan)
    _refuse_source(plan, targets, inputs)
    if plan.folder and plan.destination.exists() and not plan.destination.is_dir():
        raise PlanError("is a file, not a folder", file=plan.destination, hint="write elsewhere")
    if plan.folder and plan.destination.is_symlink() and not plan.destination.exists():
        # A rename cannot give a folder the name of a link, and would be the last thing that the run does.
        raise PlanError(
            f"is a link to {os.readlink(plan.destination)}, which does not exist",
            file=plan.destination,
            hint="make that folder, or remove the link",
        )
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
    parent = _existing_parent(plan.destination if plan.folder else plan.destination.absolute().parent)
    if not parent.is_dir():
        raise PlanError(f"{parent} is a file, not a folder", file=plan.destination, hint="write elsewhere")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise PlanError(f"{parent}: Permission denied", file=plan.destination, hint="write elsewhere")
    free = system.free_space(parent)
    if free < plan.file_bytes:
        raise PlanError(
            f"needs {plan.file_bytes} bytes, the file system has {free} left",
            file=plan.destination,
            hint="free some space or choose another destination",
        )


def _refuse_source(plan: Plan, targets: list[Path], inputs: set[Path]) -> None:
    """Refuse to write over, or among, the files that are read, by whatever names they go.

    Links, hard links and mounts give a file several names; device and inode are the same for all of them.
    """
    destination = plan.destination
    read = {_identity(path): path for path in inputs if path.exists()}
    whole = plan.folder and _same(destination, plan.source)
    found = [target for target in targets if target.resolve() in inputs or _identity(target) in read]
    if plan.folder and destination.is_dir():
        found += [path for path in destination.iterdir() if path.is_file() and _identity(path) in read]
    held = read.get(_identity(found[0]), found[0]) if found else destination
    if whole or (found and plan.folder and _same(destination, held.parent)):
        raise PlanError(
            "is the folder of the source, which is never written to", file=destination,
            hint="write to another folder",
        )  # fmt: skip
    if found:
        other = "" if held.resolve() == found[0].resolve() else f" as {held}"
        raise PlanError(
            f"is read by this run{other}, and never overwritten", file=found[0], hint="write elsewhere"
        )


def _identity(path: Path) -> tuple[int, int] | None:
    """Device and inode, None where there is no such file."""
    try:
        facts = path.stat()
    except OSError:
        return None
    return facts.st_dev, facts.st_ino


def _same(first: Path, second: Path) -> bool:
    """Whether two paths lead to one existing file or folder."""
    one = _identity(first)
    return one is not None and one == _identity(second)


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
        self._made: list[Path] = []  # folders above the output that were absent, innermost first
        self._before = {target for target in _targets(plan) if target.exists()}
        self._lock_fd: int | None = None
        self._fds: OrderedDict[int, int] = OrderedDict()
        self._users: dict[int, int] = {}
        self._unsynced: dict[int, list[tuple[int, int]]] = {}
        self._mutex = threading.Lock()
        self._committed = False

    def __enter__(self) -> Staging:
        try:
            self._made = [folder for folder in self._folder.parents if not folder.exists()]
            self._folder.mkdir(parents=True, exist_ok=True)
            self._take_lock()
            self._clear()  # of what a killed run left
            for file in self._plan.files:
                path = self._folder / file.name
                fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | _BINARY, 0o666)
                try:
                    system.reserve(fd, file.size, path)
                    system.write_at(fd, memoryview(file.header), 0)
                finally:
                    os.close(fd)
            # First, not last: one that cannot be read is no reason to find out after hours.
            self._write_side_files()
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

        Raises:
            PlanError: the destination has appeared since the run began.
            TranscodeError: the system refused, with its reason.
        """
        try:
            self._commit()
        except OSError as error:
            raise TranscodeError(f"{error.strerror}", file=error.filename or self._folder) from error

    def _commit(self) -> None:
        self._close_all()
        destination = self._plan.destination.absolute()
        names = [file.name for file in self._plan.files] + [side.name for side in self._plan.side_files]
        for name in names:
            fd = os.open(self._folder / name, os.O_RDWR | _BINARY)
            try:
                os.fsync(fd)
                if self._drop_cache:
                    system.drop_cache(fd, 0, 0)
            finally:
                os.close(fd)
        for target in _targets(self._plan):
            if target.exists() and target not in self._before:
                raise PlanError("has appeared while this run was going on", file=target, hint="move it away")
        if self._fresh:
            system.sync_folder(self._folder)
            os.rename(self._folder, destination)
            self._drop_lock(destination)
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

    def _write_side_files(self) -> None:
        for side in self._plan.side_files:
            path = self._folder / side.name
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(side.content, Path):
                shutil.copyfile(side.content, path)
            else:
                path.write_bytes(side.content)

    # Locking: the hidden folder belongs to whoever holds the lock on the file in it.

    def _take_lock(self) -> None:
        path = self._folder / _LOCK
        fd = os.open(path, os.O_RDWR | os.O_CREAT | _BINARY, 0o666)
        # Whoever held the lock may have finished and taken the file away between our opening and our locking.
        if not system.try_lock(fd) or not path.exists() or not os.path.samestat(os.fstat(fd), path.stat()):
            os.close(fd)
            raise PlanError("another run is writing this destination", file=self._plan.destination)
        self._lock_fd = fd

    def _drop_lock(self, folder: Path) -> None:
        """Let others in; the folder is theirs from then on."""
        if self._lock_fd is not None:
            (folder / _LOCK).unlink(missing_ok=True)
            os.close(self._lock_fd)
            self._lock_fd = None

    def _clear(self) -> None:
        for path in self._folder.iterdir():
            if path.name == _LOCK:
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()

    def _abandon(self) -> None:
        self._close_all()
        if self._lock_fd is None:  # the folder is another run's
            return
        with suppress(OSError):
            self._clear()
        # The lock goes last, so that nobody else works in the folder while it is being emptied.
        self._drop_lock(self._folder)
        for folder in (self._folder, *([] if self._committed else self._made)):
            with suppress(OSError):  # somebody else may use it by now
                folder.rmdir()

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
