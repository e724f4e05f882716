"""Parts of a plan, done by several processes, on one machine or many: over a shared folder and nothing else.

    .DST.transcode-parts/
        head            digest of the plan, number of parts
        plan.json       the plan, for who joins them
        files/          the staged files, into which all write
        3.6f1c.journal  what a process has done of part 3
        3.done          that part 3 is done, as a journal that tells of all of it
        joining         who joins them

The folder appears whole, by a rename, with files that have their size and their headers. No two parts write
the same bytes, and two processes at the same part write the same ones; each has a journal of its own. So
nobody needs a lock, which shared folders may not have: what must be decided once is a name that is made or
exchanged in one step.
"""

from __future__ import annotations

import json
import os
import re
import secrets
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from ..core.records import dataclass
from ..core.small_json import parse_object
from ..errors import FormatError, PlanError, TranscodeError
from ..io import system
from ..io.commit import FILES
from ..io.directory import Directory, claim
from ..plan import file as plan_file
from ..plan.plan import Plan
from . import journal
from .shares import Shares
from .staged import Staged, lay
from .staging import is_left

__all__ = [
    "PLAN",
    "Part",
    "count_of",
    "head_of",
    "held",
    "place",
    "refuse_strange",
    "remove",
    "write_journal",
]

PARTS = ".transcode-parts"
_FORMAT = "transcode-parts-1"
_HEAD = "head"
PLAN = "plan.json"
_JOINING = "joining"
_MARK = re.compile(r"(\d+)\.done")
_JOURNAL = re.compile(r"(\d+)\.[0-9a-f]+\.journal")
_GONE = "gone-"


def place(destination: Path) -> Path:
    """Where the parts of a destination are: beside it, or in a folder that was there before them."""
    destination = destination.absolute()
    beside = destination.parent / f".{destination.name}{PARTS}"
    return destination / PARTS if destination.is_dir() and not os.path.lexists(beside) else beside


@dataclass(frozen=True)
class _Head:
    """What a folder of parts says it is."""

    plan: str
    count: int

    @property
    def numbers(self) -> range:
        """The parts."""
        return range(1, self.count + 1)

    def refuse_other(self, plan: Plan, path: Path) -> None:
        if self.plan != plan.digest:
            raise PlanError(
                "holds parts of another plan: another recipe, source or version",
                file=path,
                hint="remove it to start anew",
            )


def head_of(hidden: Directory) -> _Head:
    """Raises PlanError where there is none that can be read."""
    try:
        with os.fdopen(hidden.open(_HEAD, os.O_RDONLY), "rb") as file:
            table = parse_object(file.read(1 << 16))
    except (OSError, FormatError):
        table = {}
    match table:
        case {"format": str(kind), "plan": str(digest), "parts": int(count)} if kind == _FORMAT and count > 0:
            return _Head(digest, count)
    raise PlanError("is no whole folder of parts", file=hidden.path, hint="remove it to start anew")


def _done(hidden: Directory) -> set[int]:
    """The parts that have a mark."""
    return {int(known[1]) for name in hidden.names() if (known := _MARK.fullmatch(name))}


def held(plan: Plan) -> int:
    """Bytes on disk of what parts of a plan have made by now."""
    with suppress(OSError, PlanError), Directory(place(plan.destination)) as hidden:
        if head_of(hidden).plan == plan.digest:
            return hidden.nbytes()
    return 0


def count_of(plan: Plan) -> int | None:
    """In how many parts a plan is shared out already; None where it is not, or cannot be told."""
    with suppress(OSError, PlanError), Directory(place(plan.destination)) as hidden:
        head = head_of(hidden)
        return head.count if head.plan == plan.digest else None
    return None


def refuse_strange(plan: Plan, count: int | None = None) -> None:
    """Refuse to join parts of another plan, or of the same that is shared out otherwise; take away what is
    left of such that were joined.

    Args:
        count: how many there are; None for as many as there were.

    Raises:
        PlanError: with what to do.
    """
    path = place(plan.destination)
    with suppress(OSError), Directory(Path(os.path.realpath(path.parent))) as parent:
        _sweep(path, parent)
    if os.path.lexists(path):
        with claim(path, make=False) as hidden:
            head = head_of(hidden)
            is_joined = hidden.stat(FILES) is None and not is_left(plan)
        head.refuse_other(plan, path)
        if is_joined:
            remove(plan)
            return
        if head.count != count is not None:
            raise PlanError(
                f"is shared out in {head.count} parts, not in {count}",
                file=path,
                hint=f"give one of {head.count}, or remove it to start anew",
            )


class Part(Staged):
    """The files of a plan that other parts write into, too; a context manager.

    What is done is always kept: the same part run again goes on there.

    Args:
        number, count: which part, from 1 on, of how many.

    Attributes:
        done: whether the part was done before.
        share: what there is to do of the plan.
    """

    def __init__(self, plan: Plan, number: int, count: int, *, drop_cache: bool = False) -> None:
        super().__init__(plan, place(plan.destination), drop_cache=drop_cache)
        self._number = number
        self._count = count
        self._token = secrets.token_hex(4)
        self.done = False
        self.share: journal.Share = {}

    def __enter__(self) -> Part:
        try:
            self._hidden = self._shared()
            self.done = self._number in _done(self._hidden)
            if not self.done:
                self._staged = Directory(self._path / FILES, self._hidden)
                _refuse_cut(self._staged, self._plan, self._path)
                ledger = self._known()
                ledger.share = self.share = Shares(self._plan).part(self._number, self._count)
                self._keep_in(journal.begin(self._hidden, self._plan.digest, self._own("journal")), ledger)
                self._hidden.sync()
        except OSError as error:
            self._close()
            raise TranscodeError(f"{error.strerror}", file=error.filename or self._path) from error
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.keep()
        self._close()

    def mark(self) -> None:
        """Say that the part is done; durable on return.

        Raises:
            TranscodeError: the system refused, or has lost bytes.
        """
        assert self._hidden is not None
        try:
            self._close_all()
            self.keep()
            self.check()
            known = self._known()
            if self._number in _done(self._hidden):  # by another process, which has taken the journals away
                return
            if not known.is_whole(self.share):
                raise TranscodeError(
                    "not all that was written is noted", file=self._path, hint="run it again"
                )
            write_journal(self._hidden, self._plan.digest, self._own("mark"), known)
            self._hidden.move(self._own("mark"), self._hidden, f"{self._number}.done")
            self._hidden.sync()
            for name in self._journals():
                self._hidden.unlink(name)
        except OSError as error:
            raise TranscodeError(f"{error.strerror}", file=error.filename or self._path) from error

    def left(self) -> tuple[int, ...]:
        """The parts that are not done."""
        assert self._hidden is not None
        done = _done(self._hidden)
        if self._number not in done:  # who joined them has removed it
            return ()
        return tuple(sorted(set(range(1, self._count + 1)) - done))

    def joins(self) -> bool:
        """Whether this part is the one that joins them all: the first that asks, run again or not."""
        assert self._hidden is not None
        try:
            fd = self._hidden.open(_JOINING, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            with os.fdopen(self._hidden.open(_JOINING, os.O_RDONLY), "rb") as file:
                return file.read(32) == str(self._number).encode()
        except FileNotFoundError:
            return False
        with os.fdopen(fd, "wb") as file:
            file.write(str(self._number).encode())
        return True

    def _own(self, kind: str) -> str:
        return f"{self._number}.{self._token}.{kind}"

    def _journals(self) -> list[str]:
        assert self._hidden is not None
        names = ((name, _JOURNAL.fullmatch(name)) for name in self._hidden.names())
        return [name for name, known in names if known and int(known[1]) == self._number]

    def _known(self) -> journal.Ledger:
        """What all processes that were at this part have done of it."""
        assert self._hidden is not None
        ledger = journal.Ledger()
        for name in self._journals():
            if (known := journal.resumable(self._hidden, self._plan.digest, name)) is not None:
                ledger.take_over(known[0])
        return ledger

    def _shared(self) -> Directory:
        """The folder of all parts, made where there is none."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        is_new = not os.path.lexists(self._path) and _make(self._path, self._plan, self._count)
        hidden = claim(self._path, make=False)
        try:
            refuse_strange(self._plan, self._count)
            if is_new:
                with Directory(self._path / FILES, hidden) as staged:
                    _reserve(staged, self._plan)
        except BaseException:
            hidden.close()
            raise
        return hidden

    def _close(self) -> None:
        self._let_go()
        if self._hidden is not None:
            self._hidden.close()
            self._hidden = None


def _make(path: Path, plan: Plan, count: int) -> bool:
    """Make the folder of parts; False where another process was first."""
    draft = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    with Directory(Path(os.path.realpath(path.parent))) as parent, claim(draft) as hidden:
        try:
            hidden.mkdir(FILES)
            with Directory(draft / FILES, hidden) as staged:
                lay(staged, plan, reserve=False)  # once only, by who is first
            plan_file.save(plan, draft / PLAN)
            head = {"format": _FORMAT, "plan": plan.digest, "parts": count}
            with os.fdopen(hidden.open(_HEAD, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(json.dumps(head).encode())
            hidden.sync()
            parent.move(draft.name, parent, path.name)
        except BaseException as error:
            with suppress(OSError):
                parent.remove(draft.name)
            if isinstance(error, OSError) and os.path.lexists(path):
                return False
            raise
        parent.sync()
    return True


def _refuse_cut(staged: Directory, plan: Plan, path: Path) -> None:
    """Refuse staged files that are not as long as they were made: what others have done is gone with their
    ends, and writing behind them would hide that.

    Raises:
        PlanError: one is.
    """
    for file in plan.files:
        stat = staged.stat(file.name)
        if stat is None or stat.st_size != file.size:
            how = "is gone" if stat is None else f"has {stat.st_size} bytes, not {file.size}"
            raise PlanError(f"{file.name} {how}: it was damaged", file=path, hint="remove it to start anew")


def _reserve(staged: Directory, plan: Plan) -> None:
    for file in plan.files:
        fd = staged.open(file.name, os.O_RDWR)
        try:
            system.reserve(fd, file.size, staged.path / file.name)
        finally:
            os.close(fd)


def write_journal(hidden: Directory, digest: str, name: str, ledger: journal.Ledger) -> None:
    fd = journal.begin(hidden, digest, name)
    try:
        journal.extend(fd, ledger.done, ledger.findings)
        system.sync(fd)
    finally:
        os.close(fd)


def remove(plan: Plan) -> None:
    """Take away what is left of parts that were joined, and of who failed to be the first."""
    path = place(plan.destination)
    with suppress(OSError, PlanError), Directory(Path(os.path.realpath(path.parent))) as parent:
        for name in parent.names():
            if name == path.name or (name.startswith(f"{path.name}.") and _GONE not in name):
                with suppress(OSError):  # at once, as half of it could not be told from what is damaged
                    parent.move(name, parent, f"{path.name}.{_GONE}{secrets.token_hex(4)}")
        _sweep(path, parent)


def _sweep(path: Path, parent: Directory) -> None:
    """Remove what somebody was removing."""
    for name in parent.names():
        if name.startswith(f"{path.name}.{_GONE}"):
            with suppress(OSError):
                parent.remove(name)
