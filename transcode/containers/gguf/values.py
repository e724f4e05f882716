"""Values of metadata: thirteen types, each with its number and its bytes (``ggml/docs/gguf.md``).

A value is text that knows its type, :class:`.core.typed.Typed`; its bytes are those of a little-endian file.
What arrays hold is only looked at when it is asked for: a vocabulary has a hundred thousand tokens.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from ...core.typed import Typed
from .limits import FILLER

__all__ = [
    "ARRAY",
    "KINDS",
    "SCALARS",
    "STRING",
    "Scalar",
    "array",
    "make",
    "pair",
    "scalar",
    "string",
    "typed",
]

STRING, ARRAY = 8, 9


class Scalar(NamedTuple):
    """A type of numbers: what it is called, and its code of :mod:`struct`."""

    name: str
    code: str

    @property
    def size(self) -> int:
        return struct.calcsize(f"<{self.code}")


SCALARS: dict[int, Scalar] = {
    0: Scalar("uint8", "B"), 1: Scalar("int8", "b"), 2: Scalar("uint16", "H"), 3: Scalar("int16", "h"),
    4: Scalar("uint32", "I"), 5: Scalar("int32", "i"), 6: Scalar("float32", "f"), 7: Scalar("bool", "B"),
    10: Scalar("uint64", "Q"), 11: Scalar("int64", "q"), 12: Scalar("float64", "d"),
}  # fmt: skip
"""Number -> type, of all but texts and arrays."""

KINDS: dict[str, int] = {**{one.name: number for number, one in SCALARS.items()}, "string": STRING}
"""Name -> number, of all but arrays."""

_ARRAY_OF = "array of "
_LONGEST_KEY = 65_535
_SHOWN = 32
"""Most elements of an array that stand in its text; of more, only how many there are."""


def scalar(number: int, raw: bytes, *, local: bool = False) -> Typed:
    """A number from its bytes."""
    kind = SCALARS[number]
    (value,) = struct.unpack(f"<{kind.code}", raw)
    return Typed(_spelt(kind.name, value), kind.name, raw, local=local)


def string(raw: bytes | memoryview) -> Typed:
    """Text from its bytes, without their count. What is no UTF-8 is shown as such and stays what it is."""
    return Typed(str(raw, "utf-8", "backslashreplace"), "string", raw)


def array(of: int, count: int, raw: memoryview, swapped: bool) -> Typed:
    """An array from the bytes behind its type and count.

    Args:
        of: type of its elements, itself perhaps that of arrays.
        swapped: the bytes are big-endian.
    """
    kind = f"array of {'array' if of == ARRAY else 'string' if of == STRING else SCALARS[of].name}"
    little = struct.pack("<IQ", of, count) + (_little(of, count, raw) if swapped else bytes(raw))

    def full() -> str:
        return json.dumps(_elements(little), ensure_ascii=False)

    if count <= _SHOWN and of != ARRAY and len(raw) < 4096:
        return Typed(full(), kind, little)
    return Typed(f"[{count} x {kind.removeprefix('array of ')}]", kind, little, full=full)


def make(kind: str, text: str) -> Typed:
    """A value of a type from its text, as ``uint32`` from ``32``.

    Raises:
        ValueError: the text is none of that type; says why.
    """
    if kind == "string":
        return Typed(text, kind, _utf8(text))
    if kind.startswith(_ARRAY_OF):
        return _array_of(kind.removeprefix(_ARRAY_OF), text)
    if kind not in KINDS:
        raise ValueError(f"{kind!r} is not one of {', '.join(KINDS)}")
    number = KINDS[kind]
    code = SCALARS[number].code
    if kind == "bool":
        if text.lower() not in ("true", "false"):
            raise ValueError(f"{text!r} is not true or false")
        raw = bytes([text.lower() == "true"])
    else:
        try:
            raw = struct.pack(f"<{code}", float(text) if code in "fd" else int(text))
        except (ValueError, struct.error, OverflowError):
            raise ValueError(f"{text!r} is no {kind}") from None
    return scalar(number, raw)


def _array_of(kind: str, text: str) -> Typed:
    try:
        elements = json.loads(text)
    except ValueError:
        elements = None
    if not isinstance(elements, list) or kind not in KINDS:
        raise ValueError(f"{text!r:.60} is no JSON array of {kind}")
    raws = []
    for one in elements:
        if isinstance(one, list | dict) or (kind == "string") != isinstance(one, str):
            raise ValueError(f"{one!r:.60} in it is no {kind}")
        raw = bytes(make(kind, one if isinstance(one, str) else json.dumps(one)).raw)
        raws.append(struct.pack("<Q", len(raw)) + raw if kind == "string" else raw)
    return array(KINDS[kind], len(elements), memoryview(b"".join(raws)), False)


def typed(metadata: Mapping[str, str], before: Mapping[str, Typed]) -> dict[str, Typed]:
    """Metadata with types: what is plain text gets that of ``KEY:TYPE``, else that which the key had, else it
    is text; an array is written as JSON.

    Raises:
        ValueError: a text is none of its type, or a key none; says why.
    """
    pairs: dict[str, Typed] = {}
    for key, value in metadata.items():
        if isinstance(value, Typed):
            pairs[key] = value
            continue
        name, colon, kind = key.rpartition(":")
        if not (colon and (kind in KINDS or (kind.endswith("[]") and kind.removesuffix("[]") in KINDS))):
            name, kind = key, before[key].kind if key in before else "string"
        elif kind.endswith("[]"):
            kind = f"{_ARRAY_OF}{kind.removesuffix('[]')}"
        if not name or "\0" in name or len(_utf8(name)) > _LONGEST_KEY:
            raise ValueError(
                f"{name!r:.80} is no key: empty, longer than {_LONGEST_KEY} bytes, or with a NUL"
            )
        if name == FILLER:
            raise ValueError(f"the key {name!r} is what fills space in the header")
        try:
            pairs[name] = make(kind, value)
        except ValueError as error:
            raise ValueError(f"{name!r}: {error}") from None
    return pairs


def pair(key: str, value: Typed) -> bytes:
    """A key with its value as a little-endian file has them."""
    raw = bytes(value.raw)
    if value.kind == "string":
        raw = struct.pack("<Q", len(raw)) + raw
    number = ARRAY if value.kind.startswith(_ARRAY_OF) else KINDS[value.kind]
    name = key.encode()
    return struct.pack("<Q", len(name)) + name + struct.pack("<I", number) + raw


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{text!r:.60} holds half of a surrogate pair") from None


def _spelt(kind: str, value: float) -> str:
    if kind == "bool":
        return "true" if value else "false"
    if kind != "float32" or not math.isfinite(value):
        return repr(value)
    return repr(_short(value))


def _short(value: float) -> float:
    """The float64 of the shortest decimal number that rounds to a float32."""
    for digits in range(6, 10):
        short = float(f"{value:.{digits}g}")
        if struct.pack("<f", short) == struct.pack("<f", value):
            return short
    return value


def _elements(raw: bytes) -> list[object]:
    elements, _ = _read(raw, 0)
    return elements


def _read(raw: bytes, at: int) -> tuple[list[object], int]:
    of, count = struct.unpack_from("<IQ", raw, at)
    at += 12
    out: list[object] = []
    if of == ARRAY:
        for _ in range(count):
            inner, at = _read(raw, at)
            out.append(inner)
    elif of == STRING:
        for _ in range(count):
            (size,) = struct.unpack_from("<Q", raw, at)
            out.append(str(raw[at + 8 : at + 8 + size], "utf-8", "backslashreplace"))
            at += 8 + size
    else:
        kind = SCALARS[of]
        values = struct.unpack_from(f"<{count}{kind.code}", raw, at)
        at += count * kind.size
        if kind.name == "bool":
            out += map(bool, values)
        else:
            out += map(_short, values) if kind.name == "float32" else values
    return out, at


def _little(of: int, count: int, raw: memoryview) -> bytes:
    """The bytes behind an array's type and count, from big-endian to little-endian."""
    return b"".join(_swapped(of, count, raw, [0]))


def _swapped(of: int, count: int, raw: memoryview, at: list[int]) -> Iterator[bytes]:
    if of in SCALARS:
        size = SCALARS[of].size
        piece = raw[at[0] : at[0] + count * size]
        at[0] += count * size
        values = struct.unpack(f">{count}{'xBHxIxxxQ'[size]}", piece)
        yield struct.pack(f"<{count}{'xBHxIxxxQ'[size]}", *values)
        return
    for _ in range(count):
        if of == STRING:
            (size,) = struct.unpack_from(">Q", raw, at[0])
            yield struct.pack("<Q", size) + bytes(raw[at[0] + 8 : at[0] + 8 + size])
            at[0] += 8 + size
        else:
            inner, many = struct.unpack_from(">IQ", raw, at[0])
            at[0] += 12
            yield struct.pack("<IQ", inner, many)
            yield from _swapped(inner, many, raw, at)
