"""Some rows and columns of a small matrix, or its transpose: factors of a weight that lies otherwise."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from ...core.context import Context
from ...core.expr import Expr, Piece
from ...core.records import dataclass
from ...core.spec import Spec
from ...core.tensor import LazyTensor, plain

__all__ = ["ALL", "Cut", "Picking", "Some", "picked"]


class Cut(NamedTuple):
    """A slice, as a value."""

    start: int = 0
    stop: int | None = None
    step: int = 1

    def __call__(self) -> slice:
        return slice(self.start, self.stop, self.step)


class Some(NamedTuple):
    """Some of them, in an order, as a value."""

    numbers: tuple[int, ...]

    def __call__(self) -> list[int]:
        return [*self.numbers]


@dataclass(frozen=True, slots=True)
class Picking(Expr):
    """Some rows and columns of a small matrix, and its transpose if it is to be turned.

    Attributes:
        tensor: the matrix.
        rows, columns: which of them.
        turned: they are columns and rows of the result.
    """

    tensor: LazyTensor
    rows: Cut | Some
    columns: Cut | Some
    turned: bool

    def pick(self, whole: Any) -> Any:
        """Them, of an array of the matrix."""
        some = whole[self.rows()][:, self.columns()]
        return some.T if self.turned else some

    @property
    def spec(self) -> Spec:
        """Of the result."""
        shape = self.pick(np.broadcast_to(np.uint8(0), self.tensor.spec.shape)).shape
        return Spec(self.tensor.spec.dtype, shape)

    def read(self, start: int, stop: int, context: Context) -> Iterator[Piece]:
        """See :meth:`.core.expr.Expr.read`."""
        spec = self.spec
        whole = self.tensor.matrix(0, self.tensor.spec.rows, context)
        picked = context.take((stop - start, spec.columns), whole.dtype)
        picked[...] = self.pick(whole)[start:stop]
        yield Piece("values", spec.row_offset(start), picked)


ALL = Cut()


def picked(
    tensor: LazyTensor, *, rows: Cut | Some = ALL, columns: Cut | Some = ALL, turned: bool = False
) -> LazyTensor:
    """Some of a small matrix, as a tensor of its own."""
    value = Picking(tensor, rows, columns, turned)
    return plain(tensor.name, value.spec, value, source=tensor.source)
