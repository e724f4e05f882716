"""The 128x4 tiles of block scales that tensor cores read."""

from __future__ import annotations

from typing import ClassVar

from ..core.expr import Piece
from ..core.records import dataclass
from ..core.scratch import Scratch
from ..core.spec import Spec
from ..core.types import Array
from .base import Base, first_row, only_matrices

__all__ = ["Swizzle"]

_ROWS, _COLUMNS = 128, 4
"""Of a tile."""


@dataclass(frozen=True)
class Swizzle(Base):
    """Scales of 8 bits ``[R, C]`` in tiles, zero-padded to ``[up(R, 128), up(C, 4)]``; see
    :mod:`transcode.numerics.swizzle` for the order and where it comes from.
    """

    name: ClassVar[str] = "swizzle_128x4"
    summary: ClassVar[str] = "block scales in tiles of 128 rows by 4 columns, zero-padded"
    takes: ClassVar[tuple[str, ...]] = ("F8_E8M0", "F8_E4M3", "F8_E5M2", "U8")

    def rows(self, spec: Spec) -> int:
        """A tile."""
        return _ROWS

    def spec(self, spec: Spec) -> Spec:
        """The padded shape. Raises PlanError for what is no matrix of bytes."""
        super().spec(spec)
        rows, columns = only_matrices("swizzled", spec)
        return Spec(spec.dtype, (rows + -rows % _ROWS, columns + -columns % _COLUMNS))

    def encode(self, piece: Piece, spec: Spec, scratch: Scratch) -> Piece:
        """See :class:`.core.codec.Codec`; what is padded comes with the last rows."""
        import numpy as np

        from ..numerics import swizzle

        scales = piece.data
        shape = swizzle.padded(*scales.shape)
        out = swizzle.swizzle(scales, scratch.take(shape, np.uint8))
        return Piece(piece.role, first_row(piece, spec) * shape[1], out)

    def decode(self, stored: Array, spec: Spec) -> Array:
        """See :class:`.core.codec.Codec`; padding is left out."""
        from ..numerics import swizzle

        return swizzle.unswizzle(stored, spec.shape[0], spec.shape[1])

    def before(self, stored: Spec, spec: Spec) -> Spec | None:
        """None: padding does not tell the shape."""
        return None
