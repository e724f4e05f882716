"""The order of 4-bit codes inside bytes and words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from ..core.codec import Constraint
from ..core.expr import Piece
from ..core.records import dataclass
from ..core.scratch import Scratch
from ..core.spec import Spec
from ..core.types import Array
from ..errors import PlanError
from .base import Base

__all__ = ["Nibbles"]


@dataclass(frozen=True)
class Nibbles(Base):
    """4-bit codes in another order than the schemes', whose first column is lowest.

    Args:
        order: ``"high_first"``: the even column of a byte in its high nibble. ``"awq"``: of the eight columns
            of a 32-bit word, lowest nibble first, 0 2 4 6 1 3 5 7 (AutoAWQ, ``AWQ_ORDER`` of
            ``awq/utils/packing_utils.py``).
    """

    name: ClassVar[str] = "nibbles"
    summary: ClassVar[str] = "4-bit codes in another order: high_first in bytes, awq in 32-bit words"
    takes: ClassVar[tuple[str, ...]] = ("F4", "U8", "I32", "U32")
    options: ClassVar[Mapping[str, Constraint]] = {"order": Constraint.among("high_first", "awq")}

    order: str

    def spec(self, spec: Spec) -> Spec:
        """The same facts. Raises PlanError for a dtype without 4-bit codes, and rows that fill no words."""
        super().spec(spec)
        unit = 8 if self.order == "high_first" else 32
        if spec.row_bits % unit:
            raise PlanError(f"{self.name} {self.order}: rows of {spec} do not fill units of {unit} bits")
        return spec

    def encode(self, piece: Piece, spec: Spec, scratch: Scratch) -> Piece:
        """See :class:`.core.codec.Codec`."""
        from ..numerics.packing import AWQ, reorder_nibbles, swap_nibbles

        if self.order == "high_first":
            codes = piece.data.view("u1")
            swapped = swap_nibbles(codes, scratch.take(codes.shape, "u1"))
            return Piece(piece.role, piece.offset, swapped.view(spec.dtype.carrier))
        ordered = reorder_nibbles(piece.data.view("<u4"), AWQ)
        return Piece(piece.role, piece.offset, ordered.view(spec.dtype.carrier))

    def decode(self, stored: Array, spec: Spec) -> Array:
        """See :class:`.core.codec.Codec`."""
        from ..numerics.packing import AWQ_BACK, reorder_nibbles, swap_nibbles

        if self.order == "high_first":
            return swap_nibbles(stored.view("u1")).view(spec.dtype.carrier)
        return reorder_nibbles(stored.view("<u4"), AWQ_BACK).view(spec.dtype.carrier)
