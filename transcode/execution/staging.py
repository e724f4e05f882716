"""A plan's files while they are being written: under temporary names, and into place when all is done."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

from ..core.output import SideFile
from ..errors import PlanError, TranscodeError
from ..io import commit, system
from ..io.commit import CONSUMING, FILES, LOCK, PART
from ..io.directory import Directory, claim
from ..plan.plan import Plan
from ..voice import called
from . import journal
from .staged import Staged, file_names, inner_folders, lay

__all__ = [
    "GO_ON",
    "Staging",
    "hidden_folder",
    "hidden_of",
    "holds_consumed",
    "is_left",
    "leftover",
    "locked",
    "refuse_interrupted",
    "refuse_other",
    "targets",
]


GO_ON = "what is done is kept: the same command goes on there"


def targets(plan: Plan) -> list[Path]:
    """The files that a run puts in place, weights first."""
    if not plan.folder:
        return [plan.destination]
    return [plan.destination / name for name in file_names(plan)]


def hidden_folder(plan: Plan) -> Path:
    """Where a plan's files are staged: on the file system of the destination, so that a rename places them.

    Inside the destination if that is a folder that exists, else beside it.
    """
    return hidden_of(plan.destination, plan.folder)


def hidden_of(destination: Path, folder: bool) -> Path:
    """:func:`hidden_folder` of a plan that writes a file, or a folder, there."""
    destination = destination.absolute()
    return destination / PART if folder and destination.exists() else _beside(destination)


def _beside(destination: Path) -> Path:
    return destination.parent / f".{destination.name}{PART}"


def leftover(plan: Plan) -> int:
    """Bytes that a killed run left where this one stages its files, and clears; 0 if one goes on there."""
    with suppress(OSError, PlanError), Directory(hidden_folder(plan)) as folder:
        if (lock := _locked(folder)) is not None:
            os.close(lock)
            return 0 if holds_consumed(folder) else folder.nbytes()
    return 0


def holds_consumed(hidden: Directory) -> bool:
    """Whether a hidden folder holds the only copy of something: of shards of a source that were deleted."""
    if hidden.stat(CONSUMING) is None or hidden.stat(FILES) is None:
        return False
    with Directory(hidden.path / FILES, hidden) as staged:
        if all(name.endswith(_BESIDE) for name in staged.names()):  # the rest is in place
            return False
    known = journal.read(hidden)
    return known is None or bool(known[1].consumed)  # where it cannot be told, it may


def is_left(plan: Plan) -> bool:
    """Whether an interrupted run of the plan left something to go on with."""
    with suppress(OSError, PlanError), Directory(hidden_folder(plan)) as hidden:
        known = journal.resumable(hidden, plan.digest)
        return known is not None and hidden.stat(FILES) is not None
    return False


def refuse_interrupted(destination: Path, folder: bool) -> None:
    """Refuse to plan anew where a run was interrupted that has deleted some of its source.

    Raises:
        PlanError: with how to go on.
    """
    path = hidden_of(destination, folder)
    with suppress(OSError), Directory(path) as hidden:
        if holds_consumed(hidden):
            raise PlanError(
                "a run to it was interrupted that has deleted some of its source, or is about to",
                file=destination,
                hint=f"go on with it: {called('go_on_consuming', path / CONSUMING)}",
            )


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


@contextmanager
def locked(hidden: Directory, plan: Plan) -> Iterator[None]:
    """Be the only one in the hidden folder of a plan.

    Raises:
        PlanError: another run is in it.
    """
    fd = _locked(hidden)
    if fd is None:
        raise PlanError(_BUSY, file=plan.destination)
    try:
        yield
    finally:
        system.unlock(fd)
        os.close(fd)


_BESIDE = (".sha256", ".intoto.json")
_BUSY = "another run is writing this destination"


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
            if holds_consumed(hidden):
                os.close(lock)
            else:
                _discard(hidden, lock)


class Staging(Staged):
    """The files of a plan while they are being written; a context manager.

    They lie in :func:`hidden_folder`, which is for its owner alone. Leaving the context without
    :meth:`commit` removes them. A killed process leaves the hidden folder behind; the next run to the same
    destination takes it over, or finishes what it had begun to put in place.

    Args:
        resume: go on with what an earlier run of the same plan left; and leave what is done if it comes to no
            end.
        consuming: the source is deleted as it is done: blocks are not reserved, as there may be no room yet.

    Attributes:
        committed: whether the output has its own name, or will have it whatever happens.
        kept: whether what is done was left for a run that resumes.
        cleared: whether an earlier run of the same plan had done something, which was not asked for.
    """

    def __init__(
        self, plan: Plan, *, drop_cache: bool = False, resume: bool = False, consuming: bool = False
    ) -> None:
        super().__init__(plan, hidden_folder(plan), drop_cache=drop_cache)
        self._consuming = consuming
        self._resume = resume
        self.kept = False
        self.cleared = False
        self._destination = plan.destination.absolute()
        self._joins = plan.folder and self._path.parent == self._destination
        self._made: list[Path] = []  # folders above the output that were absent, innermost first
        self._before = {target for target in targets(plan) if target.exists()}
        self._lock_fd: int | None = None
        self._added: list[str] = []
        self.committed = False

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
        lay(self._staged, self._plan, reserve=not self._consuming)
        self._keep_in(journal.begin(self._hidden, self._plan.digest), journal.Ledger())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._resume and error is not None and not self.committed:
            self.kept = self.keep()
        self._abandon()

    def consume(self, inputs: Collection[int]) -> None:
        """See :meth:`.keeping.Keeping.consume`."""
        assert self._keeping is not None
        self._keeping.consume(inputs)

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
        self.check()
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
        for name in [*file_names(self._plan), *self._added]:
            fd = self._staged.open(name, os.O_RDWR)
            try:
                system.sync(fd)
                if self._drop_cache:
                    system.drop_cache(fd, 0, 0)
            finally:
                os.close(fd)
        for inner in inner_folders(self._plan):
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
                record = commit.decide(self._hidden, folder, [*file_names(self._plan), *self._added])
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
            raise PlanError(_BUSY, file=self._plan.destination)
        if self._joins:
            if (record := commit.load(self._hidden)) is not None:
                with Directory(Path(os.path.realpath(self._destination))) as folder:
                    commit.carry_out(self._hidden, folder, record)
            _sweep(_beside(self._destination))
        if self._resume and self._goes_on():
            return
        if holds_consumed(self._hidden):
            self.kept = True
            raise PlanError(
                "holds what became of shards of the source that are gone, and is not written over",
                file=self._path,
                hint=f"go on with it: {called('go_on_consuming', self._path / CONSUMING)}",
            )
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

    def _abandon(self) -> None:
        """Remove what is staged, unless it is decided that it be put in place, and let others in."""
        self._let_go()
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
