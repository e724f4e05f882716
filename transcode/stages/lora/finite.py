"""Tensors of a LoRA that go from one file to another, held to be numbers on their way."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ...core.context import Context
from ...core.dtypes import FLOATS
from ...core.expr import Expr, Piece
from ...core.records import dataclass
from ...core.tensor import LazyTensor
from .delta import load

__all__ = ["Finite", "finite"]


@dataclass(frozen=True, slots=True)
class Finite(Expr):
    """The values of a tensor as they are; NaN and Inf are an error, as they are where a LoRA is merged.

    Attributes:
        file: where it comes from, for errors.
        tensor: plain floats.
    """

    file: Path
    tensor: LazyTensor

    def room(self) -> float:
        """That of the tensor, and float32 that is looked at."""
        return self.tensor.value.room() + 4

    def read(self, start: int, stop: int, context: Context) -> Iterator[Piece]:
        """See :meth:`.core.expr.Expr.read`. Raises DataError."""
        columns = self.tensor.spec.columns
        values = context.take(((stop - start) * columns,), np.float32)
        load(self.file, self.tensor, start * columns, stop * columns, values, context)
        yield from self.tensor.read(start, stop, context)


def finite(file: Path, tensor: LazyTensor) -> LazyTensor:
    """A tensor that is looked at while it is written; of integers as it is."""
    if tensor.spec.dtype.name not in FLOATS or not tensor.plain:
        return tensor
    return tensor.evolve(value=Finite(file, tensor))
