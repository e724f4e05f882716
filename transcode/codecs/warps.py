"""How the kernels of nunchaku take the parts of a layer: in the orders in which a warp's lanes hold them.

The orders are those of :mod:`~transcode.numerics.nunchaku_layouts`.
"""

from __future__ import annotations

from typing import ClassVar

from ..core.codec import Constraint
from ..core.dtypes import DTYPES
from ..core.expr import Piece
from ..core.records import dataclass
from ..core.scratch import Scratch
from ..core.spec import Spec
from ..core.types import Array
from ..errors import PlanError
from .base import Base

__all__ = ["Warps"]

_FILLS = {
    "codes": (128, 32), "scales": (128, 1), "micro_scales": (128, 4), "vector": (128, 1), "up": (16, 16),
    "down": (16, 16), "fours": (4, 32),
}  # fmt: skip
"""Rows and columns of a part, as the scheme has it, are multiples of these; a vector has rows alone."""

_CODES = ("codes", "fours")

_ACROSS = ("scales", "micro_scales", "down")
"""What is stored with its columns for rows."""


@dataclass(frozen=True)
class Warps(Base):
    """Parts of a layer of nunchaku's; all rows of one are stored together.

    Args:
        of: what it is. ``"codes"``: 4-bit codes, two in a byte, U8 ``[N, K / 2]``, as I8 of that shape;
            ``"fours"``: the same as I32 ``[N / 4, K / 2]``, for inputs of 16 bits; ``"scales"`` of 16 bits,
            ``[N, G]`` as ``[G, N]``; ``"micro_scales"``: the same of 8 bits; ``"vector"``: one number of 16
            bits to a channel, ``[N]``; ``"up"`` and ``"down"``: the matrices of the branch of low rank, ``[N,
            R]`` as it is and ``[R, K]`` as ``[K, R]``.
    """

    name: ClassVar[str] = "warps"
    summary: ClassVar[str] = "in the orders of nunchaku's kernels; all rows are stored together"
    options: ClassVar = {"of": Constraint.among(*_FILLS)}

    of: str

    def rows(self, spec: Spec) -> int:
        """All of them."""
        return max(spec.rows, 1)

    def spec(self, spec: Spec) -> Spec:
        """Facts as stored. Raises PlanError for what fills no warps."""
        axes, (rows, columns) = 1 if self.of == "vector" else 2, _FILLS[self.of]
        bits = 8 if self.of in (*_CODES, "micro_scales") else 16
        fits = len(spec.shape) == axes and spec.numel > 0 and spec.dtype.bits == bits
        if self.of in _CODES:
            fits = fits and spec.dtype.name == "U8"
        if not fits or spec.shape[0] % rows or spec.columns % columns:
            raise PlanError(
                f"{spec} fills no warps of {self.of} ({rows} rows, {columns} columns, {bits} bits)"
            )
        return self._stored(spec)

    def _stored(self, spec: Spec) -> Spec:
        if self.of == "codes":
            return Spec(DTYPES["I8"], spec.shape)
        if self.of == "fours":
            return Spec(DTYPES["I32"], (spec.shape[0] // 4, spec.shape[1]))
        return Spec(spec.dtype, spec.shape[::-1]) if self.of in _ACROSS else spec

    def before(self, stored: Spec, spec: Spec) -> Spec | None:
        """The inverse of :meth:`spec`."""
        shape = stored.shape
        if len(shape) != (1 if self.of == "vector" else 2):
            return None
        if self.of == "fours":
            shape = (shape[0] * 4, shape[1])
        return Spec(spec.dtype, shape[::-1] if self.of in _ACROSS else shape)

    def encode(self, piece: Piece, spec: Spec, scratch: Scratch) -> Piece:
        """See :class:`.core.codec.Codec`."""
        from ..numerics import nunchaku_layouts as layouts
        from ..numerics.packing import unpack4

        data = piece.data
        match self.of:
            case "codes":
                out: Array = layouts.pack_w4x4(unpack4(data))
            case "fours":
                out = layouts.pack_w4x16(unpack4(data))
            case "scales":
                out = layouts.pack_scale(data)
            case "micro_scales":
                out = layouts.pack_micro_scale(data)
            case "vector":
                out = layouts.pack_vector(data.reshape(-1))
            case "up":
                out = layouts.pack_lowrank(data, down=False)
            case _:
                out = layouts.pack_lowrank(data.T, down=True)
        return Piece(piece.role, 0, out)

    def decode(self, stored: Array, spec: Spec) -> Array:
        """See :class:`.core.codec.Codec`."""
        import numpy as np

        from ..numerics import nunchaku_layouts as layouts
        from ..numerics.packing import pack4

        match self.of:
            case "codes":
                return pack4(layouts.unpack_w4x4(stored))
            case "fours":
                return pack4(layouts.unpack_w4x16(stored))
            case "scales":
                return layouts.unpack_scale(stored)
            case "micro_scales":
                return layouts.unpack_micro_scale(stored)
            case "vector":
                return layouts.unpack_vector(stored).reshape(stored.shape)
            case "up":
                return layouts.unpack_lowrank(stored, down=False)
        return np.ascontiguousarray(layouts.unpack_lowrank(stored, down=True).T)
