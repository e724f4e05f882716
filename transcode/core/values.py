"""Values of the house as JSON, and back: frozen dataclasses of any depth, each written once.

    {"types": ["core.spec:Spec", ...], "objects": [[0, {"dtype": "BF16"}, [4, 8]], ...], "root": 17}

An object is a number in ``types`` and its fields, in the order of the class. In a field stands null, a
boolean, a number or a text as it is, a tuple as a list, and all else as an object of one key: ``{"o": n}`` is
object number n, which stands before; ``dtype``, ``path``, ``bytes`` (base85), ``f32``, ``list`` and ``map``
(pairs) tell of the rest. Reading imports modules of this package only, calls no constructor, and checks that
each class is a dataclass that has so many fields.
"""

from __future__ import annotations

import base64
import importlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ..errors import FormatError
from .dtypes import DType, dtype
from .paths import located

__all__ = ["dump", "load"]

_PACKAGE = __name__.partition(".")[0]
_TYPE = re.compile(r"[a-z_0-9]+(?:\.[a-z_0-9]+)*:_?[A-Za-z0-9]+")


def dump(value: object) -> dict[str, object]:
    """A value as JSON.

    Raises:
        TypeError: something in it is no value.
    """
    writer = _Writer()
    root = writer.field(value)
    return {"types": writer.types, "objects": writer.objects, "root": root}


def load(data: Mapping[str, Any]) -> Any:
    """The inverse of :func:`dump`.

    Raises:
        FormatError: it is not what :func:`dump` made.
    """
    try:
        reader = _Reader([_class(name) for name in data["types"]])
        for entry in data["objects"]:
            reader.add(entry)
        return reader.field(data["root"])
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, ImportError) as error:
        raise FormatError(f"is not a value of transcode: {error!r}") from None


class _Writer:
    def __init__(self) -> None:
        self.types: list[str] = []
        self.objects: list[list[object]] = []
        self._numbers: dict[type, int] = {}
        self._seen: dict[int, dict[str, int]] = {}
        self._keep: list[object] = []  # an id is that of one object as long as that lives
        self._equal: dict[str, dict[str, int]] = {}

    def field(self, value: Any) -> Any:
        kind = type(value)
        if value is None or kind in (bool, int, float, str):
            return value
        if kind is tuple:
            return [self.field(one) for one in value]
        if (written := self._seen.get(id(value))) is not None:
            return written
        if kind is DType:
            return {"dtype": value.name}
        if kind is bytes:
            return {"bytes": base64.b85encode(value).decode()}
        if isinstance(value, Path):
            return {"path": str(value)}
        if isinstance(value, Mapping):
            return {"map": [[self.field(key), self.field(one)] for key, one in value.items()]}
        if kind.__name__ == "float32" and kind.__module__ == "numpy":
            return {"f32": float(value)}
        if kind is list:
            return {"list": [self.field(one) for one in value]}
        return self._object(value, kind)

    def _object(self, value: object, kind: type) -> dict[str, int]:
        entry = [self._type(kind), *(self.field(getattr(value, name)) for name in _names(kind) or ())]
        key = json.dumps(entry)
        place = self._equal.get(key)
        if place is None:
            place = self._equal[key] = {"o": len(self.objects)}
            self.objects.append(entry)
        self._seen[id(value)] = place
        self._keep.append(value)
        return place

    def _type(self, kind: type) -> int:
        if kind not in self._numbers:
            package, _, module = kind.__module__.partition(".")
            if package != _PACKAGE or _names(kind) is None:
                raise TypeError(f"{kind.__module__}.{kind.__qualname__} is no value of {_PACKAGE}")
            self._numbers[kind] = len(self.types)
            self.types.append(f"{module}:{kind.__name__}")
        return self._numbers[kind]


class _Reader:
    def __init__(self, types: list[Callable[[list[object]], Any]]) -> None:
        self._types = types
        self._objects: list[object] = []

    def add(self, entry: list[Any]) -> None:
        self._objects.append(self._types[entry[0]]([self.field(one) for one in entry[1:]]))

    def field(self, data: Any) -> Any:
        if isinstance(data, list):
            return tuple(map(self.field, data))
        if not isinstance(data, dict):
            return data
        ((kind, held),) = data.items()
        if kind == "o":
            return self._objects[held]
        if kind == "dtype":
            return dtype(held)
        if kind == "bytes":
            return base64.b85decode(held)
        if kind == "path":
            return located(held)
        if kind == "map":
            return {self.field(key): self.field(one) for key, one in held}
        if kind == "list":
            return [self.field(one) for one in held]
        if kind == "f32":
            import numpy as np

            return np.float32(held)
        raise ValueError(f"{kind!r} is nothing that stands in a field")


@cache
def _names(kind: type) -> tuple[str, ...] | None:
    """Names of the fields of a dataclass or of a named tuple; None of other classes."""
    if is_dataclass(kind):
        return tuple(field.name for field in fields(kind))
    names: tuple[str, ...] | None = getattr(kind, "_fields", None)
    return names


def _class(name: str) -> Callable[[list[object]], Any]:
    """What makes an object of a class from its fields, without its constructor."""
    if not isinstance(name, str) or not _TYPE.fullmatch(name):
        raise ValueError(f"{name!r} names no class")
    module, _, called = name.partition(":")
    kind = getattr(importlib.import_module(f"{_PACKAGE}.{module}"), called)
    ours = isinstance(kind, type) and kind.__module__ == f"{_PACKAGE}.{module}"
    names = _names(kind) if ours else None
    if names is None:
        raise ValueError(f"{name} is no value")
    if issubclass(kind, tuple):
        return lambda held: kind._make(held)
    state = getattr(kind, "__setstate__", None)

    def make(held: list[object]) -> Any:
        if len(held) != len(names):
            raise ValueError(f"{name} has {len(names)} fields, not {len(held)}")
        instance = object.__new__(kind)
        if state is not None:
            state(instance, tuple(held))
        else:
            for field, one in zip(names, held, strict=True):
                object.__setattr__(instance, field, one)
        return instance

    return make
