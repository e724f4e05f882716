"""Matrices that are stored with their columns for rows."""

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

__all__ = ["Transposed"]


@dataclass(frozen=True)
class Transposed(Base):
    """``[N, K]`` as ``[K, N]``.

    A stored row holds something of every row, so all rows are stored together: a tensor with such a part is
    one tile, and takes the memory of one.

    This is how AWQ packs (``of: nibbles``, viewed as I32 ``[K, N / 8]``, then ``nibbles`` in its order), and
    GPTQ (viewed as I32 ``[N, K / 8]`` first, which becomes ``[K / 8, N]``).

    Args:
        of: ``"elements"`` of the dtype, or ``"nibbles"``, two in a byte: U8 ``[N, K / 2]`` is U8 ``[K, N /
            2]``. Elements of F4 are nibbles.
    """

    name: ClassVar[str] = "transposed"
    summary: ClassVar[str] = "columns for rows; all rows are stored together"
    options: ClassVar[Mapping[str, Constraint]] = {"of": Constraint.among("elements", "nibbles")}

    of: str = "elements"

    def rows(self, spec: Spec) -> int:
        """All of them."""
        return max(spec.rows, 1)

    def _nibbles(self, spec: Spec) -> bool:
        return self.of == "nibbles" or spec.dtype.name == "F4"

    def spec(self, spec: Spec) -> Spec:
        """Axes exchanged. Raises PlanError for what is no matrix, and codes that would not fill bytes."""
        if len(spec.shape) != 2:
            raise PlanError(f"only matrices can be transposed, not {spec}")
        rows, columns = spec.shape
        if self._nibbles(spec):
            if spec.dtype.name not in ("U8", "F4"):
                raise PlanError(f"{spec} holds no 4-bit codes that could be transposed")
            if rows % 2 or spec.row_bits % 8:
                raise PlanError(f"{spec} cannot be transposed: an odd number of 4-bit codes fills no bytes")
            two = 2 if spec.dtype.name == "U8" else 1
            return Spec(spec.dtype, (columns * two, rows // two))
        if spec.dtype.packed:
            raise PlanError(f"{spec} cannot be transposed: {spec.dtype} lies across bytes")
        return Spec(spec.dtype, (columns, rows))

    def encode(self, piece: Piece, spec: Spec, scratch: Scratch) -> Piece:
        """See :class:`.core.codec.Codec`."""
        rows = piece.data
        if self._nibbles(spec):
            out = scratch.take((rows.shape[1] * 2, rows.shape[0] // 2), "u1")
            return Piece(piece.role, 0, _nibbles_transposed(rows, out))
        out = scratch.take(rows.shape[::-1], spec.dtype.carrier)
        out[...] = rows.T
        return Piece(piece.role, 0, out)

    def decode(self, stored: Array, spec: Spec) -> Array:
        """See :class:`.core.codec.Codec`."""
        import numpy as np

        if self._nibbles(spec):
            shape = stored.shape[1] * 2, stored.shape[0] // 2
            return _nibbles_transposed(stored, np.empty(shape, np.uint8))
        return np.ascontiguousarray(stored.T)

    def before(self, stored: Spec, spec: Spec) -> Spec | None:
        """Axes exchanged, which is its own inverse."""
        try:
            return self.spec(Spec(spec.dtype, stored.shape))
        except PlanError:
            return None


_BLOCK = 256
"""Columns of bytes that are unpacked at a time: a matrix need not be held unpacked."""


def _nibbles_transposed(packed: Array, out: Array) -> Array:
    """``[N, K / 2]`` bytes of two codes as ``[K, N / 2]``, the first code of each low."""
    from ..numerics.packing import pack4, unpack4

    for start in range(0, packed.shape[1], _BLOCK):
        codes = unpack4(packed[:, start : start + _BLOCK])
        out[2 * start : 2 * (start + _BLOCK)] = pack4(codes.T)
    return out
