"""Fill a matrix up with zeros."""

from __future__ import annotations

from collections.abc import Iterator

from ..core.scratch import Scratch
from ..core.spec import Spec
from ..core.tensor import LazyTensor, Piece, plain

__all__ = ["pad_tensor"]


def pad_tensor(tensor: LazyTensor, rows: int, columns: int) -> LazyTensor:
    """A plain matrix ``[N, K]`` with zeros below and to the right.

    Args:
        rows: how many rows it is to have, at least N.
        columns: how many columns, at least K.
    """
    height, width = tensor.spec.shape
    spec = Spec(tensor.spec.dtype, (rows, columns))

    def read(start: int, stop: int, scratch: Scratch) -> Iterator[Piece]:
        out = scratch.take((stop - start, columns), spec.dtype.carrier)
        last = min(stop, height)
        if start < last:
            out[: last - start, :width] = tensor.matrix(start, last, scratch)
            out[: last - start, width:] = 0
        out[max(last - start, 0) :] = 0
        yield Piece("values", spec.row_offset(start), out)

    made = plain(tensor.name, spec, read, source=tensor.source, needs=tensor.needs, fate=tensor.fate)
    return made.evolve(
        grain=tensor.grain,
        cost=tensor.cost,
        unpadded=tensor.unpadded or tensor.spec.shape,
        did=f"pad: {tensor.spec} -> {spec}",
    )
