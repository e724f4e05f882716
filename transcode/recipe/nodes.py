"""What stands in recipes at several places: lists of texts, pairs, sizes; and where a mistake stands."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from ..catalog import strict
from ..core.performance import parse_size
from ..errors import RecipeError

__all__ = ["groups", "located", "pairs", "size", "strings"]

T = TypeVar("T")


def located(node: strict.Node, make: Callable[[], T]) -> T:
    """Add file and line to what the maker of a stage complains of."""
    try:
        return make()
    except RecipeError as error:
        if error.file is not None:
            raise
        raise node.error(error.what, error.hint) from None


def pairs(node: strict.Node) -> tuple[tuple[str, str], ...]:
    """A list of two-element lists, or a mapping."""
    if node.kind == "a mapping":
        return tuple((key, value.text()) for key, value in node.mapping().items())
    pairs = []
    for item in node.sequence():
        both = [child.text() for child in item.sequence()]
        if len(both) != 2:
            raise item.error(f"must be a pair, has {len(both)} elements")
        pairs.append((both[0], both[1]))
    return tuple(pairs)


def strings(node: strict.Node) -> tuple[str, ...]:
    """A list of texts, or one text."""
    return (node.text(),) if node.kind not in ("a list", "a mapping") else tuple(node.strings())


def groups(node: strict.Node) -> tuple[tuple[str, ...], ...]:
    """A list of lists of texts."""
    return tuple(tuple(item.strings()) for item in node.sequence())


def size(node: strict.Node) -> int:
    """Bytes, written as ``512MB`` or a number."""
    return located(node, lambda: parse_size(node.text()))
