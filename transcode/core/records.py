"""``dataclass`` of the standard library, with the same fields, and methods that are made when first called.

The standard one compiles up to six functions for each class when its module is imported, which for the
classes of this package was a quarter of the time in which a command starts; most of them are never called.
Here the standard one only finds the fields. ``__init__``, ``__repr__``, ``__eq__`` and ``__hash__`` are
written, with the standard one's meaning, when somebody asks the class for them, and what refuses changes is
a function like any other. Type checkers see the standard one.

``fields``, ``replace``, ``asdict`` and ``is_dataclass`` of :mod:`dataclasses` take such classes as their own;
a class of the standard ``dataclass(frozen=True)`` cannot inherit from one, as that asks for bases which it
froze itself.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import MISSING, Field, FrozenInstanceError, fields
from reprlib import recursive_repr
from types import MemberDescriptorType
from typing import TYPE_CHECKING, Any

__all__ = ["dataclass"]

if TYPE_CHECKING:
    from dataclasses import dataclass
else:

    def dataclass(
        cls: type | None = None,
        /,
        *,
        init: bool = True,
        repr: bool = True,
        eq: bool = True,
        frozen: bool = False,
        slots: bool = False,
    ) -> Any:
        """:func:`dataclasses.dataclass`, with methods that are compiled when first called."""

        def decorate(cls: type) -> type:
            return _decorate(cls, init, repr, eq, frozen, slots)

        return decorate if cls is None else decorate(cls)


def _decorate(cls: type, init: bool, repr: bool, eq: bool, frozen: bool, slots: bool) -> type:
    own = dict(vars(cls))
    cls.__doc__ = cls.__doc__ or cls.__name__  # or else the standard one writes its signature there
    cls = dataclasses.dataclass(init=False, repr=False, eq=False, slots=slots)(cls)
    if init and "__init__" not in own:
        _later(cls, "__init__", _init, frozen)
    if repr and "__repr__" not in own:
        _later(cls, "__repr__", _repr)
    if eq:
        if "__eq__" not in own:
            _later(cls, "__eq__", _eq)
        if own.get("__hash__") is None:
            if frozen:
                _later(cls, "__hash__", _hash)
            else:
                cls.__hash__ = None  # type: ignore[assignment]
    if frozen:
        _freeze(cls)
        if slots and "__getstate__" not in own:
            _keep_state(cls)
    return cls


class _Later:
    """A method that is made, and put in its own place, when somebody first asks for it."""

    def __init__(self, cls: type, name: str, make: Callable[..., Any], given: tuple[Any, ...]) -> None:
        self.cls, self.name, self.make, self.given = cls, name, make, given

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        method = self.make(self.cls, *self.given)
        method.__name__, method.__module__ = self.name, self.cls.__module__
        method.__qualname__ = f"{self.cls.__qualname__}.{self.name}"
        setattr(self.cls, self.name, method)
        return method if instance is None else method.__get__(instance, owner)


def _later(cls: type, name: str, make: Callable[..., Any], *given: Any) -> None:
    setattr(cls, name, _Later(cls, name, make, given))


def _compiled(body: Iterable[str], arguments: str, names: dict[str, Any]) -> Any:
    """The function of these lines and arguments, to which ``names`` are what they stand for."""
    space = dict(names)
    exec("\n    ".join([f"def made({arguments}):", *body]), space)
    return space["made"]


def _init(cls: type, frozen: bool) -> Any:
    """Fields in their order, those by keyword only behind; defaults, factories, ``__post_init__``."""
    names: dict[str, Any] = {"_missing": _FACTORY, "_set": object.__setattr__}
    positional, keywords = ["_self"], list[str]()
    body: list[str] = []
    for one in fields(cls):
        value, default = one.name, ""
        if one.default_factory is not MISSING:
            names[f"_new_{one.name}"] = one.default_factory
            value, default = f"_new_{one.name}()", "=_missing"
            if one.init:
                value = f"{value} if {one.name} is _missing else {one.name}"
        elif one.default is not MISSING:
            names[f"_default_{one.name}"] = one.default
            default = f"=_default_{one.name}"
            if not one.init:
                if not isinstance(getattr(cls, one.name), MemberDescriptorType):
                    continue  # the class has it
                value = f"_default_{one.name}"
        elif not one.init:
            continue
        if one.init:
            (keywords if one.kw_only else positional).append(one.name + default)
        place = getattr(cls, one.name, None)
        if not frozen:
            body.append(f"_self.{one.name} = {value}")
        elif isinstance(place, MemberDescriptorType):  # of slots: set without a look at the class
            names[f"_set_{one.name}"] = place.__set__
            body.append(f"_set_{one.name}(_self, {value})")
        else:
            body.append(f"_set(_self, {one.name!r}, {value})")
    if hasattr(cls, "__post_init__"):
        body.append("_self.__post_init__()")
    arguments = ", ".join([*positional, *(["*", *keywords] if keywords else [])])
    method = _compiled(body or ["pass"], arguments, names)
    method.__annotations__ = {one.name: one.type for one in fields(cls) if one.init} | {"return": None}
    return method


class _Factory:
    """Stands where the value of an argument is made anew for each object."""

    def __repr__(self) -> str:
        return "<factory>"


_FACTORY = _Factory()


def _repr(cls: type) -> Any:
    shown = [one.name for one in fields(cls) if one.repr]

    def method(self: Any) -> str:
        inner = ", ".join(f"{name}={getattr(self, name)!r}" for name in shown)
        return f"{self.__class__.__qualname__}({inner})"

    return recursive_repr()(method)


def _eq(cls: type) -> Any:
    compared = [one for one in fields(cls) if one.compare]
    one, other = _values("_self", compared), _values("_other", compared)
    body = [
        "if _other.__class__ is _self.__class__:",
        f"    return {one} == {other}",
        "return NotImplemented",
    ]
    return _compiled(body, "_self, _other", {})


def _hash(cls: type) -> Any:
    hashed = [one for one in fields(cls) if (one.compare if one.hash is None else one.hash)]
    return _compiled([f"return hash({_values('_self', hashed)})"], "_self", {})


def _values(of: str, of_fields: Iterable[Field[Any]]) -> str:
    return f"({''.join(f'{of}.{one.name}, ' for one in of_fields)})"


def _freeze(cls: type) -> None:
    names = frozenset(one.name for one in fields(cls))
    above: Any = cls  # to a type checker it is no class that ``super`` takes, nor its methods to be set

    def __setattr__(self: Any, name: str, value: Any) -> None:
        if type(self) is cls or name in names:
            raise FrozenInstanceError(f"cannot assign to field {name!r}")
        super(above, self).__setattr__(name, value)

    def __delattr__(self: Any, name: str) -> None:
        if type(self) is cls or name in names:
            raise FrozenInstanceError(f"cannot delete field {name!r}")
        super(above, self).__delattr__(name)

    above.__setattr__, above.__delattr__ = __setattr__, __delattr__


def _keep_state(cls: type) -> None:
    """What has slots and refuses changes is copied and pickled by its fields' values, in their order."""
    names = tuple(one.name for one in fields(cls))
    places = tuple(getattr(cls, name).__set__ for name in names)

    def __getstate__(self: Any) -> list[Any]:
        return [getattr(self, name) for name in names]

    def __setstate__(self: Any, state: Iterable[Any]) -> None:
        for place, value in zip(places, state, strict=True):
            place(self, value)

    whole: Any = cls
    whole.__getstate__, whole.__setstate__ = __getstate__, __setstate__
