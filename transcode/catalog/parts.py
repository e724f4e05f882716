"""How a convention says that parts are stored: keys of YAML, translated to codecs in order."""

from __future__ import annotations

from collections.abc import Callable

from ..codecs import chain
from ..codecs.nibbles import Nibbles
from ..codecs.numbers import Reciprocal
from ..codecs.offset import Offset
from ..codecs.rows_int32 import RowsInt32
from ..codecs.shapes import Reshape, Split, Squeeze, View
from ..codecs.swizzle import Swizzle
from ..codecs.table import CODECS, from_config
from ..core.codec import Codec
from ..core.dtypes import DTYPES
from ..errors import PlanError
from . import strict
from .convention import PartRule
from .template import Template

__all__ = ["part_rules", "template"]


def part_rules(node: strict.Node) -> dict[str, PartRule]:
    """Role -> how that part is stored. Raises RecipeError."""
    return {role: _rule(child) for role, child in node.mapping().items()}


def template(node: strict.Node) -> Template:
    """A template of names. Raises RecipeError."""
    return node.at(lambda: Template(node.string()))


def _rule(node: strict.Node) -> PartRule:
    if node.kind == "text":
        return PartRule(template(node))
    top = node.mapping()
    name = template(top.need("name"))
    listed = top.find("codecs")
    short = _spelled(top)
    turned = top.get("turned", strict.Node.boolean, False)
    top.reject_unknown()
    if listed is not None and short:
        keys = ", ".join(key for key in _SPELLINGS if key in top)
        raise listed.error(f"cannot stand beside {keys}", "say all of it in codecs, in order")
    codecs = short if listed is None else tuple(_codec(child) for child in listed.sequence())
    try:
        chain.combined(codecs)
    except PlanError as error:
        raise node.error(error.what, "no part can be stored so") from None
    return PartRule(name, codecs, turned)


_Codecs = Callable[[strict.Node], list[Codec]]


def _if_so(codec: Callable[[], Codec]) -> _Codecs:
    return lambda node: [codec()] if node.boolean() else []


def _choice(**codecs: Callable[[], Codec] | None) -> _Codecs:
    def read(node: strict.Node) -> list[Codec]:
        codec = codecs[node.choice(codecs)]
        return [] if codec is None else [codec()]

    return read


def _offset(node: strict.Node) -> list[Codec]:
    by = node.integer(0)
    legal = Offset.options["by"]
    if by and not legal.holds(by):
        raise node.error(f"{by} is not half the range of 4-bit or 8-bit codes", f"use {legal.said}")
    return [Offset(by)] if by else []


def _shape(node: strict.Node) -> list[Codec]:
    lengths = [child.integer(0) for child in node.sequence()]
    if not Reshape.options["shape"].holds(lengths):
        raise node.error(f"only one element can be reshaped, {lengths} does not hold one")
    return [Reshape(tuple(lengths))]


_SPELLINGS: dict[str, _Codecs] = {
    "offset": _offset,
    "packing": _choice(low_first=None, high_first=lambda: Nibbles("high_first")),
    "layout": _choice(rows=None, swizzled=Swizzle, packed_rows=RowsInt32),
    "reciprocal": _if_so(Reciprocal),
    "dtype": lambda node: [View(node.choice(DTYPES))],
    "split": lambda node: [Split(node.integer(1))],
    "squeeze": _if_so(Squeeze),
    "shape": _shape,
}
"""Keys that stand for a codec each, in the order in which these follow each other."""


def _spelled(top: strict.Mapping) -> tuple[Codec, ...]:
    return tuple(codec for key, read in _SPELLINGS.items() for codec in top.get(key, read, _NONE))


_NONE: list[Codec] = []


def _codec(node: strict.Node) -> Codec:
    """A codec by its name, or ``{codec: NAME, OPTION: VALUE}``."""
    if node.kind == "text":
        name, config = node.choice(CODECS), dict[str, object]()
    else:
        top = node.mapping()
        name = top.need("codec").choice(CODECS)
        config = {option: child.plain() for option in CODECS[name].options if (child := top.find(option))}
        top.reject_unknown()
    return node.at(lambda: from_config({"codec": name, **config}))
