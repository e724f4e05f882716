"""The JSON of a header read member by member, in time and memory in proportion to its length.

Read at once, a header of small lists or numbers takes twenty times its size. Here no more
than one entry is unfolded at a time, and none that is longer than any real one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from json.decoder import JSONDecodeError
from typing import NamedTuple, NoReturn

__all__ = ["METADATA", "Doubled", "Malformed", "Usual", "kind_of", "members"]

METADATA = "__metadata__"

LONGEST_ENTRY = 1 << 16
"""Characters of the JSON of one tensor; real entries have 60 to 200."""

MOST_TENSORS = 1_000_000
"""Tensors of one file; the largest models have 200,000 in all their files."""

MOST_KEYS = 100_000
"""Keys of the metadata; real files have up to some hundred, as what is many stands in one of them as JSON."""

_SPACE = re.compile(r"[ \t\n\r]*")

# A member as all writers spell nearly all of them, and the comma behind it: one match instead of a dozen
# calls. No escapes, no signs, no more digits than 63 bits have; anything else is read value by value.
_USUAL = re.compile(
    (
        r'"([^"\\\x00-\x1f]{1,1000})":~\{~"dtype":~"(\w{1,16})",~"shape":~\[([0-9, ]{0,200})\],~'
        r'"data_offsets":~\[(0|[1-9][0-9]{0,17}),~(0|[1-9][0-9]{0,17})\]~\}~,~(?=")'
    ).replace("~", r"[ \t\n\r]*+"),
    re.ASCII,
)
_LENGTHS = re.compile(r"(?:(?:0|[1-9][0-9]{0,17})(?:, ?(?:0|[1-9][0-9]{0,17}))*)?")
_MOST_SHAPES = 1 << 12


class Usual(NamedTuple):
    """An entry as all writers spell nearly all of them."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    def fields(self) -> dict[str, object]:
        """Its members, as JSON has them."""
        return {"dtype": self.dtype, "shape": list(self.shape), "data_offsets": [self.begin, self.end]}


class Malformed(ValueError):
    """The text is no JSON, or no header that a real file has."""


class Doubled(dict[str, object]):
    """A JSON object that names a key twice; which one, is told where the object's place is known."""

    key = ""


class _Negative(int):
    """A JSON integer written with a minus sign, so that ``-0`` can be told from ``0``."""


def _integer(text: str) -> int:
    return _Negative(text) if text[0] == "-" else int(text)


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) == len(pairs):
        return members
    doubled = Doubled(members)
    seen: set[str] = set()
    for key, _ in pairs:
        if key in seen:
            doubled.key = key
            break
        seen.add(key)
    return doubled


def _constant(text: str) -> NoReturn:
    raise Malformed(f"the header is malformed: {text} is not JSON")


_PLAIN = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant)
# The hook is a Python call for every number, so it is used only where a minus sign exists.
_SIGNED = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant, parse_int=_integer)


def kind_of(value: object) -> str:
    """What a value is in the words of JSON."""
    names = {list: "array", str: "string", bool: "boolean", type(None): "null", dict: "object"}
    return names.get(type(value), "object" if isinstance(value, dict) else "number")


def members(text: str) -> Iterator[tuple[str, object]]:
    """The members of the object that a header is, in its order, one at a time.

    An entry that is spelled as usual comes as :class:`Usual`, any other as its members. The metadata comes as
    a whole, as :class:`Doubled` where it names a key twice. Names that stand twice are the caller's to find.

    Raises:
        Malformed: it is not valid JSON, no object, or has more or longer entries than any real header.
    """
    at = _skip(text, 0)
    if text[at : at + 1] != "{":
        value, at = _value(text, at)
        if (at := _skip(text, at)) < len(text):
            raise _invalid("Extra data", text, at)
        raise Malformed(f"the header is a JSON {kind_of(value)}, not an object")
    at = _skip(text, at + 1)
    last = text[at : at + 1] == "}"
    at += last
    count = 0
    shapes: dict[str, tuple[int, ...]] = {}
    match = _USUAL.match
    while not last:
        if (usual := match(text, at)) is not None:
            name, dtype, written, begin, end = usual.groups()
            if (lengths := shapes.get(written)) is None and _LENGTHS.fullmatch(written):
                lengths = tuple(map(int, filter(None, written.split(","))))
                if len(shapes) < _MOST_SHAPES:
                    shapes[written] = lengths
            if lengths is not None and name != METADATA:
                count += 1
                if count > MOST_TENSORS:
                    raise Malformed(
                        f"the header has more than {MOST_TENSORS} entries, which no real file has"
                    )
                yield name, Usual(dtype, lengths, int(begin), int(end))
                at = usual.end()
                continue
        name, at = _key(text, at)
        count += 1
        if count > MOST_TENSORS:
            raise Malformed(f"the header has more than {MOST_TENSORS} entries, which no real file has")
        if name == METADATA and text[at : at + 1] == "{":
            value, at = _metadata(text, at)
        else:
            value, at = _value(text, at)
        yield name, value
        del value
        at, last = _next(text, at)
    if (at := _skip(text, at)) < len(text):
        raise _invalid("Extra data", text, at)


def _metadata(text: str, at: int) -> tuple[dict[str, object], int]:
    """The object of metadata that begins at ``at``, and its end. Texts may be of any length."""
    members: dict[str, object] = {}
    doubled: str | None = None
    value: object
    at = _skip(text, at + 1)
    if text[at : at + 1] == "}":
        return members, at + 1
    last = False
    while not last:
        key, at = _key(text, at)
        if text[at : at + 1] == '"':
            value, at = _string(text, at)
        else:
            value, at = _value(text, at)
        if key in members and doubled is None:
            doubled = key
        members[key] = value
        if len(members) > MOST_KEYS:
            raise Malformed(f"__metadata__ has more than {MOST_KEYS} keys, which no real file has")
        at, last = _next(text, at)
    if doubled is None:
        return members, at
    doubled_members = Doubled(members)
    doubled_members.key = doubled
    return doubled_members, at


def _key(text: str, at: int) -> tuple[str, int]:
    """The key at ``at``, and where its value begins."""
    if text[at : at + 1] != '"':
        raise _invalid("Expecting property name enclosed in double quotes", text, at)
    name, at = _string(text, at)
    at = _skip(text, at)
    if text[at : at + 1] != ":":
        raise _invalid("Expecting ':' delimiter", text, at)
    return name, _skip(text, at + 1)


def _next(text: str, at: int) -> tuple[int, bool]:
    """Where the next member begins, behind a value; and whether the object ends there instead."""
    at = _skip(text, at)
    char = text[at : at + 1]
    if char == "}":
        return at + 1, True
    if char != ",":
        raise _invalid("Expecting ',' delimiter", text, at)
    return _skip(text, at + 1), False


def _string(text: str, at: int) -> tuple[str, int]:
    try:
        value, end = json.decoder.scanstring(text, at + 1)  # type: ignore[attr-defined]
    except JSONDecodeError as error:
        raise _invalid(error.msg, text, error.pos) from None
    return value, end


def _value(text: str, at: int) -> tuple[object, int]:
    """The value at ``at``, not longer than an entry can be, and its end."""
    # An entry ends at the first brace, unless it holds some itself: so mostly no more than it is cut out.
    end = text.find("}", at, at + LONGEST_ENTRY) + 1
    if end:
        try:
            value, length = _decoded(text[at:end])
        except (JSONDecodeError, RecursionError):
            pass
        else:
            return value, at + length
    cut = text[at : at + LONGEST_ENTRY]
    try:
        value, length = _decoded(cut)
    except JSONDecodeError as error:
        if len(cut) < LONGEST_ENTRY or (error.pos < len(cut) - 8 and "Unterminated" not in error.msg):
            raise _invalid(error.msg, text, at + error.pos) from None
    except RecursionError:
        raise Malformed("the header is not valid JSON: an entry nests too deep") from None
    else:
        if length < len(cut) or at + length == len(text):
            return value, at + length
    raise Malformed(
        f"the header has an entry of more than {LONGEST_ENTRY} characters at byte {8 + _bytes(text, at)},"
        " which no real file has"
    )


def _decoded(cut: str) -> tuple[object, int]:
    decoder = _SIGNED if "-" in cut else _PLAIN
    try:
        return decoder.raw_decode(cut)
    except (JSONDecodeError, Malformed):
        raise
    except ValueError as error:  # an integer of thousands of digits
        raise Malformed(f"the header is not valid JSON: {error}") from None


def _bytes(text: str, at: int) -> int:
    return len(text[:at].encode("utf-8", "surrogatepass"))


def _skip(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    assert match is not None
    return match.end()


def _invalid(what: str, text: str, at: int) -> Malformed:
    return Malformed(f"the header is not valid JSON: {JSONDecodeError(what, text, at)}")
