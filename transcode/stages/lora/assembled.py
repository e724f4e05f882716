"""A small matrix that is put together of rows of others: what a LoRA's factors become in another spelling."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ...core.context import Context
from ...core.event import Event
from ...core.expr import Expr, Piece
from ...core.records import dataclass
from ...core.spec import Spec
from ...core.tensor import LazyTensor, plain

__all__ = ["Assembled", "Block", "assemble"]


class Block(NamedTuple):
    """Rows ``first`` to ``last`` of a tensor, which lie from ``row`` and ``column`` on."""

    tensor: LazyTensor
    first: int
    last: int
    row: int = 0
    column: int = 0


@dataclass(frozen=True, slots=True)
class Assembled(Expr):
    """Blocks in a matrix of zeros.

    Attributes:
        spec: of the matrix.
        blocks: what lies in it; they do not overlap.
    """

    spec: Spec
    blocks: tuple[Block, ...]

    def read(self, start: int, stop: int, context: Context) -> Iterator[Piece]:
        """See :meth:`.core.expr.Expr.read`."""
        out = context.take((stop - start, self.spec.columns), self.spec.dtype.carrier)
        out[...] = 0
        for tensor, first, last, row, column in self.blocks:
            low, high = max(start, row), min(stop, row + last - first)
            if low < high:
                rows = tensor.matrix(first + low - row, first + high - row, context)
                out[low - start : high - start, column : column + tensor.spec.columns] = rows
        yield Piece("values", self.spec.row_offset(start), out)


def assemble(name: str, shape: Sequence[int], blocks: Sequence[Block], did: str) -> LazyTensor:
    """A tensor of blocks, all of one dtype.

    Args:
        shape: of the tensor, as a matrix of its rows.
        did: what became of those of the blocks, for the plan.
    """
    first = blocks[0].tensor
    spec = Spec(first.spec.dtype, tuple(shape))
    matrix = plain(name, spec, Assembled(spec, tuple(blocks)))
    return matrix.evolve(source=first.source, fate=(*first.fate, Event("convert", did)))
