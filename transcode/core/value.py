"""Frozen dataclasses of which a plan has hundreds of thousands."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields
from functools import cache, lru_cache, wraps
from operator import attrgetter
from typing import Any, Generic, NamedTuple, TypeVar

__all__ = ["Known", "Value", "changed", "contents", "interned", "pack", "plentiful", "unpack"]

T = TypeVar("T")


class Value:
    """A frozen dataclass that is pickled as its fields, several times faster than by Python's own way."""

    __slots__ = ()

    def __reduce__(self) -> tuple[object, ...]:
        kind = type(self)
        return _made, (kind, *_fields(kind)(self))  # type: ignore[arg-type]


def plentiful(kind: type[T]) -> type[T]:
    """A frozen dataclass with slots of which many objects are made, each in a quarter of the time.

    What forbids that a field is set, and so what sets it all the same, takes longer than all else that makes
    an object. So its fields are set while it is one of a class that is alike but not frozen.
    """
    dataclass: Any = kind
    if "__slots__" not in vars(kind) or hasattr(kind, "__post_init__"):
        raise TypeError(f"{kind.__name__} has no slots, or checks what it is made of")
    held = fields(dataclass)
    unfrozen = _unfrozen(dataclass)
    defaults: dict[str, Any] = {}
    parameters = []
    for field in held:
        if field.default_factory is not MISSING or not field.init:
            raise TypeError(f"{kind.__name__}.{field.name} has a default that is made, or is no argument")
        if field.default is not MISSING:
            defaults[f"_{field.name}"] = field.default
        parameters.append(field.name if field.default is MISSING else f"{field.name}=_{field.name}")
    body = "; ".join(f"self.{field.name} = {field.name}" for field in held)
    constructor: Any = _compiled(
        f"def __init__(self, {', '.join(parameters)}): become_(self, open_); {body}; self.__class__ = kind_",
        {"become_": _become, "open_": unfrozen, "kind_": kind, **defaults},
    )
    dataclass.__init__ = wraps(dataclass.__init__)(constructor)
    return kind


_become: Callable[[object, type], None] = vars(object)["__class__"].__set__


@cache
def _unfrozen(kind: type) -> type:
    """A class with the slots of another, none of which is forbidden to be set."""
    return type(kind)(kind.__name__, kind.__bases__, {"__slots__": tuple(f.name for f in fields(kind))})


def _compiled(source: str, known: Mapping[str, object]) -> Any:
    """The one function that a text defines."""
    names: dict[str, Any] = {}
    exec(source, dict(known), names)
    (function,) = names.values()
    return function


def changed(value: T, changes: Mapping[str, object]) -> T:
    """A copy with some fields changed, as :func:`dataclasses.replace` makes it, in a fraction of the time:
    the class checks nothing when it is made.

    Raises:
        TypeError: it has no such field.
    """
    kind: Any = type(value)
    copy: T = _copier(kind)(value)
    for name, new in changes.items():
        try:
            setattr(copy, name, new)
        except AttributeError:
            raise TypeError(f"{kind.__name__} has no {name}") from None
    _become(copy, kind)
    return copy


@cache
def _copier(kind: type) -> Callable[[Any], Any]:
    """What makes a copy whose fields can still be set."""
    body = "; ".join(f"copy.{field.name} = value.{field.name}" for field in fields(kind))
    copied: Callable[[Any], Any] = _compiled(
        f"def copied(value): copy = new(unfrozen); {body}; return copy",
        {"new": object.__new__, "unfrozen": _unfrozen(kind)},
    )
    return copied


@lru_cache(maxsize=1 << 14)
def _first(value: object) -> Any:
    return value


def interned(value: T) -> T:
    """An equal value that is there already, if there is one: what many tensors have alike is held once."""
    first: T = _first(value)
    return first


class Known(Generic[T]):
    """What follows from facts, found once for all tensors that have the same.

    They are told apart as objects, which takes less time than to compare them: where equal ones are other
    objects, ``find`` is asked again.

    Args:
        find: what follows; should remember, too, if equal facts are often other objects.
    """

    def __init__(self, find: Callable[..., T]) -> None:
        self._find = find
        self._held: dict[tuple[int, ...], tuple[tuple[object, ...], T]] = {}

    def __call__(self, *facts: object) -> T:
        same = tuple(map(id, facts))
        if (held := self._held.get(same)) is None:
            if len(self._held) >= _MOST_HELD:
                self._held.clear()
            # With the facts: as long as they are there, no other object is called the same.
            held = self._held[same] = facts, self._find(*facts)
        return held[1]


_MOST_HELD = 1 << 12


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
