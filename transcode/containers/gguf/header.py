"""The header of a GGUF file, parsed as strictly as ggml does (``gguf.cpp``), and where more strictly.

Layout (``ggml/docs/gguf.md``, versions 2 and 3): magic, version, numbers of tensors and of keys; keys with
typed values; name, lengths (innermost first), type and offset of each tensor; padding; the data section, in
which each tensor begins at a multiple of ``general.alignment`` and nothing but that padding lies between two.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from math import prod
from os import SEEK_END, PathLike
from typing import IO, Any, NoReturn

from ...core.records import dataclass
from ...core.spec import Spec
from ...core.typed import Typed, whole
from ...errors import FormatError
from . import values
from .limits import FILLER, MAGIC, MAX_HEADER, MOST_KEYS, ORIG_SHAPE
from .types import GONE, TYPES

__all__ = [
    "ALIGNMENT",
    "DEFAULT_ALIGNMENT",
    "Entry",
    "Header",
    "read",
]

ALIGNMENT = "general.alignment"
DEFAULT_ALIGNMENT = 32
_MOST_TENSORS = 1_000_000
_MOST_DIMENSIONS = 8
"""ggml has 4; the tensors of video models have 5."""

_LONGEST_KEY = 65_535
_DEEPEST = 4
_LIMIT = 1 << 63

_LOCAL = ("general.file_type", "general.quantization_version", ALIGNMENT)
_LOCAL_PREFIXES = ("split.", ORIG_SHAPE)


@dataclass(frozen=True, slots=True)
class Entry:
    """A tensor: its facts, and its first byte in the file."""

    name: str
    spec: Spec
    start: int


@dataclass(frozen=True, slots=True)
class Header:
    """A parsed header.

    Attributes:
        entries: in the order of their bytes.
        metadata: in file order.
        version: 2 or 3.
        big: whether numbers are big-endian, those of tensors among them.
        alignment: what offsets of tensors are multiples of.
        filler: where the key begins and ends that only fills space, which ``metadata`` has not.
        metadata_end: byte behind the last key.
        facts_end: byte behind the facts of the last tensor.
        data_start: first byte of the data section.
    """

    entries: tuple[Entry, ...]
    metadata: Mapping[str, Typed]
    version: int
    big: bool
    alignment: int
    filler: tuple[int, int] | None
    metadata_end: int
    facts_end: int
    data_start: int


def read(file: IO[bytes], name: str | PathLike[str], *, size: int | None = -1) -> Header:
    """Read the header of a file and nothing else.

    Args:
        file: at any place.
        name: of the file, for errors.
        size: bytes of the whole file, where ``file`` is no more than its front; None where that is not known.

    Raises:
        FormatError: it is not a valid file of the format.
        OSError: it cannot be read.
    """
    reader = _Reader(file, name)
    if size != -1:
        reader.whole = size
    return reader.header()


class _Reader:
    """The front of a file, read as far as it is asked for."""

    def __init__(self, file: IO[bytes], name: str | PathLike[str]) -> None:
        self.file, self.name = file, name
        self.size = file.seek(0, SEEK_END)
        self.whole: int | None = self.size
        file.seek(0)
        self.data = bytearray()
        self.at = 0
        self.order = "<"

    def wrong(self, what: str, *, tensor: str | None = None, hint: str | None = None) -> NoReturn:
        raise FormatError(what, file=self.name, tensor=tensor, hint=hint)

    def need(self, end: int, what: str) -> None:
        """Have the bytes up to ``end``."""
        if end <= len(self.data):
            return
        if end > self.size:
            self.wrong(
                f"the file ends inside its header: {what} ends at byte {end}, the file at {self.size}",
                hint="is the download complete?",
            )
        if end > MAX_HEADER:
            self.wrong(f"the header has more than the {MAX_HEADER} bytes that are read: {what} ends at {end}")
        wanted = min(max(end, 2 * len(self.data), 1 << 16), self.size, MAX_HEADER)
        while len(self.data) < wanted:  # an unbuffered read may return less than it was asked for
            more = self.file.read(wanted - len(self.data))
            if not more:
                self.wrong("became shorter while it was read")
            self.data += more

    def take(self, form: str, what: str) -> Any:
        """A number."""
        size = struct.calcsize(f"<{form}")
        self.need(self.at + size, what)
        (value,) = struct.unpack_from(f"{self.order}{form}", self.data, self.at)
        self.at += size
        return value

    def bytes(self, most: int, what: str) -> bytes:
        """Bytes behind their count."""
        size = self.take("Q", what)
        if size > most:
            self.wrong(f"{what} has {size} bytes, more than {most}")
        self.need(self.at + size, what)
        raw = bytes(memoryview(self.data)[self.at : self.at + size])
        self.at += size
        return raw

    def text(self, what: str) -> str:
        raw = self.bytes(_LONGEST_KEY, what)
        try:
            text = raw.decode()
        except UnicodeDecodeError as error:
            self.wrong(f"{what} {raw[:40]!r} is not UTF-8 at byte {error.start}")
        if "\0" in text:
            self.wrong(f"{what} {text[:40]!r} holds a NUL")
        return text

    def count(self, what: str, least: int, most: int) -> int:
        """How many of something follow, each of which takes ``least`` bytes."""
        number: int = self.take("Q", f"the number of {what}")
        if number * least > self.size or number > most:
            self.wrong(
                f"claims {number} {what}, more than"
                + (
                    f" a file of {self.size} bytes holds"
                    if number * least > self.size
                    else f" the {most} that are read"
                )
            )
        return number

    def header(self) -> Header:
        self.need(8, "the version")
        if bytes(self.data[:4]) != MAGIC:
            self.wrong("is no GGUF file: it does not begin with GGUF")
        # The numbers of big-endian files are all so, the version too.
        if not int.from_bytes(self.data[4:8], "little") & 0xFFFF:
            self.order = ">"
        self.at = 4
        version = self.take("I", "the version")
        if version not in (2, 3):
            self.wrong(
                f"is GGUF of version {version}; versions 2 and 3 are read",
                hint="make it anew with a llama.cpp of today" if version == 1 else None,
            )
        tensors = self.count("tensors", 24, _MOST_TENSORS)
        keys = self.count("keys of metadata", 13, MOST_KEYS)
        metadata: dict[str, Typed] = {}
        filler = None
        for _ in range(keys):
            begin = self.at
            key = self.text("a key of metadata")
            if key in metadata:
                self.wrong(f"names the metadata {key!r:.80} twice")
            metadata[key] = self.value(key)
            if key == FILLER:
                filler = begin, self.at
        metadata_end = self.at
        alignment = self.alignment(metadata)
        listed = [self.entry(metadata) for _ in range(tensors)]
        facts_end = self.at
        placed = self.placed(listed, alignment)
        if filler is not None:
            del metadata[FILLER]
        start = facts_end + -facts_end % alignment
        if self.whole is not None and not listed:
            start = min(start, self.whole)
        return Header(
            placed, metadata, version, self.order == ">", alignment, filler, metadata_end, facts_end, start
        )

    def value(self, key: str) -> Typed:
        what = f"metadata {key!r:.80}"
        number = self.take("I", what)
        local = key in _LOCAL or key.startswith(_LOCAL_PREFIXES)
        if number == values.STRING:
            return values.string(self.bytes(MAX_HEADER, what))
        if number == values.ARRAY:
            of, count = self.take("I", what), self.take("Q", what)
            start = self.at
            self.skip(of, count, what, 1)
            with memoryview(self.data) as data:
                value = values.array(of, count, data[start : self.at], self.order == ">")
            value.local = local
            return value
        if number not in values.SCALARS:
            self.wrong(f"{what} is of type {number}, which the format does not have")
        size = values.SCALARS[number].size
        self.need(self.at + size, what)
        raw = bytes(self.data[self.at : self.at + size])
        self.at += size
        if values.SCALARS[number].name == "bool" and raw not in (b"\0", b"\1"):
            self.wrong(f"{what} is a bool of value {raw[0]}")
        return values.scalar(number, raw[::-1] if self.order == ">" else raw, local=local)

    def skip(self, of: int, count: int, what: str, depth: int) -> None:
        """Go behind the elements of an array."""
        if of in values.SCALARS:
            size = values.SCALARS[of].size
            self.need(self.at + count * size, what)
            self.at += count * size
            return
        if of not in (values.STRING, values.ARRAY):
            self.wrong(f"{what} is an array of type {of}, which the format does not have")
        if count * (8 if of == values.STRING else 12) > self.size:
            self.wrong(f"{what} claims {count} elements, more than a file of {self.size} bytes holds")
        if of == values.ARRAY:
            if depth == _DEEPEST:
                self.wrong(f"{what} has arrays {depth + 1} deep")
            for _ in range(count):
                inner, many = self.take("I", what), self.take("Q", what)
                self.skip(inner, many, what, depth + 1)
            return
        unpack, at = struct.Struct(f"{self.order}Q").unpack_from, self.at
        for _ in range(count):
            if at + 8 > len(self.data):
                self.need(at + 8, what)
            at += 8 + unpack(self.data, at)[0]
        self.need(at, what)
        self.at = at

    def alignment(self, metadata: Mapping[str, Typed]) -> int:
        said = metadata.get(ALIGNMENT)
        if said is None:
            return DEFAULT_ALIGNMENT
        if said.kind != "uint32":
            self.wrong(f"{ALIGNMENT} is of type {said.kind}, not uint32")
        number = int(said)
        if number == 0 or number & (number - 1) or number > 1 << 20:
            self.wrong(f"{ALIGNMENT} is {number}, no power of two up to {1 << 20}")
        return number

    def entry(self, metadata: Mapping[str, Typed]) -> Entry:
        """A tensor, with its offset in the data section for its first byte."""
        name = self.text("the name of a tensor")
        dimensions = self.take("I", f"tensor {name!r:.80}")
        if dimensions > _MOST_DIMENSIONS:
            self.wrong(f"has {dimensions} dimensions, more than {_MOST_DIMENSIONS}", tensor=name)
        lengths = [self.take("Q", f"tensor {name!r:.80}") for _ in range(dimensions)]
        number = self.take("I", f"tensor {name!r:.80}")
        offset = self.take("Q", f"tensor {name!r:.80}")
        if number not in TYPES:
            gone = (
                f" ({GONE[number]}), which ggml has taken out" if number in GONE else ", which is not known"
            )
            self.wrong(f"is of type {number}{gone}", tensor=name)
        dtype = TYPES[number]
        if prod(length or 1 for length in lengths) * dtype.bits >= _LIMIT:
            self.wrong(f"shape {lengths[::-1]} of {dtype} overflows", tensor=name)
        if (lengths[0] if lengths else 1) % dtype.elements:
            self.wrong(
                f"rows of {lengths[0] if lengths else 1} elements are no whole number of blocks of {dtype},"
                f" which have {dtype.elements}",
                tensor=name,
            )
        shape = tuple(reversed(lengths))
        return Entry(name, Spec(dtype, self.shape(name, shape, metadata)), offset)

    def shape(self, name: str, stored: tuple[int, ...], metadata: Mapping[str, Typed]) -> tuple[int, ...]:
        """The shape of a tensor, where metadata says that it is stored under another."""
        said = metadata.get(f"{ORIG_SHAPE}{name}")
        if said is None:
            return stored
        shape = _lengths(said)
        if shape is None or prod(shape) != prod(stored):
            self.wrong(
                f"{ORIG_SHAPE}{name:.80} is {said:.80}, which is no shape of the {prod(stored)} elements of"
                f" {list(stored)}",
                tensor=name,
            )
        return shape

    def placed(self, listed: list[Entry], alignment: int) -> tuple[Entry, ...]:
        """Tensors with their places in the file; overlaps, gaps and what lies behind the end are refused."""
        seen: set[str] = set()
        for entry in listed:
            if entry.name in seen:
                self.wrong("the header names this tensor twice", tensor=entry.name)
            seen.add(entry.name)
        data = self.at + -self.at % alignment
        at = 0
        placed = []
        for entry in sorted(listed, key=lambda one: (one.start, one.spec.nbytes)):
            if entry.start % alignment:
                self.wrong(
                    f"its offset {entry.start} is no multiple of {ALIGNMENT} {alignment}", tensor=entry.name
                )
            if entry.start != at + -at % alignment:
                what = "overlaps the tensor before it" if entry.start < at else "leaves a hole before it"
                self.wrong(f"its offset {entry.start} {what}, which ends at {at}", tensor=entry.name)
            at = entry.start + entry.spec.nbytes
            placed.append(Entry(entry.name, entry.spec, data + entry.start))
        # What pads the last tensor may be missing, and where there are no tensors all of it.
        size = data + at if self.whole is None else self.whole
        if listed and data + at > size:
            self.wrong(
                f"the file is cut short: its tensors end at byte {data + at}, the file at {size}",
                hint="is the download complete?",
            )
        end = data + at + -at % alignment
        if size > end:
            self.wrong(f"the file has trailing bytes: its tensors end at byte {end}, the file at {size}")
        return tuple(placed)


def _lengths(value: Typed) -> tuple[int, ...] | None:
    """The shape that an array of integers is; None for anything else."""
    import json

    if value.kind not in (f"array of {kind}" for kind in ("int32", "uint32", "int64", "uint64")):
        return None
    lengths = tuple(json.loads(whole(value)))
    return lengths if len(lengths) <= _MOST_DIMENSIONS and all(length >= 0 for length in lengths) else None
