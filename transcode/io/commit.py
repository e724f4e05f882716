"""Finished files go into a folder that is in use: decided once, then carried to its end by whoever comes.

A file, or a folder that is new, takes its name in one step. Several files that join or replace others in an
existing folder cannot: whoever is killed between two renames leaves half of the shards old and half new. So
the renames are written down first. The record lies with the staged files in the hidden folder
:data:`PART` and is synced before the first rename; from then on the output is the new one, and any command
that reads or writes the folder finishes what a dead run began (:func:`settle`).

What makes a loader believe in the whole (indexes and configurations) is taken away first and put in place
last, so that programs which know nothing of the record find no valid index over a mixture.
"""

from __future__ import annotations

import json
import os
import re
import stat
import time
import zlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from ..core.small_json import parse_object
from ..errors import FormatError, PlanError, TranscodeError
from . import system
from .directory import Directory
from .names import refused as names_refused

__all__ = [
    "CONSUMING",
    "FILES",
    "JOURNAL",
    "LOCK",
    "PART",
    "Record",
    "carry_out",
    "decide",
    "is_decided",
    "load",
    "remove_lock",
    "settle",
]

PART = ".transcode-part"
"""Hidden folder of a run inside the folder that it writes to."""
LOCK = "lock"
"""File in it whose lock its owner holds."""
FILES = "files"
"""Folder in it with the staged files."""
JOURNAL = "journal"
"""File in it that tells what of them is written."""
CONSUMING = "consuming"
"""What the plan in it is called by which a run goes on whose source is being deleted."""

_RECORD = "commit"
_DRAFT = "commit-draft"
_MOST = 64 << 20
_WAIT = 30.0
_KEYS = re.compile(r".*\.index(\.[^.]+)?\.json|(hf_quant_|quantize_)?config\.json")
"""Names by which loaders find the rest."""

Identity = tuple[int, int]
"""Size and time of modification in ns."""


class Record(NamedTuple):
    """What goes where.

    Attributes:
        names: of the staged files, in the order in which they take their places.
        old: for each name what it stood for when the renames were decided; None where there was nothing.
    """

    names: tuple[str, ...]
    old: dict[str, Identity | None]

    def pack(self) -> bytes:
        """As it is stored: a line with a CRC-32, then JSON."""
        body = json.dumps({"names": self.names, "old": self.old}).encode()
        return b"%08x\n" % zlib.crc32(body) + body

    @classmethod
    def unpack(cls, raw: bytes) -> Record | None:
        """The inverse of :meth:`pack`; None if the bytes are no record."""
        line, _, body = raw.partition(b"\n")
        if line != b"%08x" % zlib.crc32(body):
            return None
        try:
            table = parse_object(body)
        except FormatError:
            return None
        listed, stood = table.get("names"), table.get("old")
        if not isinstance(listed, list) or not isinstance(stood, dict):
            return None
        names: list[str] = []
        old: dict[str, Identity | None] = {}
        for name in listed:
            if not isinstance(name, str) or name in ("", ".", "..") or name not in stood:
                return None
            if "/" in name or os.sep in name or "\0" in name or names_refused(name) is not None:
                return None
            names.append(name)
            match stood[name]:
                case None:
                    old[name] = None
                case [int(size), int(modified)]:
                    old[name] = size, modified
                case _:
                    return None
        return cls(tuple(names), old)


def decide(hidden: Directory, destination: Directory, names: Sequence[str]) -> Record:
    """Write down that the staged files are the output from now on; durable on return."""
    ordered = sorted(names, key=lambda name: _KEYS.fullmatch(name) is not None)
    record = Record(tuple(ordered), {name: _identity(destination, name) for name in ordered})
    fd = hidden.open(_DRAFT, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        system.write_at(fd, memoryview(record.pack()), 0)
        system.sync(fd)
    finally:
        os.close(fd)
    hidden.move(_DRAFT, hidden, _RECORD)
    hidden.sync()
    destination.sync()  # the hidden folder's own name, before any other name there goes
    return record


def carry_out(hidden: Directory, destination: Directory, record: Record) -> None:
    """Do what was decided, or what is left of it; safe to be cut short and done again.

    Raises:
        TranscodeError: a file of the destination is not the one that was to be replaced any more.
        OSError: the system refused.
    """
    if hidden.stat(FILES) is not None:
        with Directory(hidden.path / FILES, hidden) as staged:
            waiting = [name for name in record.names if staged.stat(name) is not None]
            for name in waiting:
                now = _identity(destination, name)
                if now is not None and now != record.old[name]:
                    raise TranscodeError(
                        "has changed since a run that was cut short meant to replace it",
                        file=destination.path / name,
                        hint=f"to keep it, remove {hidden.path}",
                    )
            for name in waiting:
                if _KEYS.fullmatch(name):
                    destination.unlink(name)
            destination.sync()
            for keys in (False, True):
                for name in waiting:
                    if (_KEYS.fullmatch(name) is not None) is keys:
                        staged.move(name, destination, name)
                if not keys:
                    destination.sync()  # or a power cut could keep an index and lose what it names
    destination.sync()
    hidden.remove(_RECORD)


def is_decided(hidden: Directory) -> bool:
    """Whether there are renames that must still be carried out."""
    return hidden.stat(_RECORD) is not None


def load(hidden: Directory) -> Record | None:
    """What was decided; None if nothing was.

    Raises:
        TranscodeError: there is a record that cannot be read.
    """
    if not is_decided(hidden):
        return None
    fd = hidden.open(_RECORD, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    try:
        known = os.fstat(fd)
        plain = stat.S_ISREG(known.st_mode) and known.st_size <= _MOST
        record = Record.unpack(_all(fd, known.st_size)) if plain else None
    finally:
        os.close(fd)
    if record is None:
        raise TranscodeError(
            "the record of a run that was cut short is damaged: which files are of which run is not known",
            file=hidden.path / _RECORD,
            hint=f"write the whole folder anew, after removing {hidden.path}",
        )
    return record


def settle(folder: str | os.PathLike[str]) -> bool:
    """Finish what a run that died while it moved its files into a folder had decided.

    Costs one look-up of a name where there is nothing to do. A run that is just moving them is waited for.

    Returns:
        Whether anything was done.

    Raises:
        PlanError: a run that moves its files did not finish in time.
        TranscodeError: it cannot be finished here.
    """
    path = Path(folder) / PART
    deadline = time.monotonic() + _WAIT
    while os.path.lexists(path / _RECORD):
        try:
            with Directory(path) as hidden:
                if hasattr(os, "geteuid") and os.geteuid() != os.stat(path).st_uid != os.stat(folder).st_uid:
                    return False  # planted by a stranger in a folder that anybody may write to
                fd = hidden.open(LOCK, os.O_RDWR | os.O_CREAT, 0o600)
                try:
                    done = _finish(hidden, Path(folder)) if system.try_lock(fd) else None
                finally:
                    os.close(fd)
                if done is not None:
                    if done and system.WINDOWS:
                        remove_lock(hidden)
                    return done
        except FileNotFoundError:
            continue  # whoever was at it has just finished
        except OSError as error:
            raise TranscodeError(
                "a run was cut short while it moved its files into this folder, and they cannot be moved on:"
                f" {error.strerror}",
                file=folder,
                hint="run any transcode command on it as a user who may write to the folder",
            ) from None
        if time.monotonic() >= deadline:
            raise PlanError("another run is moving its files into this folder", file=folder)
        time.sleep(0.02)
    return False


def _finish(hidden: Directory, folder: Path) -> bool:
    record = load(hidden)
    if record is None:
        return False
    with Directory(Path(os.path.realpath(folder))) as destination:
        carry_out(hidden, destination, record)
    for name in (FILES, JOURNAL, CONSUMING, _DRAFT):
        hidden.remove(name)
    if not system.WINDOWS:
        remove_lock(hidden)
    return True


def remove_lock(hidden: Directory) -> None:
    """Remove the file for the lock and the hidden folder, if nothing else is in it; while the lock is held,
    but on Windows, where the file must be closed before.
    """
    with suppress(OSError):  # somebody else may use it by now
        hidden.unlink(LOCK)
        os.rmdir(hidden.path)


def _identity(folder: Directory, name: str) -> Identity | None:
    known = folder.stat(name)
    return None if known is None else (known.st_size, known.st_mtime_ns)


def _all(fd: int, size: int) -> bytes:
    content = b""
    while len(content) < size and (more := os.read(fd, size - len(content))):
        content += more
    return content
