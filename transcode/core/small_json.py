"""JSON that came with a checkpoint, read with bounds: one reader for every file and every value of metadata.

Python's own reader takes keys that stand twice, lets what nests deeply overflow the stack of whoever walks it
later, and unfolds small lists to twenty times their size.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections import Counter
from os import PathLike
from typing import IO

from ..errors import FormatError, TranscodeError
from .paths import Url
from .types import Json, JsonObject

__all__ = ["object_or_none", "parse", "parse_object", "read", "read_object", "spell", "take"]

_LONGEST = 64 << 20
"""Bytes; the indexes of the largest models have 30 MB."""

_CHUNK = 1 << 16

_MOST_CONTAINERS = 1 << 20
_MOST_LEVELS = 100
_MOST_DIGITS = 100
_LONG_NUMBER = re.compile(rf"\d{{{_MOST_DIGITS}}}")

File = str | PathLike[str]


def parse(
    raw: str | bytes,
    *,
    file: File | None = None,
    what: str = "",
    error: type[TranscodeError] = FormatError,
) -> Json:
    """The value of a JSON text.

    ``NaN`` and ``Infinity`` are read, as Python and so the configurations of transformers write them.

    Args:
        raw: the text; bytes are UTF-8, with a byte order mark or without.
        file, what: where it is from, and which part of it, for errors: ``"config_groups of its metadata"``.
        error: what is raised.

    Raises:
        TranscodeError: it is not valid JSON or names a key twice; or is longer than 64 MiB, has over a
            million lists and objects, nests deeper than 100 levels or has an integer of over 100 digits.
    """

    def wrong(message: str) -> TranscodeError:
        return error(f"{what} {message}" if what else message, file=file)

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        members = dict(pairs)
        if len(members) < len(pairs):
            counts = Counter(key for key, _ in pairs)
            raise wrong(f"names {counts.most_common(1)[0][0][:200]!r} twice")
        return members

    def integer(digits: str) -> int:
        if len(digits) > _MOST_DIGITS:
            raise wrong(f"is not valid JSON: an integer of {len(digits)} digits")
        return int(digits)

    if len(raw) > _LONGEST:
        raise wrong(f"has {len(raw)} bytes of JSON, more than the {_LONGEST} that are read")
    if isinstance(raw, bytes):
        try:
            raw = raw.decode("utf-8-sig")
        except UnicodeDecodeError as fault:
            raise wrong(f"is not valid JSON: not UTF-8 at byte {fault.start}") from None
    if raw.count("[") + raw.count("{") > _MOST_CONTAINERS:
        raise wrong(f"is JSON of more than {_MOST_CONTAINERS} lists and objects")
    deep = f"is not valid JSON: it nests deeper than {_MOST_LEVELS} levels"
    try:
        value: Json = json.loads(
            raw,
            object_pairs_hook=unique,
            # A call for every number, so it is used only where there may be a long one.
            parse_int=integer if _LONG_NUMBER.search(raw) else None,
        )
    except RecursionError:
        raise wrong(deep) from None
    except ValueError as fault:
        raise wrong(f"is not valid JSON: {fault}") from None
    if _levels(value) > _MOST_LEVELS:
        raise wrong(deep)
    return value


def parse_object(
    raw: str | bytes,
    *,
    file: File | None = None,
    what: str = "",
    error: type[TranscodeError] = FormatError,
) -> JsonObject:
    """As :func:`parse`, of what must be an object.

    Raises:
        TranscodeError: see there; or it is something else.
    """
    value = parse(raw, file=file, what=what, error=error)
    if not isinstance(value, dict):
        message = f"is a JSON {_KINDS.get(type(value), 'number')}, not an object"
        raise error(f"{what} {message}" if what else message, file=file)
    return value


_KINDS = {list: "array", str: "string", bool: "boolean", type(None): "null"}


def read(path: File, error: type[TranscodeError] = FormatError) -> bytes:
    """The bytes of a small file.

    Raises:
        TranscodeError: it cannot be read, is no regular file, or is longer than 64 MiB.
    """
    if isinstance(path, Url):
        try:
            with path.open("rb") as content:
                return take(content, file=path, error=error)
        except OSError as fault:
            raise error(f"cannot be read: {fault.strerror or fault}", file=path) from None
    try:
        with open(path, "rb", opener=_opened) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise error("is no regular file", file=path)
            return take(file, file=path, error=error)
    except OSError as fault:
        raise error(f"cannot be read: {fault.strerror or fault}", file=path) from None


def take(reader: IO[bytes], *, file: File, error: type[TranscodeError] = FormatError) -> bytes:
    """The bytes of a small file that is open.

    Raises:
        TranscodeError: it is longer than 64 MiB.
        OSError: it cannot be read.
    """
    # Asked for all at once, that much memory would be taken for the smallest file.
    chunks: list[bytes] = []
    left = _LONGEST + 1
    while left and (chunk := reader.read(min(left, _CHUNK))):
        chunks.append(chunk)
        left -= len(chunk)
    if not left:
        raise error(f"is longer than the {_LONGEST} bytes that are read", file=file)
    return b"".join(chunks)


def _opened(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # a pipe must not wait for its writer


def object_or_none(raw: str | bytes | None) -> JsonObject | None:
    """As :func:`parse_object`, of a text that may be anything, or missing."""
    try:
        return None if raw is None else parse_object(raw)
    except FormatError:
        return None


def read_object(path: File) -> JsonObject:
    """The object of a JSON file.

    Raises:
        FormatError: see :func:`read` and :func:`parse_object`.
    """
    return parse_object(read(path), file=path)


def spell(value: object, *, indent: int | None = None, compact: bool = False) -> str:
    """JSON that UTF-8 can write: halves of surrogate pairs stay the escapes that they were read from.

    Args:
        compact: sorted by key and without spaces.
    """
    separators = (",", ":") if compact else None
    for ascii_only in (False, True):
        text = json.dumps(
            value, indent=indent, ensure_ascii=ascii_only, sort_keys=compact, separators=separators
        )
        if _SURROGATE.search(text) is None:
            break
    return text


_SURROGATE = re.compile("[\ud800-\udfff]")


def _levels(value: object) -> int:
    """How deep lists and objects nest."""
    level, depth = [value] if isinstance(value, list | dict) else [], 0
    while level:
        depth += 1
        level = [
            inner
            for one in level
            for inner in (one.values() if isinstance(one, dict) else one)
            if isinstance(inner, list | dict)
        ]
    return depth
