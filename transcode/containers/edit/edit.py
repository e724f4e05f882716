"""Metadata edited in place: kilobytes are written, whatever the size of the file.

There are three ways, tried in this order:

overwrite
    The new header fits into the old one's space: the bytes that differ are written over it.
insert
    It does not: the file system inserts whole blocks before the first byte, and the header is written into
    what it gained. Tensors stay where they are on disk; their place in the file moves by whole blocks.
copy
    The file system cannot do that, or somebody has the file open: tensors are streamed to a new file, which
    then takes the old one's name.

In every way an undo record is on disk before the file changes (:mod:`.undo`), an exclusive lock is held
(:mod:`transcode.io.lock`), and permissions, owner and extended attributes stay. The modification time becomes
the time of the edit, as caches rely on it, unless it is to be kept.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import field
from dataclasses import replace as replace_fields
from os import PathLike
from pathlib import Path
from typing import Literal

from ...core.prefix import common_prefix
from ...core.records import dataclass
from ...core.shown import Overview, Shown
from ...core.text import count, size
from ...errors import FormatError, PlanError, TranscodeError
from ...io import insert_range
from ...io.links import shared
from ...io.lock import locked
from ...io.named import local
from ...io.system import open_file, replace, sync, sync_folder, write_at
from ...voice import called
from . import undo
from .form import Facts, Form
from .forms import form_of
from .replace import Progress, keep_copy, silent, stream
from .undo import Record, repair

__all__ = [
    "Backup",
    "Edited",
    "Options",
    "Way",
    "edit",
    "preview",
    "repair",
    "restore",
    "restore_copy",
    "save_backup",
]

Way = Literal["unchanged", "overwrite", "insert", "copy"]
Backup = Literal["header", "full", "none"]
Change = Callable[[dict[str, str]], Mapping[str, str]]

_ROOM = 8192
"""Spare bytes that a header gets at least when it grows."""


@dataclass(frozen=True, slots=True)
class Options:
    """How to edit.

    Attributes:
        backup: keep the old header beside the file, a copy of the whole file, or nothing.
        follow_links: also edit bytes that other files share.
        keep_mtime: give the file its old modification time back.
        copy: allow the copy of the whole file where nothing else works.
        wait: seconds to wait for another editor.
        progress: told ``(done, total)`` bytes during a copy.
    """

    backup: Backup = "header"
    follow_links: bool = False
    keep_mtime: bool = False
    copy: bool = True
    wait: float = 10.0
    progress: Progress = field(default=silent, repr=False)


@dataclass(frozen=True, slots=True, repr=False)
class Edited(Shown):
    """What an edit did, or would do.

    Attributes:
        path: as it was given.
        way: how.
        before: metadata before.
        after: metadata after.
        header_before: bytes before the data section, before.
        header_after: the same, after.
        written: bytes written to all files; of an edit that was only previewed, 0.
        backup: where what was there before is kept.
    """

    path: Path
    way: Way
    before: Mapping[str, str]
    after: Mapping[str, str]
    header_before: int
    header_after: int
    written: int = 0
    backup: Path | None = None

    def overview(self) -> Overview:
        """Where, how, and of how many keys."""
        keys = f"{count(len(self.before), 'key')} before, {len(self.after)} after"
        return Overview(f"Edited {self.path}: {self.way}, {keys}, {size(self.written)} written")


@dataclass(frozen=True, slots=True)
class _Draft:
    """A header that shall replace another: the old one, and both bare."""

    form: Form
    old: bytes
    was: bytes
    bare: bytes
    before: Mapping[str, str]
    after: Mapping[str, str]

    @property
    def needed(self) -> int:
        """The least length that the new one may have."""
        step = self.form.step(self.bare)
        length = self.form.skip + len(self.bare)
        return length + -length % step

    def head(self, length: int) -> bytes:
        head = self.form.fit(self.bare, length)
        assert head is not None  # as was found when the way was chosen
        return head


Rewrite = Callable[[Form, bytes, Facts], bytes]
"""Of a bare header another."""


def edit(path: str | PathLike[str], change: Change, options: Options | None = None) -> Edited:
    """Change the metadata of one file.

    Args:
        path: the file.
        change: given the metadata, returns what it shall be, in the order in which it shall be stored.
        options: see :class:`Options`.

    Raises:
        TranscodeError: refused (links, lock, limits, permissions); the file is as it was.
        FormatError: the file is not valid.
        PlanError: the metadata is none that the format can hold; the new header exceeds the format's limit,
            or the disk is too full.
    """
    return _apply(path, _splicing(change, path), options or Options())


def preview(path: str | PathLike[str], change: Change, options: Options | None = None) -> Edited:
    """What :func:`edit` would do, with the same refusals; nothing is written."""
    return _foresee(path, _splicing(change, path), options or Options())


def _foresee(
    path: str | PathLike[str], rewrite: Rewrite, options: Options, *, lenient: bool = False
) -> Edited:
    with _opened(path, options) as (fd, real):
        draft = _draft(fd, real, rewrite, lenient=lenient)
        way, length = _choose(fd, real, draft, options)
    return Edited(Path(path), way, draft.before, draft.after, len(draft.old), length)


def restore(
    path: str | PathLike[str],
    backup: str | PathLike[str] | None = None,
    options: Options | None = None,
    *,
    dry_run: bool = False,
) -> Edited:
    """Bring back the header that the last edit replaced; itself an edit, so that doing it twice undoes it.

    Args:
        path: the file.
        backup: a kept header, or a whole file; found beside the file unless given.
        options: see :class:`Options`.
        dry_run: only say what would be done.

    Raises:
        TranscodeError: there is no backup, or it describes other tensors than the file holds.
        Otherwise as :func:`edit`.
    """
    source = _find_backup(path) if backup is None else os.fspath(local(backup))
    with _told(source):
        kept, bare = _kept(source)

    def rewrite(form: Form, _: bytes, now: Facts) -> bytes:
        if kept.tensors != now.tensors:
            raise PlanError(
                f"the backup {source} describes other tensors",
                file=path,
                hint="restore this file's own backup",
            )
        return bare

    # What a repair replaced can be brought back too.
    return (_foresee if dry_run else _apply)(path, rewrite, options or Options(), lenient=True)


def save_backup(path: str | PathLike[str], options: Options | None = None) -> Path:
    """Save the header, or a copy of the whole file, as ``options.backup`` says; the file does not change."""
    options = options or Options()
    with _opened(path, options) as (fd, real):
        if options.backup == "full":
            return keep_copy(fd, real, options.progress)
        head = undo.look(real, lenient=True)
        raw = undo.read_at(fd, head.data_start, 0)
        undo.begin(real, Record(os.fstat(fd).st_size, 0, raw, raw))
        undo.finish(real, keep=True)
    return Path(undo.backup_path(real))


def restore_copy(path: str | PathLike[str], options: Options | None = None) -> Path:
    """Put the copy of the whole file, which a full backup made, back in its place."""
    options = options or Options()
    with _opened(path, options) as (fd, real):
        _refuse_split(fd, real)
        copy = undo.full_backup_path(real)
        undo.look(copy, lenient=True)
        replace(os.fspath(copy), real, fd)
        sync_folder(Path(real).parent)
    return Path(copy)


@contextmanager
def _told(path: str | PathLike[str]) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        what = error.strerror or str(error)
        raise TranscodeError(what[:1].lower() + what[1:], file=error.filename or path) from error


@contextmanager
def _opened(path: str | PathLike[str], options: Options) -> Iterator[tuple[int, str]]:
    """The file under its lock, repaired, and its path without links."""
    with _told(path):
        why = None if options.follow_links else shared(path)
        if why is not None:
            raise TranscodeError(
                why,
                file=path,
                hint=f"copy the file first, or pass {called('follow_links')} to edit it all the same",
            )
        real = os.path.realpath(path)
        with locked(real, wait=options.wait) as fd:
            undo.settle(fd, real)
            yield fd, real


def _splicing(change: Change, path: str | PathLike[str]) -> Rewrite:
    def rewrite(form: Form, bare: bytes, now: Facts) -> bytes:
        try:
            return form.splice(bare, change(dict(now.metadata)))
        except ValueError as error:
            raise PlanError(str(error), file=path) from None

    return rewrite


def _kept(source: str) -> tuple[Facts, bytes]:
    """The header in a backup of either kind, parsed and bare."""
    try:
        record = undo.load_backup(source)
    except FormatError:
        head = undo.look(source, lenient=True)
        with open_file(source) as file:
            raw = file.read(head.data_start)
        return head, form_of(raw).bare(raw)
    return record.header(source), record.form.bare(record.head)


def _find_backup(path: str | PathLike[str]) -> str:
    real = os.path.realpath(path)
    for candidate in (undo.backup_path(real), undo.full_backup_path(real)):
        if os.path.exists(candidate):
            return candidate
    raise TranscodeError(f"there is no backup {undo.backup_path(real)}", file=path)


def _draft(fd: int, real: str, rewrite: Rewrite, *, lenient: bool = False) -> _Draft:
    now = undo.look(real, lenient=True)
    old = undo.read_at(fd, now.data_start, 0)
    form = form_of(old)
    was = form.bare(old)
    bare = rewrite(form, was, now)
    draft = _Draft(form, old, was, bare, now.metadata, {})
    if draft.needed > form.most:
        raise PlanError(
            f"the header would need {draft.needed} bytes, more than the format's {form.most}",
            file=real,
            hint="shorten the metadata",
        )
    # What is about to be written must pass the reader, and describe the same tensors.
    size = os.fstat(fd).st_size - now.data_start + draft.needed
    then = form.parse(draft.head(draft.needed), size, real, lenient=lenient)
    if then.tensors != now.tensors:
        raise AssertionError("an edit of metadata changed the tensors")
    return replace_fields(draft, after=then.metadata)


def _choose(fd: int, real: str, draft: _Draft, options: Options) -> tuple[Way, int]:
    """Which way to go, and how many bytes the header then has."""
    old = len(draft.old)
    if draft.form.fit(draft.bare, old) is not None:
        return ("unchanged" if draft.bare == draft.was else "overwrite"), old
    blocks = _blocks(fd, draft)
    if blocks and insert_range.can_insert(os.path.dirname(real)):
        with insert_range.alone(fd) as alone:
            if alone:
                return "insert", old + blocks
    return _copying(fd, real, draft, options)


def _blocks(fd: int, draft: _Draft) -> int:
    """Bytes to insert: whole blocks, with room for the next edits; 0 if the format's limit is in the way."""
    old, block = len(draft.old), max(insert_range.block_size(fd), draft.form.step(draft.bare))
    most = (draft.form.most - old) // block
    wanted = -(-(_roomy(draft) - old) // block)
    size = min(wanted, most) * block
    return size if size > 0 and draft.form.fit(draft.bare, old + size) is not None else 0


def _copying(fd: int, real: str, draft: _Draft, options: Options) -> tuple[Way, int]:
    _refuse_split(fd, real)
    if not options.copy:
        raise PlanError(
            f"the header needs {draft.needed} bytes, has {len(draft.old)}, and cannot grow in place here",
            file=real,
            hint="allow a copy of the whole file",
        )
    limit, step = draft.form.most, draft.form.step(draft.bare)
    length = _roomy(draft)
    length += -length % max(insert_range.PAGE, step)
    return "copy", length if length <= limit else max(limit - limit % max(8, step), draft.needed)


def _refuse_split(fd: int, real: str) -> None:
    if os.fstat(fd).st_nlink > 1:
        raise PlanError(
            "a new file must take its place, and its other hard links would keep the old one",
            file=real,
            hint="edit a copy of it",
        )


def _roomy(draft: _Draft) -> int:
    # In proportion, so that a file that is edited again and again grows ever more rarely.
    return draft.needed + max(_ROOM, min(draft.needed // 4, 1 << 20))


def _apply(path: str | PathLike[str], rewrite: Rewrite, options: Options, *, lenient: bool = False) -> Edited:
    with _opened(path, options) as (fd, real):
        draft = _draft(fd, real, rewrite, lenient=lenient)
        way, length = _choose(fd, real, draft, options)
        if way == "unchanged":
            return Edited(Path(path), way, draft.before, draft.after, length, length)
        copy = keep_copy(fd, real, options.progress) if options.backup == "full" else None
        written = None
        if way == "overwrite":
            written = _overwrite(fd, real, draft, length, options)
        elif way == "insert":
            written = _insert(fd, real, draft, length, options)
            if written is None:  # somebody opened the file just now
                way, length = _copying(fd, real, draft, options)
        if written is None:
            written = _copy(fd, real, draft, length, options)
    backup = Path(undo.backup_path(real)) if options.backup == "header" else copy
    return Edited(Path(path), way, draft.before, draft.after, len(draft.old), length, written, backup)


@contextmanager
def _undoable(fd: int, real: str, record: Record, options: Options) -> Iterator[int]:
    """A block that changes the file; it is undone when the block fails, and when the process is killed."""
    size = undo.begin(real, record)
    try:
        yield size
    except BaseException:
        # Should this fail as well, the record stays, and the next command tries again.
        undo.roll_back(fd, real, record)
        undo.finish(real, keep=False)
        raise
    undo.finish(real, keep=options.backup == "header")


def _record(fd: int, draft: _Draft, new: bytes, inserted: int = 0) -> Record:
    return Record(os.fstat(fd).st_size, inserted, draft.old, new)


def _overwrite(fd: int, real: str, draft: _Draft, length: int, options: Options) -> int:
    new = draft.head(length)
    start, stop = _difference(draft.old, new)
    with _undoable(fd, real, _record(fd, draft, new), options) as written, _times(fd, options):
        write_at(fd, memoryview(new)[start:stop], start)
    return written + stop - start


def _insert(fd: int, real: str, draft: _Draft, length: int, options: Options) -> int | None:
    size = length - len(draft.old)
    new = draft.head(length)
    with insert_range.alone(fd) as alone:
        if not alone:
            return None
        with _undoable(fd, real, _record(fd, draft, new, size), options) as written, _times(fd, options):
            inserted = insert_range.insert(fd, size)
            if inserted:
                write_at(fd, memoryview(new), 0)
    return written + length if inserted else None


def _copy(fd: int, real: str, draft: _Draft, length: int, options: Options) -> int:
    new = stream(
        fd, real, draft.head(length), len(draft.old), keep_mtime=options.keep_mtime, progress=options.progress
    )
    size = os.path.getsize(new)
    try:
        written = undo.begin(real, _record(fd, draft, draft.old))  # the old file itself stays as it is
        replace(new, real, fd)
    except BaseException:
        undo.settle(fd, real)
        raise
    sync_folder(Path(real).parent)
    undo.finish(real, keep=options.backup == "header")
    return written + size


@contextmanager
def _times(fd: int, options: Options) -> Iterator[None]:
    """What is written inside is synced at the end, with the old modification time if that is to be kept."""
    old = os.fstat(fd)
    yield
    if options.keep_mtime and os.utime in os.supports_fd:
        os.utime(fd, ns=(old.st_atime_ns, old.st_mtime_ns))
    sync(fd)


def _difference(old: bytes, new: bytes) -> tuple[int, int]:
    """The range outside which two equally long byte strings agree."""
    start = common_prefix(old, new)
    return start, len(new) - common_prefix(old[start:][::-1], new[start:][::-1])
