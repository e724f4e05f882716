"""Tensors of big-endian files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ...core.context import Context
from ...core.expr import Expr, Piece
from ...core.records import dataclass

__all__ = ["Swapped"]


@dataclass(frozen=True, slots=True)
class Swapped(Expr):
    """Elements, or blocks of them, whose bytes lie in another order.

    Attributes:
        of: what yields them as they lie.
        order: place in the file of each byte of an element, or of a block.
    """

    of: Expr
    order: tuple[int, ...]

    def flat(self) -> Expr | None:
        """Each is swapped by itself."""
        flat = self.of.flat()
        return None if flat is None else replace(self, of=flat)

    def room(self) -> float:
        """What is read, and once more."""
        return self.of.room() + 1

    def read(self, start: int, stop: int, context: Context) -> Iterator[Piece]:
        """See :meth:`.core.expr.Expr.read`."""
        import numpy as np  # as in the mapping

        for piece in self.of.read(start, stop, context):
            raw = piece.data.reshape(-1).view(np.uint8).reshape(-1, len(self.order))
            out = context.take(raw.shape, np.uint8)
            np.take(raw, np.array(self.order), axis=1, out=out, mode="clip")
            yield Piece(
                piece.role, piece.offset, out.reshape(-1).view(piece.data.dtype).reshape(piece.data.shape)
            )
