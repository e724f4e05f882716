"""Whether values of a tensor may change on their way, told from its expression alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any

from .expr import Expr
from .tensor import LazyTensor

__all__ = ["losses"]


def losses(tensor: LazyTensor) -> Iterator[str]:
    """All that may change a value of a tensor between the source and the output, in words; in no order."""
    todo: list[Any] = [tensor.value]
    while todo:
        value = todo.pop()
        if isinstance(value, LazyTensor):
            todo.append(value.value)
        elif isinstance(value, tuple):
            todo += value
        elif isinstance(value, Expr):
            if (loss := value.loses()) is not None:
                yield loss
            todo += value.inputs()
        elif is_dataclass(value) and not isinstance(value, type):
            todo += (getattr(value, name) for name in _fields(type(value)))


@cache
def _fields(kind: type[Any]) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind))
