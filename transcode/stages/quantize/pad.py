"""Fill a matrix up with zeros."""

from __future__ import annotations

from collections.abc import Iterator

from ...core.context import Context
from ...core.event import Event
from ...core.expr import Expr, Piece
from ...core.records import dataclass
from ...core.spec import Spec
from ...core.tensor import LazyTensor, plain

__all__ = ["Padding", "pad_tensor"]


def pad_tensor(tensor: LazyTensor, rows: int, columns: int) -> LazyTensor:
    """A plain matrix ``[N, K]`` with zeros below and to the right.

    Args:
        rows: how many rows it is to have, at least N.
        columns: how many columns, at least K.
    """
    spec = Spec(tensor.spec.dtype, (rows, columns))
    value = Padding(tensor, spec)
    made = plain(tensor.name, spec, value, source=tensor.source, needs=tensor.needs, fate=tensor.fate)
    return made.evolve(
        grain=tensor.grain,
        cost=tensor.cost,
        unpadded=tensor.unpadded or tensor.spec.shape,
        did=Event("pad", f"{tensor.spec} -> {spec}"),
    )


@dataclass(frozen=True, slots=True)
class Padding(Expr):
    """A plain matrix with zeros below and to the right, up to a shape."""

    tensor: LazyTensor
    spec: Spec

    def read(self, start: int, stop: int, context: Context) -> Iterator[Piece]:
        """See :meth:`.core.expr.Expr.read`."""
        height, width = self.tensor.spec.shape
        out = context.take((stop - start, self.spec.columns), self.spec.dtype.carrier)
        last = min(stop, height)
        if start < last:
            out[: last - start, :width] = self.tensor.matrix(start, last, context)
            out[: last - start, width:] = 0
        out[max(last - start, 0) :] = 0
        yield Piece("values", self.spec.row_offset(start), out)
