"""Whether values of a tensor may change on their way, told from its expression alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import is_dataclass
from typing import Any

from .expr import Expr
from .tensor import LazyTensor
from .value import contents

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
            todo += contents(value)
