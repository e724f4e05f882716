"""The safetensors header: parsed strictly, rendered reproducibly.

Layout of a file (safetensors README, "Format"): a little-endian u64 ``n``, ``n`` bytes of UTF-8 JSON that may
end in spaces, then the data section, to whose start all offsets are relative.
"""

from __future__ import annotations

import json
import os
import re
import struct
from collections.abc import Iterable, Mapping
from itertools import compress, islice
from operator import attrgetter, eq
from os import PathLike
from typing import IO, TYPE_CHECKING, Protocol

from ...core.dtypes import DTYPES, DType
from ...core.records import dataclass
from ...core.spec import Spec
from ...core.value import interned, plentiful
from ...errors import FormatError, PlanError
from ...io.insert_range import PAGE
from ...io.system import open_file
from ...voice import called
from ..foreign import foreign
from . import headertext
from .headertext import Doubled, Usual, kind_of

if TYPE_CHECKING:
    from ...io.bytes import Bytes

__all__ = [
    "MAX_HEADER",
    "Entry",
    "Header",
    "NotText",
    "is_text",
    "parse",
    "read",
    "read_from",
    "read_open",
    "render",
]

MAX_HEADER = 100_000_000
"""Longest JSON that readers accept, in bytes (reference implementation, on reading and on writing)."""

_SURROGATE = re.compile("[\ud800-\udfff]")
_MOST_SHARED = 4096  # different facts that are looked for again
_LIMIT = 1 << 64  # sizes beyond the reference reader's usize


@plentiful
@dataclass(frozen=True, slots=True)
class Entry:
    """One stored tensor: its facts and its place ``[begin, end)`` in the data section."""

    name: str
    spec: Spec
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class Header:
    """A parsed header.

    Attributes:
        entries: in the order of their bytes.
        metadata: ``__metadata__``, in file order; empty when absent.
        data_start: byte of the file at which the data section begins: 8 plus the length of the JSON.
        data_size: bytes of the data section.
    """

    entries: tuple[Entry, ...]
    metadata: Mapping[str, str]
    data_start: int
    data_size: int


class NotText(str):
    """What stands in ``__metadata__`` where the format demands a string: its JSON. Equal to no string."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, NotText) and str.__eq__(self, other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(("not text", str(self)))


def read(path: str | PathLike[str], *, lenient: bool = False) -> Header:
    """Read the header of a file and nothing else.

    Args:
        lenient: see :func:`parse`.

    Raises:
        FormatError: the file is not a valid safetensors file.
        OSError: it cannot be read.
    """
    with open_file(path, buffered=False) as file:
        return read_open(file, path, lenient=lenient)


def read_from(file: Bytes, *, lenient: bool = False) -> Header:
    """As :func:`read`, of bytes wherever they lie.

    Raises:
        FormatError: they are no valid safetensors file.
        OSError: they cannot be read.
    """
    with file.open() as reader:
        return read_open(reader, file.url, lenient=lenient)


def read_open(file: IO[bytes], path: str | PathLike[str], *, lenient: bool = False) -> Header:
    """As :func:`read`, of a file that is open, at any place."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    prefix = file.read(8)
    if (complaint := foreign(prefix + file.read(56))) is not None:
        raise FormatError(complaint[0], file=path, hint=complaint[1])
    file.seek(8)
    n = _length(prefix, size, path)
    raw = file.read(n)
    while len(raw) < n:  # an unbuffered read may return less than it was asked for
        more = file.read(n - len(raw))
        if not more:
            raise FormatError(f"the file ends inside its header, after {8 + len(raw)} bytes", file=path)
        raw += more
    return parse(raw, file_size=size, file=path, lenient=lenient)


def _length(prefix: bytes, file_size: int, file: str | PathLike[str]) -> int:
    if len(prefix) < 8:
        raise FormatError(
            f"{len(prefix)} bytes are too few for a safetensors file",
            file=file,
            hint="is the download complete?",
        )
    n: int = struct.unpack("<Q", prefix)[0]
    if n > MAX_HEADER:
        raise FormatError(
            f"the header claims {n} bytes, more than the format's {MAX_HEADER}",
            file=file,
            hint="this is probably not a safetensors file",
        )
    if 8 + n > file_size:
        raise FormatError(
            f"the header claims {n} bytes but the file has only {file_size}",
            file=file,
            hint="is the download complete?",
        )
    return n


_Specs = dict[tuple[str, tuple[int, ...]], tuple[Spec | None, int]]
"""Facts by dtype and shape, with the bytes of such a tensor: those that were legal once."""
_UNKNOWN: tuple[Spec | None, int] = None, -1


def parse(raw: bytes, *, file_size: int, file: str | PathLike[str], lenient: bool = False) -> Header:
    """Parse the JSON of a header, without the 8 bytes of length before it.

    Args:
        raw: the JSON, with its padding.
        file_size: bytes of the whole file, against which the offsets are checked.
        file: name for errors.
        lenient: metadata that is not text, which no loader takes, comes as :class:`NotText` instead of being
            refused, so that it can be shown and repaired. Of a key that stands twice the last value comes so.

    Raises:
        FormatError: any violation; stricter than the reference reader in that no name may appear twice.
    """
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FormatError(f"the header is not UTF-8 at byte {8 + error.start}", file=file) from None
    size = len(raw)
    del raw  # the text is all that is needed of it
    metadata: dict[str, str] | None = None
    entries: list[Entry] = []
    specs: _Specs = {}
    before = 0  # where the last one ends: what is equal is held once
    try:
        for name, fields in headertext.members(text):
            if name != headertext.METADATA:
                if type(fields) is Usual:
                    kind, shape, begin, end = fields
                    spec, nbytes = specs.get((kind, shape), _UNKNOWN)
                    if spec is not None and end - begin == nbytes and name.isascii() and end < _LIMIT:
                        entries.append(Entry(name, spec, before if begin == before else begin, end))
                        before = end
                        continue
                    fields = fields.fields()
                entries.append(_entry(name, fields, file, specs, before))
                before = entries[-1].end
            elif metadata is None:
                metadata = (_lenient if lenient else _metadata)(fields, file)
            else:
                raise _twice(name, file)
    except headertext.Malformed as error:
        raise FormatError(str(error), file=file) from None
    del text
    _check_names(entries, file)
    # Keys that exist already, one sort for each, take less memory than pairs of them.
    entries.sort(key=attrgetter("end"))
    entries.sort(key=attrgetter("begin"))
    data_start = 8 + size
    _check_offsets(entries, file_size - data_start, file)
    return Header(tuple(entries), metadata or {}, data_start, file_size - data_start)


def _check_names(entries: list[Entry], file: str | PathLike[str]) -> None:
    names = sorted([entry.name for entry in entries])
    following = islice(names, 1, None)
    if (name := next(compress(names, map(eq, names, following)), None)) is not None:
        raise _twice(name, file)


def _twice(name: str, file: str | PathLike[str]) -> FormatError:
    return FormatError("the header names this tensor twice", file=file, tensor=name)


def _metadata(metadata: object, file: str | PathLike[str]) -> dict[str, str]:
    if metadata is None:
        return {}
    if not isinstance(metadata, dict):
        raise FormatError(
            f"__metadata__ is a JSON {kind_of(metadata)}, not an object",
            file=file,
            hint=f"{called('clear')} takes it out",
        )
    if isinstance(metadata, Doubled):
        raise FormatError(f"__metadata__ names {metadata.key!r} twice", file=file, hint=_repair(metadata.key))
    for key, value in metadata.items():
        if not isinstance(value, str):
            message = f"__metadata__: {key!r} is {value!r:.60}, not a string"
            raise FormatError(message, file=file, hint=_repair(key))
        for text in (key, value):
            if not is_text(text):
                raise FormatError(
                    f"__metadata__: {text!r} holds half of a surrogate pair", file=file, hint=_repair(key)
                )
    return metadata


def _repair(key: str) -> str:
    ways = f"{called('set_key', 'FILE', key)}, {called('delete_key', 'FILE', key)} or {called('clear')}"
    return f"repair it: {ways}"


def _lenient(metadata: object, file: str | PathLike[str]) -> dict[str, str]:
    if not isinstance(metadata, dict):
        return {}
    doubled = metadata.key if isinstance(metadata, Doubled) else None
    texts: dict[str, str] = {}
    for key, value in metadata.items():
        fine = isinstance(value, str) and is_text(key) and is_text(value) and key != doubled
        name = key if is_text(key) else json.dumps(key)[1:-1]
        texts[name] = value if fine else NotText(json.dumps(value))
    return texts


def is_text(text: str) -> bool:
    """Whether UTF-8 can write a text."""
    # JSON escapes can spell half of a surrogate pair, which is no text and cannot be written again.
    return text.isascii() or _SURROGATE.search(text) is None


def _check_text(text: str, file: str | PathLike[str]) -> None:
    if not is_text(text):
        raise FormatError(f"{text!r} holds half of a surrogate pair", file=file)


def _entry(
    name: str,
    fields: object,
    file: str | PathLike[str],
    specs: _Specs,
    before: int,
) -> Entry:
    """An entry that keeps what it can of the others: facts that ``specs`` has, the end of the one before."""

    def wrong(what: str) -> FormatError:
        return FormatError(what, file=file, tensor=name)

    _check_text(name, file)
    if not isinstance(fields, dict):
        raise wrong(f"the entry is a JSON {kind_of(fields)}, not an object")
    if isinstance(fields, Doubled):
        raise wrong(f"the entry names {fields.key!r} twice")
    if len(fields) > 3 and not is_text(json.dumps(fields, ensure_ascii=False)):
        # What else stands in an entry means nothing, but the reference reads it.
        raise wrong("the entry holds half of a surrogate pair")
    try:
        kind, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
    except KeyError as error:
        raise wrong(f"the entry lacks {error.args[0]!r}") from None
    if not isinstance(kind, str) or kind not in DTYPES:
        raise wrong(f"unknown dtype {_shown(kind)}")
    if not isinstance(shape, list) or not all(map(_natural, shape)):
        raise wrong(f"shape {_shown(shape)} is not a list of non-negative integers")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_natural, offsets)):
        raise wrong(f"data_offsets {_shown(offsets)} are not two non-negative integers")
    dtype: DType = DTYPES[kind]
    # Zeros come last in the product, as the reference multiplies in order and refuses what overflows.
    bits = dtype.bits
    for size in shape:
        bits *= size or 1
        if bits >= _LIMIT:
            break
    if bits >= _LIMIT:
        raise wrong(f"shape {_shown(shape)} of {kind} overflows")
    if 0 in shape:
        bits = 0
    if bits % 8:
        raise wrong(f"shape {_shown(shape)} of {kind} is not a whole number of bytes")
    begin, end = offsets
    if begin > end:
        raise wrong(f"data_offsets {offsets!r} run backwards")
    if end - begin != bits // 8:
        raise wrong(
            f"data_offsets {offsets!r} hold {end - begin} bytes, {kind} {_shown(shape)} needs {bits // 8}"
        )
    key = kind, tuple(shape)
    spec, _ = specs.get(key, _UNKNOWN)
    if spec is None:
        spec = interned(Spec(dtype, key[1]))
        if len(specs) < _MOST_SHARED:
            specs[key] = spec, bits // 8
    return Entry(name, spec, before if begin == before else begin, end)


def _shown(value: object) -> str:
    return f"{value!r:.200}"


def _natural(value: object) -> bool:
    return type(value) is int and value < _LIMIT


def _check_offsets(entries: list[Entry], data_size: int, file: str | PathLike[str]) -> None:
    at = 0
    for entry in entries:
        if entry.begin != at:
            what = "overlaps the tensor before it" if entry.begin < at else "leaves a hole before it"
            raise FormatError(
                f"data_offsets [{entry.begin}, {entry.end}] {what}, which ends at {at}",
                file=file,
                tensor=entry.name,
            )
        at = entry.end
    if at != data_size:
        what = "is cut short" if at > data_size else "has trailing bytes"
        raise FormatError(
            f"the file {what}: its tensors need {at} bytes of data, it has {data_size}",
            file=file,
            hint="is the download complete?" if at > data_size else None,
        )


_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_quoted = json.encoder.encode_basestring
"""A text as JSON writes it; what is no ASCII stays."""


class Placed(Protocol):
    """An entry, or anything else that has its facts."""

    @property
    def name(self) -> str: ...
    @property
    def spec(self) -> Spec: ...
    @property
    def begin(self) -> int: ...
    @property
    def end(self) -> int: ...


def render(
    entries: Iterable[Placed],
    metadata: Mapping[str, str],
    *,
    room: int = 0,
    align: int = PAGE,
    size: int | None = None,
    file: str | PathLike[str] | None = None,
) -> bytes:
    """The bytes before the data section: length, JSON, and spaces up to the start of the data.

    Metadata comes first and sorted by key, so that equal facts give equal bytes (the reference writer's order
    changes from run to run).

    Args:
        entries: in the order in which they should be listed.
        room: spare bytes to leave in the header at least, for later edits of metadata.
        align: the data section starts at a multiple of this, in bytes.
        size: make exactly so many bytes in all, instead of what room and align ask for.
        file: name for errors.

    Raises:
        PlanError: the header does not fit into ``size`` or into the format's limit.
    """
    members = [f'"__metadata__":{_json(dict(sorted(metadata.items())))}'] if metadata else []
    facts: dict[Spec, str] = {}  # many tensors have the same
    for entry in entries:
        spec = entry.spec
        if (said := facts.get(spec)) is None:
            said = facts[spec] = f'{{"dtype":{_json(spec.dtype.name)},"shape":{_json(list(spec.shape))},'
        members.append(f'{_quoted(entry.name)}:{said}"data_offsets":[{entry.begin},{entry.end}]}}')
    text = f"{{{','.join(members)}}}".encode()
    needed = 8 + len(text)
    if size is None:
        size = needed + room
        size += -size % align
        if needed <= 8 + MAX_HEADER < size:
            size = 8 + MAX_HEADER - (8 + MAX_HEADER) % 8  # no room left below the limit
            size = max(size, needed)
    if needed > size:
        raise PlanError(f"the header needs {needed} bytes, {size} are available", file=file)
    if size - 8 > MAX_HEADER:
        raise PlanError(
            f"the header needs {needed - 8} bytes, more than the format's {MAX_HEADER}",
            file=file,
            hint="shorten the metadata",
        )
    return struct.pack("<Q", size - 8) + text.ljust(size - 8)
