"""What makes an edit in place safe: the old header is on disk before the first byte changes.

An undo record beside the file holds the bytes before the data section. It is written and synced before an
edit, and goes when the edit is synced; whoever finds one whose editor is dead puts the old header back. The
same record, kept under another name, is the backup that ``restore`` reads.

Layout, little-endian: 4 bytes magic, u32 CRC-32 of all that follows, u64 size of the file before the edit,
u64 bytes that the edit inserts at the front, then the old header from byte 0 of the file, without the spaces
at its end (its own length field tells how many there were).
"""

from __future__ import annotations

import errno
import os
import struct
import zlib
from contextlib import suppress
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from ..errors import FormatError, TranscodeError
from . import front, header
from .lock import Busy, locked
from .system import sync_folder, write_at

__all__ = [
    "Record",
    "backup_path",
    "begin",
    "finish",
    "full_backup_path",
    "load_backup",
    "new_path",
    "read",
    "read_at",
    "repair",
    "roll_back",
    "settle",
    "undo_path",
]  # fmt: skip

_MAGIC = b"TCU1"
_FIXED = struct.Struct("<4sIQQ")
_WAIT = 30.0


@dataclass(frozen=True, slots=True)
class Record:
    """The state of a file before an edit.

    Attributes:
        size: bytes of the whole file.
        inserted: bytes that the edit inserts before the first one; 0 if it only overwrites.
        head: the bytes before the data section.
    """

    size: int
    inserted: int
    head: bytes

    def pack(self) -> bytes:
        """The record as it is stored."""
        kept = self.head.rstrip(b" ")
        body = _FIXED.pack(_MAGIC, 0, self.size, self.inserted)[8:] + kept
        return _MAGIC + struct.pack("<I", zlib.crc32(body)) + body

    @classmethod
    def unpack(cls, raw: bytes) -> Record | None:
        """The inverse of :meth:`pack`; None if the bytes are no whole record."""
        if len(raw) < _FIXED.size + 8:
            return None
        magic, crc, size, inserted = _FIXED.unpack_from(raw)
        if magic != _MAGIC or crc != zlib.crc32(raw[8:]):
            return None
        kept = raw[_FIXED.size :]
        return cls(size, inserted, kept.ljust(8 + int.from_bytes(kept[:8], "little")))

    def header(self, file: str | PathLike[str]) -> header.Header:
        """The old header, parsed."""
        return header.parse(self.head[8:], file_size=self.size, file=file, lenient=True)


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
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0)
    fd = os.open(undo_path(path), flags, mode)
    try:
        try:
            write_at(fd, memoryview(raw), 0)
            os.fsync(fd)
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
    try:
        if _read(fd, path).entries != before.entries or not fits:
            return  # a healthy file, but another one: it has taken the name since
    except FormatError:
        pass  # what a half-written header is like
    if not fits:
        raise FormatError(
            f"the header is broken, and its undo record is of a file of {record.size} bytes, not {size}",
            file=path,
            hint=f"get the file again and delete {undo_path(path)}",
        )
    if size != record.size and front.remove(fd, record.inserted):
        size = record.size
    start = size - before.data_size
    text = record.head[8:].ljust(start - 8)
    write_at(fd, memoryview(struct.pack("<Q", len(text)) + text), 0)
    os.fsync(fd)


def _read(fd: int, path: str) -> header.Header:
    # By descriptor, because the file must not be opened anew under a lease.
    size = os.fstat(fd).st_size
    prefix = int.from_bytes(read_at(fd, 8, 0), "little")
    if not 0 < prefix <= min(header.MAX_HEADER, size - 8):
        raise FormatError(f"the header claims {prefix} bytes", file=path)
    return header.parse(read_at(fd, prefix, 8), file_size=size, file=path, lenient=True)


def read_at(fd: int, size: int, offset: int) -> bytes:
    """Exactly ``size`` bytes of a file, or what there is before its end."""
    found = bytearray()
    os.lseek(fd, offset, os.SEEK_SET)
    while len(found) < size:
        more = os.read(fd, size - len(found))
        if not more:
            break
        found += more
    return bytes(found)


def repair(path: str | PathLike[str]) -> bool:
    """Clean up after an editor that was killed; to be called before a file's header is read.

    Costs two look-ups of a name where there is nothing to do. If an editor is at work it waits for it, except
    for one that is still copying, whose old file is good to read. Returns whether anything was cleaned up.

    Raises:
        Busy: an editor did not finish in time.
        TranscodeError: the file is half-edited, and may not be written to.
    """
    real = os.path.realpath(path)
    undo = os.path.lexists(undo_path(real))
    if not undo and not os.path.lexists(new_path(real)):
        return False
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
    found = False
    with suppress(FileNotFoundError):
        record = _load(undo)
        if record is not None:
            roll_back(fd, path, record)
        else:
            # Cut short while it was written: the edit had not begun. Should the header be bad all the same,
            # this raises and the record stays as evidence.
            _read(fd, path)
        os.unlink(undo)
        found = True
    with suppress(FileNotFoundError):
        os.unlink(new)
        found = True
    if found:
        sync_folder(Path(path).parent)
    return found


def _load(path: str) -> Record | None:
    with open(path, "rb") as file:
        return Record.unpack(file.read())


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


def read(path: str | PathLike[str], *, lenient: bool = False) -> header.Header:
    """Read a header that nobody is in the middle of changing, after repairing what a killed editor left.

    Args:
        lenient: see :func:`transcode.storage.header.parse`.

    Raises:
        As :func:`transcode.storage.header.read` and :func:`repair`.
    """
    undo = undo_path(os.path.realpath(path))
    while True:
        repair(path)
        try:
            found = header.read(path, lenient=lenient)
        except FormatError:
            if not os.path.lexists(undo):
                raise
            continue
        if not os.path.lexists(undo):
            return found
