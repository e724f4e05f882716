"""YAML read strictly: every value knows its line, nothing is guessed and nothing is ignored.

Used for the files of ``formats/`` and for users' recipes alike::

    top = load(path).mapping()
    name = top.need("name").string()
    count = top.get("count", lambda node: node.integer(), 1)
    top.reject_unknown()

All mistakes are :class:`~transcode.errors.RecipeError` and say ``file:line``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import field
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from ..core import small_json
from ..core.nearest import guess
from ..core.records import dataclass
from ..errors import RecipeError

if TYPE_CHECKING:
    # PyYAML compiles and defines a lot, and what is proven already needs nothing of it.
    from yaml.nodes import MappingNode, ScalarNode, SequenceNode
    from yaml.nodes import Node as YamlNode

__all__ = ["Mapping", "Node", "catalog_file", "load", "parse"]

T = TypeVar("T")
D = TypeVar("D")

_MOST_NODES = 1_000_000
_MOST_LEVELS = 100
_TAG = "tag:yaml.org,2002:"
_KINDS = {
    "str": "text", "int": "a whole number", "float": "a number", "bool": "true or false", "null": "nothing",
    "seq": "a list", "map": "a mapping", "merge": "a merge key",
}  # fmt: skip
_NUMBERS = re.compile(
    r"[-+]?(0|[1-9][0-9]*)|0x[0-9a-fA-F]+|[-+]?(0|[1-9][0-9]*)?\.[0-9]*([eE][-+]?[0-9]+)?|[-+]?\.(inf|nan)",
    re.IGNORECASE,
)
"""Numbers that YAML 1.1 and 1.2 read alike: not ``1_000``, ``010`` nor ``1:30``."""


@dataclass(frozen=True, slots=True)
class Node:
    """One value of a YAML file.

    Attributes:
        file: the file, as messages name it.
        path: where the value stands in it, e.g. ``"quantization.options.symmetric"``; empty for the top.
    """

    file: str
    path: str
    _yaml: YamlNode = field(repr=False)

    @property
    def line(self) -> int:
        """Line of the file, from 1."""
        return int(self._yaml.start_mark.line) + 1

    @property
    def kind(self) -> str:
        """What it is, in words: ``"text"``, ``"a list"``, ``"nothing"`` ..."""
        return _KINDS.get(self._tag, f"a {self._yaml.tag!r}")

    @property
    def is_null(self) -> bool:
        """Whether nothing was written."""
        return self._tag == "null"

    def error(self, what: str, hint: str | None = None) -> RecipeError:
        """An error about this value, to be raised."""
        message = f"{self.path}: {what}" if self.path else what
        return RecipeError(message, file=f"{self.file}:{self.line}", hint=hint)

    def at(self, make: Callable[[], T]) -> T:
        """What ``make`` makes, its errors told with this value's line."""
        try:
            return make()
        except RecipeError as error:
            if error.file is not None:
                raise
            raise self.error(error.what, error.hint) from None

    def string(self) -> str:
        """Text; numbers and booleans must be quoted to be text. Dates are text, as YAML 1.2 has none."""
        self._demand("str")
        return cast(str, self._scalar.value)

    def text(self) -> str:
        """Any scalar but nothing, just as it is written."""
        if not self._is_scalar or self.is_null:
            raise self.error(f"must be text, is {self.kind}")
        return cast(str, self._yaml.value)

    def choice(self, allowed: Collection[str]) -> str:
        """Text that is one of a few."""
        word = self.string()
        if word not in allowed:
            raise self.error(
                f"{word!r} is not allowed", f"use one of {', '.join(allowed)}{guess(word, allowed)}"
            )
        return word

    def boolean(self) -> bool:
        """True or false."""
        self._demand("bool")
        return bool(self._construct())

    def integer(self, least: int | None = None, most: int | None = None) -> int:
        """A whole number within bounds; ``4.0`` is one, as in JSON."""
        if self._tag == "float" and float(self._construct()).is_integer():
            return int(self._within(int(self._construct()), least, most))
        self._demand("int")
        return cast(int, self._within(self._construct(), least, most))

    def number(self, least: float | None = None, most: float | None = None) -> float:
        """A finite number within bounds; ``1e-5``, which YAML 1.1 takes for text, is one."""
        if self._tag == "str" and not self._scalar.style:
            try:
                number = float(self._scalar.value)
            except ValueError:
                self._demand("float")
        else:
            self._demand("float", "int")
            try:
                number = float(self._construct())
            except OverflowError:
                number = math.inf  # a whole number that no float is near
        if not math.isfinite(number):
            raise self.error(f"must be a finite number, is {self.text()}")
        return self._within(number, least, most)

    def mapping(self) -> Mapping:
        """Keys and values."""
        self._demand("map")
        return Mapping(self)

    def sequence(self) -> list[Node]:
        """A list."""
        self._demand("seq")
        children = cast("SequenceNode", self._yaml).value
        return [Node(self.file, f"{self.path}[{i}]", child) for i, child in enumerate(children)]

    def strings(self) -> list[str]:
        """A list of texts."""
        return [child.string() for child in self.sequence()]

    def plain(self) -> Any:
        """The value as Python objects: dict (in the file's order), list, str, int, float, bool or None."""
        if self._tag == "map":
            return {key: child.plain() for key, child in self.mapping().items()}
        if self._tag == "seq":
            return [child.plain() for child in self.sequence()]
        if self._tag not in ("str", "int", "float", "bool", "null"):
            raise self.error(f"{self.kind} is not allowed here", "quote it if text is meant")
        return self._construct()

    @property
    def _tag(self) -> str:
        tag = str(self._yaml.tag).removeprefix(_TAG)
        return "str" if tag == "timestamp" else tag

    @property
    def _scalar(self) -> ScalarNode:
        return cast("ScalarNode", self._yaml)

    @property
    def _is_scalar(self) -> bool:
        return _node_kind(self._yaml) == "scalar"

    def _construct(self) -> Any:
        if self._tag == "str":
            return self._scalar.value
        import yaml
        from yaml.constructor import SafeConstructor

        try:
            value = SafeConstructor().construct_object(self._yaml)
        except (yaml.YAMLError, ValueError, KeyError) as error:
            raise self.error(f"{self.text()!r} is not {self.kind}: {error}") from None
        if self._tag in ("int", "float") and _NUMBERS.fullmatch(self._scalar.value) is None:
            raise self.error(
                f"{self._scalar.value} is one number to some readers of YAML, and none or another to others",
                "write plain digits, or quote it if text is meant",
            )
        return value

    def _demand(self, *tags: str) -> None:
        if self._tag not in tags:
            shown = f" ({self._scalar.value})" if self._is_scalar and not self.is_null else ""
            hint = 'quote it: "..."' if tags == ("str",) and shown else None
            raise self.error(f"must be {_KINDS[tags[0]]}, is {self.kind}{shown}", hint)

    def _within(self, number: float, least: float | None, most: float | None) -> float:
        if least is not None and number < least:
            raise self.error(f"must be at least {least}, is {number}")
        if most is not None and number > most:
            raise self.error(f"must be at most {most}, is {number}")
        return number


class Mapping:
    """Keys and values of a :class:`Node`; remembers which keys were asked for."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self._children: dict[str, Node] = {}
        self._lines: dict[str, Node] = {}
        self._asked: dict[str, None] = {}
        for key, value in cast("MappingNode", node._yaml).value:
            path = f"{node.path}.{key.value}" if node.path else str(key.value)
            self._children[key.value] = Node(node.file, path, value)
            self._lines[key.value] = Node(node.file, node.path, key)

    def __contains__(self, key: str) -> bool:
        return key in self._children

    def __iter__(self) -> Iterator[str]:
        return iter(self._children)

    def __len__(self) -> int:
        return len(self._children)

    def items(self) -> list[tuple[str, Node]]:
        """All keys and values, in the file's order; counts as asking for all keys."""
        self._asked.update(dict.fromkeys(self._children))
        return list(self._children.items())

    def find(self, key: str) -> Node | None:
        """The value of a key, or None when the key is absent or holds nothing."""
        self._asked[key] = None
        node = self._children.get(key)
        return None if node is None or node.is_null else node

    def need(self, key: str) -> Node:
        """The value of a key that must be there."""
        node = self.find(key)
        if node is None:
            raise self.node.error(f"{key!r} is missing")
        return node

    def get(self, key: str, read: Callable[[Node], T], default: D) -> T | D:
        """The value of a key as ``read`` understands it; the default when the key is absent."""
        node = self.find(key)
        return default if node is None else read(node)

    def key_error(self, key: str, what: str, hint: str | None = None) -> RecipeError:
        """An error about a key itself, with the key's line."""
        return self._lines[key].error(what, hint)

    def reject_unknown(self, allowed: Collection[str] | None = None) -> None:
        """Refuse keys beside the allowed ones, by default those asked for so far."""
        allowed = list(self._asked) if allowed is None else allowed
        for key in self._children:
            if key not in allowed:
                raise self.key_error(
                    key, f"unknown key {key!r}", f"known here: {', '.join(allowed)}{guess(key, allowed)}"
                )


def load(path: str | PathLike[str]) -> Node:
    """Read a YAML file.

    Raises:
        RecipeError: the file cannot be read, is not YAML, or has a duplicate key.
    """
    try:
        text = small_json.read(path, RecipeError).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RecipeError(f"is not UTF-8 text: {error.reason} at byte {error.start}", file=path) from None
    return parse(text, str(path))


def catalog_file(path: Path, kind: str) -> Mapping:
    """The top of a file of the catalog, of which the key ``kind`` is the file's own name.

    Raises:
        RecipeError: as :func:`load`; or it has another name.
    """
    top = load(path).mapping()
    node = top.need(kind)
    if (name := node.string()) != path.stem:
        raise node.error(f"{name!r} is not the name of the file", f"call it {path.stem!r}")
    return top


def parse(text: str, file: str) -> Node:
    """Read YAML text; ``file`` is what messages call it.

    Raises:
        RecipeError: it is not one YAML document, has a duplicate key, is nested too deeply.
    """
    import yaml

    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        _check_depth(text, file, loader)
        top = yaml.compose(text, Loader=loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{min(mark.line, text.rstrip().count(chr(10))) + 1}" if mark is not None else ""
        problem = ", ".join(str(part) for part in (error.context, error.problem) if part)
        raise RecipeError(f"is not valid YAML: {problem}", file=f"{file}{line}") from None
    except yaml.YAMLError as error:
        raise RecipeError(f"is not valid YAML: {' '.join(str(error).split())}", file=file) from None
    if top is None:
        raise RecipeError("is empty", file=f"{file}:1")
    _check(Node(file, "", top), {}, set())
    return Node(file, "", top)


def _check_depth(text: str, file: str, loader: Any) -> None:
    """Refuse what is nested so deeply that composing it would exhaust the stack."""
    openings = sum(map(text.count, ("[", "{", "- ", "? ")))
    if openings <= _MOST_LEVELS and "\n" + " " * _MOST_LEVELS not in text:
        return
    import yaml
    from yaml.events import CollectionEndEvent, CollectionStartEvent

    depth = 0
    message = f"is nested deeper than {_MOST_LEVELS} levels"
    try:
        for event in yaml.parse(text, Loader=loader):
            depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
            if depth > _MOST_LEVELS:
                line = event.start_mark.line + 1 if event.start_mark else 1
                raise RecipeError(message, file=f"{file}:{line}")
    except yaml.MarkedYAMLError as error:
        # Since PyYAML 6.0.4 the scanner has a limit of its own, and meets it while it looks ahead.
        if "maximum nesting depth" not in (error.problem or ""):
            raise
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise RecipeError(message, file=f"{file}:{line}") from None


def _node_kind(node: YamlNode) -> str:
    """``"scalar"``, ``"sequence"`` or ``"mapping"``."""
    return cast(str, cast(Any, node).id)  # of its class


def _check(node: Node, sizes: dict[int, int], above: set[int]) -> int:
    """Refuse duplicate and non-text keys, values inside themselves, and aliases that explode.

    Returns how many values there are, aliases written out; each is looked at once.
    """
    inner = node._yaml
    if id(inner) in above:
        raise node.error("an alias may not contain itself")
    if id(inner) in sizes:
        return sizes[id(inner)]
    above.add(id(inner))
    children: list[Node] = []
    if _node_kind(inner) == "sequence":
        children = node.sequence()
    elif _node_kind(inner) == "mapping":
        lines: dict[str, int] = {}
        for key, _ in cast("MappingNode", inner).value:
            at = Node(node.file, node.path, key)
            if _node_kind(key) != "scalar":
                raise at.error(f"a key must be text, is {at.kind}")
            if key.value in lines:
                raise at.error(f"duplicate key {key.value!r}, first on line {lines[key.value]}")
            lines[key.value] = at.line
        children = [child for _, child in node.mapping().items()]
    size = 1 + sum(_check(child, sizes, above) for child in children)
    if size > _MOST_NODES:
        raise node.error(f"stands for more than {_MOST_NODES} values")
    above.discard(id(inner))
    sizes[id(inner)] = size
    return size
