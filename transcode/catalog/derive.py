"""A model's ``config.json``, derived from its tensors and from the one that it had in another spelling."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial

from ..core.records import dataclass
from . import strict
from .policy import Block

__all__ = ["Derivation", "derivation", "derivation_of"]

Shapes = Mapping[str, tuple[int, ...]]

_ABSENT = object()


class NotDerivable(Exception):
    """What is known is not such that a value can be told."""


@dataclass(frozen=True, slots=True)
class Known:
    """What a configuration is derived from.

    Attributes:
        shapes: shape of every tensor.
        source_config: the configuration of the source, in whatever spelling; may be empty.
    """

    shapes: Shapes
    source_config: Mapping[str, object]


Value = Callable[[Known], object]


class Derivation:
    """How each key of a configuration follows from what is known.

    Args:
        values: key -> what computes it; None where that of the source holds as it is.
        constants: the keys among them whose value is the same for all models.
    """

    def __init__(self, values: Mapping[str, Value] | None, constants: Collection[str] = ()) -> None:
        self.values = None if values is None else dict(values)
        self.constants = frozenset(constants)

    def __call__(
        self, shapes: Shapes, source_config: Mapping[str, object] | None = None
    ) -> dict[str, object] | None:
        """The configuration, None when one of its values cannot be told.

        Args:
            shapes: shape of every tensor.
            source_config: the configuration of the source, where there is one.
        """
        if self.values is None:
            return dict(source_config) if source_config else None
        known = Known(shapes, source_config or {})
        try:
            config = {key: value(known) for key, value in self.values.items()}
        except NotDerivable:
            return None
        return {key: value for key, value in config.items() if value is not _ABSENT}


def derivation(node: strict.Node) -> Derivation:
    """Read the rules of a configuration; ``given`` alone is that of the source.

    A value is a constant, a list of values (without those that are left out), or one of these; ``over:
    VALUE`` divides it, exactly, by each of a list; ``root: 2`` takes the root, which must be a whole number:

    - ``{shape: NAME, axis: K}``: length of an axis of a tensor; null when there is no such tensor.
    - ``{shape: NAME, from: K}``: lengths of all axes from K on.
    - ``{count: PATH}``: how many blocks stand there, ``{i}`` for the number.
    - ``{numbers: PATH}``: the numbers of those blocks.
    - ``{spread: PATH, among: PATH}``: the first blocks spread evenly among the others: ``[0, 5, 10 ...]``.
    - ``{has: NAME, then: VALUE, else: VALUE}``, null unless said; ``axis`` and ``is`` ask for a length too.

    - ``{given: KEY, then: VALUE, else: VALUE}``: depends on whether the source's own configuration has that
      key; without ``then`` it is the value there.

    - ``{unknown: WHY}``: no configuration can be told.

    ``absent: drop`` leaves the key out where it would be null.
    """
    if node.kind == "text":
        node.choice(["given"])
        return Derivation(None)
    return derivation_of(dict(node.mapping().items()))


def derivation_of(rules: Mapping[str, strict.Node]) -> Derivation:
    """The rules of some keys, each as :func:`derivation` says. Raises RecipeError."""
    constants = [key for key, child in rules.items() if child.kind not in ("a list", "a mapping")]
    return Derivation({key: _value(child) for key, child in rules.items()}, constants)


def _value(node: strict.Node) -> Value:
    if node.kind == "a list":
        return partial(_list_of, tuple(_value(child) for child in node.sequence()))
    if node.kind != "a mapping":
        return partial(_constant_of, node.plain())
    top = node.mapping()
    kinds: dict[str, Callable[[strict.Mapping], Value]]
    kinds = {"shape": _shape, "count": _count, "numbers": _numbers, "spread": _spread, "has": _has,
             "given": _given, "unknown": _unknown}  # fmt: skip
    kind = next((kind for kind in kinds if kind in top), None)
    if kind is None:
        raise node.error("is no rule", f"it needs one of {', '.join(kinds)}")
    rule = kinds[kind](top)
    over = top.get("over", _divisors, ())
    root = top.get("root", lambda child: child.integer(2), 1)
    drop = top.get("absent", lambda child: child.choice(("drop",)), None) is not None
    top.reject_unknown()
    return partial(_value_of, rule, over, root, drop)


def _divisors(node: strict.Node) -> tuple[Value, ...]:
    return tuple(_value(child) for child in (node.sequence() if node.kind == "a list" else [node]))


def _shape(top: strict.Mapping) -> Value:
    name = top.need("shape").string()
    axis = top.get("axis", lambda child: child.integer(0), None)
    start = top.get("from", lambda child: child.integer(0), None)
    if (axis is None) == (start is None):
        raise top.node.error("needs either 'axis' or 'from'")
    return partial(_shape_of, name, axis, start)


def _count(top: strict.Mapping) -> Value:
    return partial(_count_of, _block(top.need("count")))


def _numbers(top: strict.Mapping) -> Value:
    return partial(_numbers_of, _block(top.need("numbers")))


def _spread(top: strict.Mapping) -> Value:
    return partial(_spread_of, _block(top.need("spread")), _block(top.need("among")))


def _has(top: strict.Mapping) -> Value:
    name = top.need("has").string()
    axis = top.get("axis", lambda child: child.integer(0), None)
    length = top.get("is", lambda child: child.integer(0), None)
    if (axis is None) != (length is None):
        raise top.node.error("'axis' and 'is' go together")
    yes, no = top.get("then", _value, _nothing), top.get("else", _value, _nothing)
    return partial(_has_of, name, axis, length, yes, no)


def _given(top: strict.Mapping) -> Value:
    key = top.need("given").string()
    yes, no = top.get("then", _value, None), top.get("else", _value, _nothing)
    return partial(_given_of, key, yes, no)


def _unknown(top: strict.Mapping) -> Value:
    top.need("unknown").string()
    return _untold


def _block(node: strict.Node) -> Block:
    return node.at(lambda: Block(node.string()))


# What each rule computes, from what the file says of it and what is known of the model ------------------


def _constant_of(constant: object, known: Known) -> object:
    return constant


def _list_of(values: Sequence[Value], known: Known) -> object:
    return [one for value in values if (one := value(known)) is not _ABSENT]


def _value_of(rule: Value, over: Sequence[Value], root: int, drop: bool, known: Known) -> object:
    result = rule(known)
    if result is None:
        return _ABSENT if drop else None
    for divisor in over:
        result = _divided(result, divisor(known))
    return result if root == 1 else _root(result, root)


def _divided(whole: object, by: object) -> int:
    if not isinstance(whole, int) or not isinstance(by, int) or by < 1 or whole % by:
        raise NotDerivable
    return whole // by


def _root(power: object, of: int) -> int:
    base = round(math.pow(power, 1 / of)) if isinstance(power, int) else 0
    if base**of != power:
        raise NotDerivable
    return base


def _untold(known: Known) -> object:
    raise NotDerivable


def _nothing(known: Known) -> None:
    return None


def _shape_of(name: str, axis: int | None, start: int | None, known: Known) -> object:
    if name not in known.shapes:
        return None
    shape = known.shapes[name]
    if start is not None:
        return list(shape[start:])
    assert axis is not None
    if axis >= len(shape):
        raise NotDerivable
    return shape[axis]


def _count_of(blocks: Block, known: Known) -> object:
    return len(_found(blocks, known.shapes))


def _numbers_of(blocks: Block, known: Known) -> object:
    return sorted(map(int, _found(blocks, known.shapes)))


def _spread_of(few: Block, many: Block, known: Known) -> object:
    chosen, all_of_them = len(_found(few, known.shapes)), len(_found(many, known.shapes))
    if not chosen:
        return None
    if all_of_them % chosen:
        raise NotDerivable
    return list(range(0, all_of_them, all_of_them // chosen))


def _has_of(name: str, axis: int | None, length: int | None, yes: Value, no: Value, known: Known) -> object:
    shape = known.shapes.get(name)
    if shape is not None and axis is not None:
        return (yes if axis < len(shape) and shape[axis] == length else no)(known)
    return (no if shape is None else yes)(known)


def _given_of(key: str, yes: Value | None, no: Value, known: Known) -> object:
    if known.source_config.get(key) is None:
        return no(known)
    return known.source_config[key] if yes is None else yes(known)


def _found(blocks: Block, shapes: Shapes) -> set[str]:
    return {match[1] for match in map(blocks.regex.match, shapes) if match}
