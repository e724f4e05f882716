"""What makes an edit in place safe: the old header is on disk before the first byte changes.

An undo record beside the file holds the bytes before the data section. It is written and synced before an
edit, and goes when the edit is synced; whoever finds one whose editor is dead puts the old header back. The
same record, kept under another name, is the backup that ``restore`` reads.

Layout of those of safetensors, little-endian: 4 bytes magic, u32 CRC-32 of all that follows, u64 size of
the file before the edit, u64 bytes that the edit inserts at the front, u64 bytes of the old header as kept
below, u64 length field of the new header, u64 bytes that the JSON of both shares at its beginning and u64
at its end; then the old header from byte 0 of the file, and what stands between the shared parts in the new
one. The spaces at the ends of headers are left out: their length fields tell how many there were. Records
of version 0.1 (magic ``TCU1``) have the first two numbers and the old header alone. Those of GGUF (magic
``TCU3``) hold headers with all that fills space in them, and the length of the new header in the place of
its length field.

A record is believed only where the file begins with a mixture of both headers, as an edit that was cut short
leaves it: a file that has taken the name since, a new download of the same tensors say, is left alone. Nor is
anything believed that is no regular file of the file's owner, of root or of ourselves.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
import zlib
from collections.abc import Callable
from contextlib import suppress
from os import PathLike
from pathlib import Path
from typing import NamedTuple, TypeVar

from ...core.prefix import common_prefix
from ...errors import FormatError, TranscodeError
from ...io import commit, insert_range
from ...io.lock import Busy, locked
from ...io.system import open_file, sync, sync_folder, write_at
from .form import Facts, Form
from .forms import form_of, recorded

__all__ = [
    "Record",
    "backup_path",
    "begin",
    "finish",
    "full_backup_path",
    "load_backup",
    "look",
    "new_path",
    "read",
    "read_at",
    "repair",
    "roll_back",
    "settle",
    "steadily",
    "undo_path",
]  # fmt: skip

_FIXED = struct.Struct("<4sIQQQQQQ")
_MAGIC_1 = b"TCU1"
_FIXED_1 = struct.Struct("<4sIQQ")
_UNKNOWN = (1 << 64) - 1
_MOST = _FIXED.size + (1 << 29)
"""Bytes of a record, at most: two headers of the longest there are."""

_WAIT = 30.0
H = TypeVar("H")
"""A header, however its reader says it."""

_BINARY = getattr(os, "O_BINARY", 0)


class Record(NamedTuple):
    """The state of a file before an edit.

    Attributes:
        size: bytes of the whole file.
        inserted: bytes that the edit inserts before the first one; 0 if it only overwrites.
        head: the bytes before the data section.
        new: those that the edit writes; None if it is not known, as in records of version 0.1.
    """

    size: int
    inserted: int
    head: bytes
    new: bytes | None = None

    def pack(self) -> bytes:
        """The record as it is stored."""
        form = form_of(self.head)
        kept = form.kept(self.head)
        length, prefix, suffix, middle = _UNKNOWN, 0, 0, b""
        if self.new is not None:
            old, new = kept[form.skip :], form.kept(self.new)[form.skip :]
            length = len(self.new) - form.skip
            prefix = common_prefix(old, new)
            suffix = common_prefix(old[prefix:][::-1], new[prefix:][::-1])
            middle = new[prefix : len(new) - suffix]
        numbers = (self.size, self.inserted, len(kept), length, prefix, suffix)
        body = _FIXED.pack(form.magic, 0, *numbers)[8:] + kept + middle
        return form.magic + struct.pack("<I", zlib.crc32(body)) + body

    @classmethod
    def unpack(cls, raw: bytes) -> Record | None:
        """The inverse of :meth:`pack`; None if the bytes are no whole record."""
        first = raw.startswith(_MAGIC_1)
        fixed, form = (_FIXED_1, form_of(b"")) if first else (_FIXED, recorded(raw))
        if form is None or len(raw) < fixed.size + form.skip:
            return None
        _, crc, size, inserted, *numbers = fixed.unpack_from(raw)
        if crc != zlib.crc32(raw[8:]) or max(size, inserted) >= 1 << 63:
            return None
        end, length, prefix, suffix = numbers or (len(raw), _UNKNOWN, 0, 0)
        kept, middle = raw[fixed.size :][:end], raw[fixed.size :][end:]
        head = form.whole(kept)
        if head is None or prefix + suffix > len(kept) - form.skip:
            return None
        if length == _UNKNOWN:
            return cls(size, inserted, head)
        text = kept[form.skip : form.skip + prefix] + middle + kept[len(kept) - suffix :]
        new = form.whole(length.to_bytes(8, "little")[: form.skip] + text)
        return None if new is None or len(new) != length + form.skip else cls(size, inserted, head, new)

    @property
    def form(self) -> Form:
        """The format of the file."""
        return form_of(self.head)

    def header(self, file: str | PathLike[str]) -> Facts:
        """The old header, parsed."""
        return self.form.parse(self.head, self.size, file, lenient=True)


def undo_path(path: str) -> str:
    """Where the record lies during an edit."""
    return _beside(path, ".{}.transcode-undo")


def new_path(path: str) -> str:
    """Where a file grows that will replace this one."""
    return _beside(path, ".{}.transcode-new")


def backup_path(path: str) -> str:
    """Where the header that the last edit replaced is kept."""
    return _beside(path, "{}.header-backup")


def full_backup_path(path: str) -> str:
    """Where a copy of the whole file is kept."""
    return _beside(path, "{}.backup")


def _beside(path: str, pattern: str) -> str:
    folder, name = os.path.split(path)
    return os.path.join(folder, pattern.format(name))


def begin(path: str, record: Record) -> int:
    """Put the record on disk; from then on the file may be changed. Returns the bytes written."""
    raw = record.pack()
    mode = os.stat(path).st_mode & 0o666
    # Not over what has this name: that may be a link to anything.
    try:
        fd = os.open(undo_path(path), os.O_WRONLY | os.O_CREAT | os.O_EXCL | _BINARY, mode)
    except FileExistsError:
        raise TranscodeError(
            "has the name of the record that makes an edit safe, and is none",
            file=undo_path(path),
            hint="remove it",
        ) from None
    try:
        try:
            write_at(fd, memoryview(raw), 0)
            sync(fd)
        finally:
            os.close(fd)
        sync_folder(Path(path).parent)
    except BaseException:
        os.unlink(undo_path(path))
        raise
    return len(raw)


def finish(path: str, *, keep: bool) -> None:
    """The edit is on disk: drop the record, or keep it as the backup."""
    if keep:
        os.replace(undo_path(path), backup_path(path))
    else:
        os.unlink(undo_path(path))
    sync_folder(Path(path).parent)


def roll_back(fd: int, path: str, record: Record) -> None:
    """Put the header before an edit back, whatever the edit had done; safe to be cut short and done again.

    Raises:
        FormatError: the record does not belong to what the file is now, and the file is broken.
    """
    size = os.fstat(fd).st_size
    before = record.header(path)
    fits = size in (record.size, record.size + record.inserted)
    ours = fits and _is_mixture(fd, record, inserted=size != record.size)
    try:
        now = _read(fd, path)
        # A mixture may be a healthy header by chance, with a name of letters of both.
        if not ours or (record.new is None and now.tensors != before.tensors):
            return  # a healthy file, but another one: it has taken the name since
    except FormatError:
        pass  # what a half-written header is like
    if not ours:
        what = "of another one" if fits else f"of a file of {record.size} bytes, not {size}"
        raise FormatError(
            f"the header is broken, and its undo record is {what}",
            file=path,
            hint=f"get the file again and delete {undo_path(path)}",
        )
    if size != record.size and insert_range.remove(fd, record.inserted):
        size = record.size
    start = len(record.head) + size - record.size
    write_at(fd, memoryview(_spread(record, start)), 0)
    sync(fd)


def _is_mixture(fd: int, record: Record, *, inserted: bool) -> bool:
    """Whether each byte at the front of a file is one that the edit, or its undoing, may have left there."""
    if record.new is None:
        return True
    states = [record.head, record.new[record.inserted :]]  # the latter once an insertion has been undone
    if inserted:  # zeros and the old header, the new one over them, the old one with more spaces over that
        states = [bytes(record.inserted) + record.head, record.new, _spread(record, len(record.new))]
    size = len(states[0])
    now = read_at(fd, size, 0)
    if any(len(state) != size for state in (now, *states)):
        return False
    return now in states or all(byte in choice for byte, *choice in zip(now, *states, strict=True))


def _spread(record: Record, length: int) -> bytes:
    """The old header with more that fills space."""
    if length == len(record.head):
        return record.head
    spread = record.form.fit(record.form.bare(record.head), length)
    assert spread is not None  # by whole blocks of the file system, in which there is room
    return spread


def _read(fd: int, path: str) -> Facts:
    # By descriptor, because the file must not be opened anew under a lease.
    with open(fd, "rb", buffering=0, closefd=False) as file:
        return form_of(read_at(fd, 8, 0)).look(file, path, lenient=True)


def read_at(fd: int, size: int, offset: int) -> bytes:
    """Exactly ``size`` bytes of a file, or what there is before its end."""
    content = bytearray()
    os.lseek(fd, offset, os.SEEK_SET)
    while len(content) < size:
        more = os.read(fd, size - len(content))
        if not more:
            break
        content += more
    return bytes(content)


def repair(path: str | PathLike[str]) -> bool:
    """Clean up after an editor that was killed; to be called before a file's header is read.

    The renames of a run that died among them are finished, too. Costs three look-ups of a name where there is
    nothing to do. If an editor is at work it waits for it, except
    for one that is still copying, whose old file is good to read. Returns whether anything was cleaned up.

    Raises:
        Busy: an editor did not finish in time.
        TranscodeError: the file is half-edited, and may not be written to.
    """
    real = os.path.realpath(path)
    finished = commit.settle(os.path.dirname(real))
    undo = _is_there(real)
    if not undo and not os.path.lexists(new_path(real)):
        return finished
    try:
        with locked(real, wait=_WAIT if undo else 0) as fd:
            return settle(fd, real)
    except Busy:
        if undo:
            raise
        return False
    except OSError as error:
        if not undo or error.errno == errno.ENOENT:
            return False
        raise TranscodeError(
            f"an edit of this file was cut short and cannot be undone: {error.strerror}",
            file=path,
            hint="run any transcode command on it as a user who may write to the file and its folder",
        ) from None


def settle(fd: int, path: str) -> bool:
    """:func:`repair` under the lock: undo what a dead editor left half done."""
    undo, new = undo_path(path), new_path(path)
    leftovers = False
    if _is_there(path):
        record = _load(undo)
        if record is not None:
            roll_back(fd, path, record)
        else:
            # Cut short while it was written: the edit had not begun. Should the header be bad all the same,
            # this raises and the record stays as evidence.
            _read(fd, path)
        os.unlink(undo)
        leftovers = True
    with suppress(FileNotFoundError):
        os.unlink(new)
        leftovers = True
    if leftovers:
        sync_folder(Path(path).parent)
    return leftovers


def _is_there(path: str) -> bool:
    """Whether there is an undo record of a file that can be one of ours."""
    try:
        known = os.lstat(undo_path(path))
    except OSError:
        return False
    if not stat.S_ISREG(known.st_mode):
        return False
    trusted = not hasattr(os, "geteuid") or known.st_uid in (os.geteuid(), 0, os.stat(path).st_uid)
    return trusted and known.st_size <= _MOST


def _load(path: str) -> Record | None:
    # Without waiting for whoever would write into a pipe.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | _BINARY
    fd = os.open(path, flags)
    try:
        known = os.fstat(fd)
        if not stat.S_ISREG(known.st_mode) or known.st_size > _MOST:
            return None
        return Record.unpack(read_at(fd, known.st_size, 0))
    finally:
        os.close(fd)


def load_backup(path: str) -> Record:
    """Read a kept record.

    Raises:
        FormatError: it is damaged.
        OSError: it cannot be read.
    """
    record = _load(path)
    if record is None:
        raise FormatError("this is not a whole header backup", file=path)
    return record


def read(path: str | PathLike[str], *, lenient: bool = False) -> Facts:
    """Read a header that nobody is in the middle of changing, after repairing what a killed editor left.

    Args:
        lenient: see :func:`transcode.containers.safetensors.header.parse`.

    Raises:
        As :func:`look` and :func:`repair`.
    """
    return steadily(path, lambda: look(path, lenient=lenient))


def look(path: str | PathLike[str], *, lenient: bool = False) -> Facts:
    """Read the header of a file and nothing else.

    Raises:
        FormatError: it is not valid.
        OSError: it cannot be read.
    """
    with open_file(path, buffered=False) as file:
        head = file.read(8)
        return form_of(head).look(file, path, lenient=lenient)


def steadily(path: str | PathLike[str], read: Callable[[], H]) -> H:
    """What ``read`` says of the header of a local file while nobody is in the middle of changing it.

    Raises:
        As ``read`` and :func:`repair`.
    """
    real = os.path.realpath(path)
    while True:
        repair(path)
        try:
            current = read()
        except FormatError:
            if not _is_there(real):
                raise
            continue
        if not _is_there(real):
            return current
