"""A constant added to each value of a tensor, in float32."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..core.context import Context
from ..core.dtypes import DTYPES
from ..core.event import Event
from ..core.expr import Expr, Piece
from ..core.records import dataclass
from ..core.spec import Spec
from ..core.tensor import LazyTensor, plain
from ..errors import PlanError
from .cast import cast_tensor

__all__ = ["Shifted", "shifted"]

_F32 = DTYPES["F32"]


@dataclass(frozen=True, slots=True)
class Shifted(Expr):
    """Values of a float32 tensor and a constant: ``float32(x + constant)``.

    Attributes:
        tensor: float32.
        constant: what is added; float32 has it.
    """

    tensor: LazyTensor
    constant: float

    def loses(self) -> str | None:
        """See :meth:`.core.expr.Expr.loses`."""
        return f"{self.constant:+g} is added to each value"

    def read(self, start: int, stop: int, context: Context) -> Iterator[Piece]:
        """See :meth:`.core.expr.Expr.read`."""
        rows = self.tensor.matrix(start, stop, context)
        out = context.take(rows.shape, np.dtype(np.float32))
        np.add(rows, np.float32(self.constant), out=out)
        yield Piece("values", self.tensor.spec.row_offset(start), out)


def shifted(tensor: LazyTensor, constant: float) -> LazyTensor:
    """A plain tensor and a constant; float32, so that what is added can be taken off again.

    Raises:
        PlanError: it holds no floats.
    """
    if not tensor.plain or tensor.spec.dtype.name not in ("F64", "F32", "F16", "BF16"):
        raise PlanError(
            f"is {tensor.spec.dtype}, to which {constant:g} cannot be added", tensor=tensor.name,
            hint="decode it first",
        )  # fmt: skip
    wide = cast_tensor(tensor, _F32)
    summed = plain(
        tensor.name, Spec(_F32, tensor.spec.shape), Shifted(wide, constant),
        source=tensor.source, needs=wide.needs, fate=wide.fate,
    )  # fmt: skip
    return summed.evolve(
        grain=wide.grain, cost=wide.cost, did=Event("convert", f"{constant:+g} to each value")
    )
