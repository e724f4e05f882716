"""Eight rows of 4-bit numbers in a 32-bit word."""

from __future__ import annotations

from typing import ClassVar

from ..core.dtypes import DTYPES
from ..core.expr import Piece
from ..core.records import dataclass
from ..core.scratch import Scratch
from ..core.spec import Spec
from ..core.types import Array
from ..errors import DataError
from .base import Base, first_row, only_matrices

__all__ = ["RowsInt32"]

_ROWS = 8
"""In a word."""


@dataclass(frozen=True)
class RowsInt32(Base):
    """I8 ``[N, G]`` from -8 to 7 as I32 ``[cdiv(N, 8), G]``: 8 is added to each, the first row lowest.

    What is missing in the last word is zero (compressed-tensors, ``pack_to_int32`` along dimension 0).
    """

    name: ClassVar[str] = "rows_int32"
    summary: ClassVar[str] = "eight rows of 4-bit numbers plus 8 in a 32-bit word, the first lowest"
    takes: ClassVar[tuple[str, ...]] = ("I8",)

    def rows(self, spec: Spec) -> int:
        """A word's."""
        return _ROWS

    def spec(self, spec: Spec) -> Spec:
        """Words. Raises PlanError for what is no matrix of I8."""
        super().spec(spec)
        rows, columns = only_matrices("packed_rows", spec)
        return Spec(DTYPES["I32"], (-(-rows // _ROWS), columns))

    def encode(self, piece: Piece, spec: Spec, scratch: Scratch) -> Piece:
        """See :class:`.core.codec.Codec`. Raises DataError for numbers of more than 4 bits."""
        from ..numerics.packing import pack_rows

        numbers = piece.data
        if numbers.size and (numbers.min() < -8 or numbers.max() > 7):
            raise DataError(
                f"its {piece.role} holds {numbers.min()} to {numbers.max()}, {self.name} holds -8 to 7",
                hint="choose a convention that stores them otherwise",
            )
        words = pack_rows(numbers)
        return Piece(piece.role, first_row(piece, spec) // _ROWS * words.shape[1] * words.itemsize, words)

    def decode(self, stored: Array, spec: Spec) -> Array:
        """See :class:`.core.codec.Codec`; padding is left out."""
        from ..numerics.packing import unpack_rows

        return unpack_rows(stored, spec.shape[0])

    def before(self, stored: Spec, spec: Spec) -> Spec | None:
        """None: the last word does not tell how many rows it holds."""
        return None
