"""Frozen dataclasses of which a plan has hundreds of thousands."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from functools import cache, lru_cache
from operator import attrgetter
from typing import Any, NamedTuple, TypeVar

__all__ = ["Value", "changed", "contents", "interned", "pack", "unpack"]

T = TypeVar("T")


class Value:
    """A frozen dataclass that is pickled as its fields, several times faster than by Python's own way."""

    __slots__ = ()

    def __reduce__(self) -> tuple[object, ...]:
        kind = type(self)
        return _made, (kind, *_fields(kind)(self))  # type: ignore[arg-type]


def changed(value: T, changes: Mapping[str, object]) -> T:
    """A copy with some fields changed, as :func:`dataclasses.replace` makes it, in a third of the time: the
    class checks nothing when it is made.

    Raises:
        TypeError: it has no such field.
    """
    kind: Any = type(value)
    copy: T = object.__new__(kind)
    pairs, put_by_name = _accessors(kind)
    for get, put in pairs:
        put(copy, get(value))
    for name, new in changes.items():
        if name not in put_by_name:
            raise TypeError(f"{kind.__name__} has no {name}")
        put_by_name[name](copy, new)
    return copy


_Put = Callable[[Any, Any], None]


@cache
def _accessors(kind: type) -> tuple[tuple[tuple[Callable[[Any], Any], _Put], ...], dict[str, _Put]]:
    names = [field.name for field in fields(kind)]
    setters = _setters(kind)
    return tuple(zip(_getters(kind), setters, strict=True)), dict(zip(names, setters, strict=True))


@lru_cache(maxsize=1 << 14)
def _first(value: object) -> Any:
    return value


def interned(value: T) -> T:
    """An equal value that is there already, if there is one: what many tensors have alike is held once."""
    first: T = _first(value)
    return first


class Columns(NamedTuple):
    """Objects of one class, field by field."""

    kind: type
    length: int
    columns: tuple[Any, ...]


_FEW = 256
_LONG = range(-(1 << 63), 1 << 63)


def pack(values: Sequence[Any]) -> Any:
    """Many values as pickles hold them in little time: objects of one class by columns, integers as an array.

    Objects that mostly stand several times remain themselves, as pickles name what they had before.
    """
    kinds = set(map(type, values))
    kind: Any = kinds.pop() if len(kinds) == 1 else None
    if len(values) < _FEW or kind is None:
        return tuple(values)
    if kind is int and min(values) in _LONG and max(values) in _LONG:
        return array("q", values)
    if issubclass(kind, Value) and 2 * len(set(map(id, values))) > len(values):
        return Columns(kind, len(values), tuple(pack([*map(get, values)]) for get in _getters(kind)))
    return tuple(values)


def unpack(packed: Any) -> Sequence[Any]:
    """The values that were packed."""
    if not isinstance(packed, Columns):
        return packed  # type: ignore[no-any-return]
    kind, length, columns = packed
    values: list[Any] = [object.__new__(kind) for _ in range(length)]
    for set_field, column in zip(_setters(kind), columns, strict=True):
        for value, held in zip(values, unpack(column), strict=True):
            set_field(value, held)
    return values


def _made(kind: type, *held: Any) -> Any:
    """An object from its fields, without its constructor."""
    instance: object = object.__new__(kind)
    for set_field, one in zip(_setters(kind), held, strict=True):
        set_field(instance, one)
    return instance


def contents(value: Any) -> tuple[object, ...]:
    """The fields of a dataclass, in the order of the class."""
    kind: Any = type(value)
    return _fields(kind)(value)


@cache
def _fields(kind: type) -> Callable[[object], tuple[object, ...]]:
    names = [field.name for field in fields(kind)]
    if len(names) < 2:  # of which attrgetter makes no tuple
        return lambda one: tuple(getattr(one, name) for name in names)
    return attrgetter(*names)


@cache
def _getters(kind: type) -> tuple[Callable[[Any], Any], ...]:
    return tuple(attrgetter(field.name) for field in fields(kind))


@cache
def _setters(kind: type) -> tuple[Callable[[Any, Any], None], ...]:
    def setter(name: str) -> Callable[[Any, Any], None]:
        slot = kind.__dict__.get(name)
        if hasattr(slot, "__set__"):  # of a class with slots: not what a frozen one forbids
            return slot.__set__  # type: ignore[no-any-return, union-attr]
        return lambda instance, value: object.__setattr__(instance, name, value)

    return tuple(setter(field.name) for field in fields(kind))
