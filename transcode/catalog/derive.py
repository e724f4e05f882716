"""A model's ``config.json``, derived from the names and shapes of its tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from . import strict
from .policy import Block

__all__ = ["Derivation", "NotDerivable", "derivation"]

Shapes = Mapping[str, tuple[int, ...]]
Value = Callable[[Shapes], Any]

_ABSENT = object()


class NotDerivable(Exception):
    """The shapes are not such that a value can be told."""


class Derivation:
    """How each key of a configuration follows from tensors.

    Args:
        values: key -> what computes it from the shape of every tensor.
    """

    def __init__(self, values: Mapping[str, Value]) -> None:
        self.values = dict(values)

    def __call__(self, shapes: Shapes) -> dict[str, Any] | None:
        """The configuration, None when one of its values cannot be told from these shapes."""
        try:
            found = {key: value(shapes) for key, value in self.values.items()}
        except NotDerivable:
            return None
        return {key: value for key, value in found.items() if value is not _ABSENT}


def derivation(node: strict.Node) -> Derivation:
    """Read the rules of a configuration.

    A value is a constant (a scalar or a list), or one of these; ``over: N`` divides it, exactly:

    - ``{shape: NAME, axis: K}``: length of an axis of a tensor; null when there is no such tensor.
    - ``{shape: NAME, from: K}``: lengths of all axes from K on.
    - ``{count: PATH}``: how many blocks stand there, ``{i}`` for the number.
    - ``{spread: PATH, among: PATH}``: the first blocks spread evenly among the others: ``[0, 5, 10 ...]``.
    - ``{has: NAME, then: VALUE, else: VALUE}``, null unless said; ``axis`` and ``is`` ask for a length too.

    ``absent: drop`` leaves the key out where it would be null.
    """
    return Derivation({key: _value(child) for key, child in node.mapping().items()})


def _value(node: strict.Node) -> Value:
    if node.kind != "a mapping":
        constant = node.plain()
        return lambda shapes: constant
    top = node.mapping()
    kinds = {"shape": _shape, "count": _count, "spread": _spread, "has": _has}
    kind = next((kind for kind in kinds if kind in top), None)
    if kind is None:
        raise node.error("is no rule", f"it needs one of {', '.join(kinds)}")
    rule = kinds[kind](top)
    over = top.get("over", lambda child: child.integer(1), 1)
    drop = top.get("absent", lambda child: child.choice(("drop",)), None) is not None
    top.reject_unknown()

    def value(shapes: Shapes) -> Any:
        found = rule(shapes)
        if found is None and drop:
            return _ABSENT
        if over == 1 or found is None:
            return found
        if not isinstance(found, int) or found % over:
            raise NotDerivable
        return found // over

    return value


def _nothing(shapes: Shapes) -> None:
    return None


def _shape(top: strict.Mapping) -> Value:
    name = top.need("shape").string()
    axis = top.get("axis", lambda child: child.integer(0), None)
    start = top.get("from", lambda child: child.integer(0), None)
    if (axis is None) == (start is None):
        raise top.node.error("needs either 'axis' or 'from'")

    def value(shapes: Shapes) -> Any:
        if name not in shapes:
            return None
        shape = shapes[name]
        if start is not None:
            return list(shape[start:])
        assert axis is not None
        if axis >= len(shape):
            raise NotDerivable
        return shape[axis]

    return value


def _count(top: strict.Mapping) -> Value:
    numbers = _numbers(top.need("count"))
    return lambda shapes: len(numbers(shapes))


def _spread(top: strict.Mapping) -> Value:
    few, many = _numbers(top.need("spread")), _numbers(top.need("among"))

    def value(shapes: Shapes) -> Any:
        chosen, all_of_them = len(few(shapes)), len(many(shapes))
        if not chosen:
            return None
        if all_of_them % chosen:
            raise NotDerivable
        return list(range(0, all_of_them, all_of_them // chosen))

    return value


def _has(top: strict.Mapping) -> Value:
    name = top.need("has").string()
    axis = top.get("axis", lambda child: child.integer(0), None)
    length = top.get("is", lambda child: child.integer(0), None)
    if (axis is None) != (length is None):
        raise top.node.error("'axis' and 'is' go together")
    yes, no = top.get("then", _value, _nothing), top.get("else", _value, _nothing)

    def value(shapes: Shapes) -> Any:
        shape = shapes.get(name)
        if shape is not None and axis is not None:
            return (yes if axis < len(shape) and shape[axis] == length else no)(shapes)
        return (no if shape is None else yes)(shapes)

    return value


def _numbers(node: strict.Node) -> Callable[[Shapes], set[str]]:
    regex = node.at(lambda: Block(node.string())).regex
    return lambda shapes: {match[1] for match in map(regex.match, shapes) if match}
