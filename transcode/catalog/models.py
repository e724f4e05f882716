"""Loads ``formats/models/*.yaml``: which tensors a class of a library has, by what config.json says."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..core.records import dataclass
from . import strict
from .expression import Expression
from .folders import find, listing

__all__ = ["KEYS", "Group", "Misstated", "Model", "model", "models"]

KEYS = {"transformers": "model_type", "diffusers": "_class_name"}
"""Library -> the key of config.json by which it finds a class."""


class Misstated(Exception):
    """A value of config.json from which no model can be built, in words."""


@dataclass(frozen=True)
class Group:
    """Tensors that a model has under one condition, once or for each of some numbers.

    Attributes:
        names: name, with ``{i}`` for numbers -> sizes of its axes.
        each: letter -> how many numbers it stands for, counted from 0.
        when: the condition; None for none. It may ask for the letters, too.
    """

    names: Mapping[str, tuple[Expression, ...]]
    each: Mapping[str, Expression]
    when: Expression | None = None


@dataclass(frozen=True)
class Model:
    """The tensors of one class.

    Attributes:
        name: value of the library's key in :data:`KEYS`.
        library: one of :data:`KEYS`.
        class_name: of the class.
        defaults: what the class takes where config.json does not say.
        where: what a value is that is null.
        groups: the tensors.
        spare: names that the class leaves out, and does not miss.
        other_with: keys of a config with which the library takes another class.
    """

    name: str
    library: str
    class_name: str
    defaults: Mapping[str, Any]
    where: Mapping[str, Expression]
    groups: tuple[Group, ...]
    spare: tuple[re.Pattern[str], ...]
    other_with: tuple[str, ...] = ()

    def values(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """What the class makes of a config.

        Raises:
            Misstated: a value is of another type than the class takes.
        """
        values: dict[str, Any] = {}
        for key, default in self.defaults.items():
            value = config.get(key, default)
            if value is not None and default is not None and not _alike(value, default):
                raise Misstated(f"{key} is {value!r:.40}, not {_KINDS[type(default)]}")
            if value is not None and default is None and not _alike(value, 0):
                raise Misstated(f"{key} is {value!r:.40}, not a whole number")
            values[key] = value
        for key, instead in self.where.items():
            if values.get(key) is None:
                values[key] = self._asked(instead, values)
        return values

    def tensors(self, config: Mapping[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Names and shapes of all tensors, one after the other: a config may ask for any number.

        Raises:
            Misstated: no model can be built from the config.
        """
        values = self.values(config)
        for group in self.groups:
            counts = [self._asked(many, values) for many in group.each.values()]
            for numbers in _counted(counts):
                letters = dict(zip(group.each, numbers, strict=True))
                if group.when is not None and not self._asked(group.when, values | letters):
                    continue
                for name, sizes in group.names.items():
                    shape = tuple(self._asked(one, values) for one in sizes)
                    yield name.format(**letters) if letters else name, shape

    def knows(self, name: str) -> bool:
        """Whether the class has a tensor of this name with some config."""
        return any(pattern.fullmatch(name) for pattern in _patterns(self))

    def _asked(self, expression: Expression, values: Mapping[str, Any]) -> Any:
        try:
            return expression.of(values)
        except (ArithmeticError, LookupError, TypeError):
            stated = ", ".join(f"{key} {values[key]!r}" for key in sorted(expression.names & values.keys()))
            raise Misstated(f"{expression.text} cannot be computed of {stated}") from None


def _counted(counts: list[int]) -> Iterator[tuple[int, ...]]:
    """All numbers below these, one after the other: a config may say any, so that none are made ahead."""
    if not counts:
        yield ()
        return
    for first in range(counts[0]):
        for others in _counted(counts[1:]):
            yield (first, *others)


_KINDS = {bool: "true or false", int: "a whole number", str: "a text", list: "a list"}


def _alike(value: object, default: object) -> bool:
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(value, bool) and isinstance(default, bool)
    return isinstance(value, type(default))


@lru_cache(maxsize=32)
def _compiled(names: tuple[str, ...]) -> tuple[re.Pattern[str], ...]:
    return tuple(re.compile(re.sub(r"\\\{\w+\\\}", r"\\d+", re.escape(name))) for name in names)


def _patterns(one: Model) -> tuple[re.Pattern[str], ...]:
    return _compiled(tuple(name for group in one.groups for name in group.names))


def models() -> list[str]:
    """Names of all tables, sorted; parses nothing."""
    return list(listing("models"))


def model(name: str) -> Model:
    """A table by its name.

    Raises:
        RecipeError: no such table, or a mistake in its file.
    """
    path = find("models", name)
    facts = path.stat()
    return _parsed(path, facts.st_mtime_ns, facts.st_size)


@lru_cache(maxsize=64)
def _parsed(path: Path, _time: int, _size: int) -> Model:
    top = strict.catalog_file(path, "model")
    like = top.find("like")
    base = None if like is None else model(like.string())
    loaded = Model(
        path.stem,
        top.need("library").choice(KEYS),
        top.need("class").string(),
        {
            **({} if base is None else base.defaults),
            **top.get("defaults", lambda node: {k: child.plain() for k, child in node.mapping().items()}, {}),
        },
        {**({} if base is None else base.where), **top.get("where", _expressions, {})},
        (
            *(() if base is None else _without(base.groups, top.get("without", strict.Node.strings, []))),
            *(_group(child) for child in top.get("tensors", strict.Node.sequence, [])),
        ),
        (
            *(() if base is None else base.spare),
            *map(_regex, _listed(top.find("spare"))),
        ),
        tuple(top.get("other_with", strict.Node.strings, ())),
    )
    top.reject_unknown()
    known = {*loaded.defaults, *loaded.where}
    for group in loaded.groups:
        asked = [*group.each.values(), *(one for sizes in group.names.values() for one in sizes)]
        for expression in (*asked, *(() if group.when is None else (group.when,)), *loaded.where.values()):
            if unknown := expression.names - known - group.each.keys():
                raise top.need("model").error(
                    f"{expression.text} asks for {min(unknown)}, which has no default"
                )
    return loaded


def _without(groups: tuple[Group, ...], endings: list[str]) -> Iterator[Group]:
    for group in groups:
        names = {name: sizes for name, sizes in group.names.items() if not name.endswith(tuple(endings))}
        if names or not endings:
            yield Group(names, group.each, group.when)


def _group(node: strict.Node) -> Group:
    top = node.mapping()
    prefix = top.get("prefix", strict.Node.string, "")
    group = Group(
        {
            prefix + ending: tuple(_expression(child) for child in sizes.sequence())
            for ending, sizes in top.need("names").mapping().items()
        },
        top.get("each", _expressions, {}),
        top.get("when", _expression, None),
    )
    top.reject_unknown()
    return group


def _listed(node: strict.Node | None) -> list[strict.Node]:
    return [] if node is None else node.sequence()


def _expressions(node: strict.Node) -> dict[str, Expression]:
    return {key: _expression(child) for key, child in node.mapping().items()}


def _expression(node: strict.Node) -> Expression:
    try:
        return Expression(node.text())
    except ValueError as error:
        raise node.error(str(error)) from None


def _regex(node: strict.Node) -> re.Pattern[str]:
    try:
        return re.compile(node.string())
    except re.error as error:
        raise node.error(f"{node.text()!r} is no regular expression: {error}") from None
