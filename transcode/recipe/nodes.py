"""How recipes say what options are; and where a mistake stands."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, TypeVar

from ..catalog import strict
from ..core.nearest import guess
from ..core.option import Declared, Option, options_of
from ..errors import RecipeError

__all__ = ["fields_of", "located", "read", "section_of"]

T = TypeVar("T")


def located(node: strict.Node, make: Callable[[], T]) -> T:
    """Add file and line to what the maker of a stage complains of."""
    try:
        return make()
    except RecipeError as error:
        if error.file is not None:
            raise
        raise node.error(error.what, error.hint) from None


def read(option: Option, node: strict.Node) -> Any:
    """The value of one option."""
    value = option.kind.read(node)
    if option.most is not None and value > option.most:
        raise node.error(f"must be at most {option.most}")
    for member in option.kind.members(value) if option.choices else ():
        if member not in option.choices:
            near = guess(member, option.choices) if isinstance(member, str) else ""
            raise node.error(f"{member!r} is not one of {', '.join(option.choices)}{near}")
    return value


def fields_of(
    section: strict.Mapping, owner: type[Declared], *, part: str | None = None, without: Collection[str] = ()
) -> dict[str, Any]:
    """What a section says of the options of a class, by the names of their fields.

    Args:
        part: those of one section alone, where they stand in several.
        without: fields that are not read.
    """
    values: dict[str, Any] = {}
    for name, option in options_of(owner).items():
        if name in without or (part is not None and option.section != part):
            continue
        if option.kind.keys:
            values[name] = option.kind.read_keys(section)
            continue
        key = option.key or name
        node = section.need(key) if option.required else section.find(key)
        if node is not None:
            values[name] = read(option, node)
    return values


def section_of(node: strict.Node, owner: type[Declared]) -> dict[str, Any]:
    """What a node says of a stage: all its options, or in their place the one that may stand alone."""
    options = options_of(owner)
    alone = options.get(owner.alone)
    if alone is not None and (
        owner.only_alone or node.kind == "text" or (node.kind == "a list" and alone.kind.keys)
    ):
        return {owner.alone: read(alone, node)}
    if node.is_null and not any(option.required for option in options.values()):
        return {}
    section = node.mapping()
    values = fields_of(section, owner)
    section.reject_unknown()
    return values
