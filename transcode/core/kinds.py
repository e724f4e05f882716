"""Kinds of values that options have: how each is read from YAML, from Python and from the command line,
written as JSON and described in a JSON Schema.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import PurePath
from typing import Any, ClassVar, TypeVar

from ..errors import RecipeError
from . import arguments
from .dtypes import CASTS, float_dtype, spellings
from .node import Node, Section
from .paths import unsigned
from .patterns import Pattern
from .size import parse_size, size_text

__all__ = [
    "COUNT",
    "DTYPE",
    "DTYPES",
    "FLAG",
    "GROUPS",
    "MAP",
    "NUMBER",
    "PAIRS",
    "PATH",
    "PATTERNS",
    "RULES",
    "SIZE",
    "TEXT",
    "TEXTS",
    "VALUES",
    "Kind",
    "Schema",
]

Schema = dict[str, Any]


def _scalar(words: Schema) -> Schema:
    """JSON Schema of a text that may stand unquoted where it looks like a number; not where it is a name."""
    return {"type": "string", **words} if words else {"type": ["string", "number", "boolean"]}


D = TypeVar("D")


class Kind:
    """One kind of value.

    Attributes:
        word: what it is called in references.
        keys: where it stands in YAML under several keys; under the option's own without.
        repeats: whether its flag is said once for each member.
        takes: words that its flag takes; 0 where the flag itself is the value.
        metavar: what stands for its value in help texts.
    """

    word: ClassVar[str]
    keys: ClassVar[tuple[str, ...]] = ()
    repeats: ClassVar[bool] = False
    takes: ClassVar[int] = 1
    metavar: ClassVar[str] = "TEXT"

    def normal(self, what: str, value: Any) -> Any:
        """What a field holds of a value that a Python caller gave. Raises RecipeError that names ``what``."""
        return value

    def read(self, node: Node) -> Any:
        """The value of a YAML node. Raises RecipeError with file and line."""
        raise NotImplementedError

    def read_keys(self, section: Section) -> Any:
        """The value that stands under several keys; None where none of them is there."""
        raise NotImplementedError

    def plain(self, value: Any) -> Any:
        """The value as JSON, as :meth:`read` takes it; for several keys a mapping of them."""
        return value

    def recorded(self, value: Any) -> Any:
        """As :meth:`plain`, without paths."""
        return self.plain(value)

    def said(self, value: Any) -> Any:
        """The value of what the command line gave: one word, or those of all repeats."""
        return value

    def schema(self, words: Schema) -> Schema:
        """JSON Schema of what :meth:`read` takes; for several keys, of each of them.

        Args:
            words: what is said of its texts: an ``enum``, a ``pattern``, or nothing.
        """
        raise NotImplementedError

    def schema_alone(self, words: Schema) -> Schema:
        """JSON Schema of what may stand in the place of all options of a stage."""
        return self.schema(words)

    def shown(self, value: Any) -> str:
        """A value as people write it."""
        return str(value)

    def members(self, value: Any) -> Iterable[Any]:
        """What must be among an option's choices."""
        return (value,)


class _Text(Kind):
    """A text."""

    word = "text"

    def normal(self, what: str, value: Any) -> str:
        return arguments.text(what, value)

    def read(self, node: Node) -> str:
        return node.string()

    def schema(self, words: Schema) -> Schema:
        return {"type": "string", **words}


class _Path(_Text):
    """A path of a file or folder."""

    word = "path"
    metavar = "PATH"

    def normal(self, what: str, value: Any) -> str:
        return arguments.path(what, value)

    def plain(self, value: Any) -> str:
        return unsigned(str(value))

    def recorded(self, value: Any) -> str:
        return PurePath(unsigned(str(value))).name


class _Dtype(_Text):
    """A float dtype, by safetensors' name or by torch's."""

    word = "float dtype"
    metavar = "DTYPE"

    def normal(self, what: str, value: Any) -> str:
        return float_dtype(what, value)

    def schema(self, words: Schema) -> Schema:
        return {"enum": spellings(CASTS)}


class _Flag(Kind):
    """True or false."""

    word = "true or false"
    takes = 0

    def normal(self, what: str, value: Any) -> bool:
        if not isinstance(value, bool):  # bool("no") is True
            raise RecipeError(f"{what}: {value!r} is neither True nor False")
        return value

    def read(self, node: Node) -> bool:
        return node.boolean()

    def schema(self, words: Schema) -> Schema:
        return {"type": "boolean"}

    def shown(self, value: Any) -> str:
        return str(value).lower()


class _Count(Kind):
    """A positive whole number."""

    word = "positive number"
    metavar = "N"

    def normal(self, what: str, value: Any) -> int:
        if type(value) is not int or value < 1:
            raise RecipeError(f"{what}: {value!r} is not a positive number")
        return value

    def read(self, node: Node) -> int:
        return node.integer(1)

    def schema(self, words: Schema) -> Schema:
        return {"type": "integer", "minimum": 1}


class _Number(Kind):
    """A number."""

    word = "number"
    metavar = "NUMBER"

    def normal(self, what: str, value: Any) -> float:
        return arguments.number(what, value)

    def read(self, node: Node) -> float:
        return node.number()

    def schema(self, words: Schema) -> Schema:
        return {"type": "number"}


class _Size(Kind):
    """Bytes, as ``5GB``, ``64MiB`` or a number."""

    word = "size"
    metavar = "SIZE"

    def normal(self, what: str, value: Any) -> int:
        try:
            return parse_size(value)
        except RecipeError as error:
            raise RecipeError(f"{what}: {error.what}", hint=error.hint) from None

    def read(self, node: Node) -> int:
        if node.kind in ("a whole number", "a number"):
            number = node.integer()
            return _at(node, lambda: parse_size(number))
        return _at(node, lambda: parse_size(node.text()))

    def schema(self, words: Schema) -> Schema:
        number = r"\+?(?=[0.]*[1-9])([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?\s*[kKmMgGtT][iI]?[bB]"
        whole = r"\+?(?=0*[1-9])[0-9]+(\.0*)?([eE]\+?[0-9]+)?\s*[bB]?"
        units = rf"^\s*({number}|{whole})\s*$"
        return {"anyOf": [{"type": "integer", "minimum": 1}, {"type": "string", "pattern": units}]}

    def shown(self, value: Any) -> str:
        return size_text(value)


class _Texts(Kind):
    """Texts: one, or a list."""

    word = "texts"
    repeats = True

    def normal(self, what: str, value: Any) -> tuple[str, ...]:
        return arguments.texts(what, value)

    def read(self, node: Node) -> tuple[str, ...]:
        return (node.text(),) if node.kind not in ("a list", "a mapping") else tuple(node.strings())

    def plain(self, value: Any) -> list[str]:
        return list(value)

    def said(self, value: Any) -> tuple[str, ...]:
        """Lists with commas are taken apart; regular expressions are left whole."""
        words: list[str] = []
        for word in value:
            words += [word] if word.startswith("re:") else [part.strip() for part in word.split(",")]
        return tuple(filter(None, words))

    def schema(self, words: Schema) -> Schema:
        return {"anyOf": [_scalar(words), {"type": "array", "items": {"type": "string", **words}}]}

    def members(self, value: Any) -> Iterable[Any]:
        return tuple(value)


class _Patterns(_Texts):
    """Patterns: a glob over whole name components, or ``re:REGEX``; one, or a list."""

    word = "patterns"
    metavar = "PATTERN"

    def normal(self, what: str, value: Any) -> tuple[str, ...]:
        patterns = arguments.texts(what, value)
        for pattern in patterns:
            Pattern(pattern)
        return patterns


class _Dtypes(_Texts):
    """Float dtypes: one, or a list."""

    word = "float dtypes"
    metavar = "DTYPE"

    def normal(self, what: str, value: Any) -> tuple[str, ...]:
        return tuple(float_dtype(what, name) for name in arguments.texts(what, value))

    def schema(self, words: Schema) -> Schema:
        return super().schema({"enum": spellings(CASTS)})


class _Pairs(Kind):
    """Pairs of texts: a list of two-element lists, or a mapping."""

    word = "pairs"
    repeats = True
    takes = 2
    metavar = "ONE OTHER"

    def normal(self, what: str, value: Any) -> tuple[tuple[str, str], ...]:
        return arguments.pairs(what, value)

    def read(self, node: Node) -> tuple[tuple[str, str], ...]:
        if node.kind == "a mapping":
            return tuple((key, value.text()) for key, value in node.mapping().items())
        pairs = []
        for item in node.sequence():
            both = [child.text() for child in item.sequence()]
            if len(both) != 2:
                raise item.error(f"must be a pair, has {len(both)} elements")
            pairs.append((both[0], both[1]))
        return tuple(pairs)

    def plain(self, value: Any) -> Any:
        return [list(pair) for pair in value]

    def said(self, value: Any) -> tuple[tuple[str, str], ...]:
        """Pairs as they are; of a row of words, each with the next."""
        words = tuple(value)
        if not words or isinstance(words[0], tuple):
            return words
        return tuple(zip(words[::2], words[1::2], strict=True))

    def schema(self, words: Schema) -> Schema:
        pair = {
            "type": "array", "prefixItems": [_scalar({}), _scalar(words)], "minItems": 2, "maxItems": 2,
        }  # fmt: skip
        return {
            "anyOf": [
                {"type": "object", "additionalProperties": _scalar(words)},
                {"type": "array", "items": pair},
            ]
        }


class _Map(_Pairs):
    """Texts by texts: written as a mapping, on the command line as ``KEY=VALUE``."""

    word = "mapping of texts"
    takes = 1
    metavar = "KEY=VALUE"

    def normal(self, what: str, value: Any) -> tuple[tuple[str, str], ...]:
        return arguments.pairs(what, value, sign="=")

    def plain(self, value: Any) -> dict[str, str]:
        return dict(value)


class _Rules(_Pairs):
    """What is done to which tensors: pairs of a pattern and a text, in order; ``PATTERN=TEXT``."""

    word = "patterns with a text"
    takes = 1
    metavar = "PATTERN=TEXT"

    def normal(self, what: str, value: Any) -> tuple[tuple[str, str], ...]:
        rules = arguments.pairs(what, value, sign="=")
        for pattern, _ in rules:
            Pattern(pattern)
        return rules


class _Groups(Kind):
    """Groups of texts: a list of lists, or of texts with commas."""

    word = "groups"
    repeats = True
    metavar = "A,B,C"

    def normal(self, what: str, value: Any) -> tuple[tuple[str, ...], ...]:
        """Raises RecipeError for a group of one, too."""
        if isinstance(value, str):
            value = (value,)
        if isinstance(value, bytes) or not isinstance(value, Iterable):
            raise RecipeError(f"{what}: {value!r} is not a list of groups")
        groups = tuple(
            tuple(part.strip() for part in group.split(","))
            if isinstance(group, str)
            else arguments.texts(what, group)
            for group in value
        )
        for group in groups:
            if len(group) < 2:
                raise RecipeError(
                    f"{what}: {', '.join(group)!r} is one module, which shares with nobody",
                    hint='name those that share one scale, as "q,k,v"',
                )
        return groups

    def read(self, node: Node) -> tuple[tuple[str, ...], ...]:
        return tuple(tuple(item.strings()) for item in node.sequence())

    def plain(self, value: Any) -> list[list[str]]:
        return [list(group) for group in value]

    def schema(self, words: Schema) -> Schema:
        group = {"type": "array", "items": {"type": "string"}, "minItems": 2}
        return {"type": "array", "items": group}


class _Values(Kind):
    """Values of any type by name, as a scheme's options."""

    word = "mapping"
    repeats = True
    metavar = "KEY=VALUE"

    def normal(self, what: str, value: Any) -> tuple[tuple[str, Any], ...]:
        if isinstance(value, Mapping):
            return tuple(value.items())
        if isinstance(value, str | bytes) or not isinstance(value, Iterable):
            raise RecipeError(f"{what}: {value!r} is not a mapping")
        return tuple(value)

    def read(self, node: Node) -> tuple[tuple[str, Any], ...]:
        return tuple((key, child.plain()) for key, child in node.mapping().items())

    def plain(self, value: Any) -> dict[str, Any]:
        return dict(value)

    def schema(self, words: Schema) -> Schema:
        return {"type": "object"}


def _at(node: Node, make: Callable[[], D]) -> D:
    try:
        return make()
    except RecipeError as error:
        raise node.error(error.what, error.hint) from None


TEXT, PATH, DTYPE, FLAG = _Text(), _Path(), _Dtype(), _Flag()
COUNT, NUMBER, SIZE = _Count(), _Number(), _Size()
TEXTS, PATTERNS, DTYPES = _Texts(), _Patterns(), _Dtypes()
PAIRS, MAP, RULES, GROUPS, VALUES = _Pairs(), _Map(), _Rules(), _Groups(), _Values()
