"""How Marlin's kernel for matrix products takes 4-bit codes and their scales.

Source: ``Layer.pack`` and ``_get_perms`` of ``marlin/__init__.py`` in IST-DASLab/marlin.
"""

from __future__ import annotations

from functools import cache
from typing import ClassVar

from ..core.dtypes import DTYPES
from ..core.expr import Piece
from ..core.records import dataclass
from ..core.scratch import Scratch
from ..core.spec import Spec
from ..core.types import Array
from ..errors import PlanError
from .base import Base, only_matrices

__all__ = ["Marlin", "MarlinScales"]

_TILE = 16
"""Rows and columns of a tile, of which the kernel takes four beside each other."""

_WIDE = 4 * _TILE
_BLOCK = 512
"""Columns of the tensor that are unpacked at a time: a matrix need not be held unpacked."""


@cache
def _order() -> Array:
    """Where each of the 1024 codes of four tiles comes from, ``[32 threads, 4 tiles, 8 codes of a word]``.

    Thread ``t`` of a warp holds of each tile the rows ``2 (t % 4)``, the one after it, and both 8 further,
    in the columns ``t / 4`` and 8 further, as tensor cores take their fragments; of its eight codes those at
    even places come first.
    """
    import numpy as np

    thread, tile, place = np.ogrid[:32, :4, :8]
    place = np.array([0, 2, 4, 6, 1, 3, 5, 7])[place]
    row = 2 * (thread % 4) + place % 2 + 8 * (place % 4 // 2)
    column = thread // 4 + 8 * (place // 4)
    order: Array = (256 * tile + _TILE * row + column).reshape(-1)
    return order


@dataclass(frozen=True)
class Marlin(Base):
    """4-bit codes, two in a byte, U8 ``[N, K / 2]``, as I32 ``[K / 16, 2 N]``.

    A stored row holds something of every row, so all rows are stored together.
    """

    name: ClassVar[str] = "marlin"
    summary: ClassVar[str] = "4-bit codes in the order of Marlin's tiles; all rows are stored together"
    takes: ClassVar[tuple[str, ...]] = ("U8",)

    def rows(self, spec: Spec) -> int:
        """All of them."""
        return max(spec.rows, 1)

    def spec(self, spec: Spec) -> Spec:
        """Words of tiles. Raises PlanError for what fills no tiles."""
        super().spec(spec)
        rows, packed = only_matrices("marlin", spec)
        if rows % _WIDE or 2 * packed % _TILE or not rows or not packed:
            raise PlanError(f"{spec} fills no tiles of {_WIDE} rows and {_TILE} columns")
        return Spec(DTYPES["I32"], (2 * packed // _TILE, 2 * rows))

    def before(self, stored: Spec, spec: Spec) -> Spec | None:
        """The matrix of so many tiles."""
        if len(stored.shape) != 2 or stored.shape[1] % (2 * _WIDE):
            return None
        return Spec(spec.dtype, (stored.shape[1] // 2, stored.shape[0] * _TILE // 2))

    def encode(self, piece: Piece, spec: Spec, scratch: Scratch) -> Piece:
        """See :class:`.core.codec.Codec`."""
        from ..numerics.packing import pack4, unpack4

        rows = len(piece.data)
        out = scratch.take((piece.data.shape[1] * 2 // _TILE, rows * _TILE // 2), "u1")
        for start in range(0, piece.data.shape[1], _BLOCK // 2):
            codes = unpack4(piece.data[:, start : start + _BLOCK // 2])
            tiles = codes.reshape(rows // _TILE, _TILE, -1, _TILE).transpose(2, 0, 3, 1)
            lines = tiles.reshape(-1, 1024)[:, _order()].reshape(len(tiles), -1)
            at = 2 * start // _TILE
            out[at : at + len(tiles)] = pack4(lines)
        return Piece(piece.role, 0, out.view("<i4"))

    def decode(self, stored: Array, spec: Spec) -> Array:
        """See :class:`.core.codec.Codec`."""
        import numpy as np

        from ..numerics.packing import pack4, unpack4

        lines, rows = np.ascontiguousarray(stored).view("u1"), stored.shape[1] // 2
        back = np.argsort(_order())
        out = np.empty((rows, len(lines) * _TILE // 2), np.uint8)
        for start in range(0, len(lines), _BLOCK // _TILE):
            codes = unpack4(lines[start : start + _BLOCK // _TILE])
            tiles = codes.reshape(-1, 1024)[:, back].reshape(len(codes), rows // _TILE, _TILE, _TILE)
            at = start * _TILE // 2
            whole = tiles.transpose(1, 3, 0, 2).reshape(rows, -1)
            out[:, at : at + whole.shape[1] // 2] = pack4(whole)
        return out


@dataclass(frozen=True)
class MarlinScales(Base):
    """Scales of groups, ``[N, G]``, as ``[G, N]``, of each 64 rows every eighth together."""

    name: ClassVar[str] = "marlin_scales"
    summary: ClassVar[str] = "scales of groups as [G, N], in the order of Marlin's tiles"

    def rows(self, spec: Spec) -> int:
        """All of them."""
        return max(spec.rows, 1)

    def spec(self, spec: Spec) -> Spec:
        """Axes exchanged. Raises PlanError for what fills no tiles."""
        rows, groups = only_matrices("marlin", spec)
        if spec.dtype.packed or rows % _WIDE or not rows:
            raise PlanError(f"{spec} fills no tiles of {_WIDE} rows")
        return Spec(spec.dtype, (groups, rows))

    def before(self, stored: Spec, spec: Spec) -> Spec | None:
        """Axes exchanged."""
        if len(stored.shape) != 2 or stored.shape[1] % _WIDE:
            return None
        return Spec(spec.dtype, stored.shape[::-1])

    def encode(self, piece: Piece, spec: Spec, scratch: Scratch) -> Piece:
        """See :class:`.core.codec.Codec`."""
        rows, groups = piece.data.shape
        out = scratch.take((groups, rows), spec.dtype.carrier)
        out.reshape(groups, -1, 8, 8)[...] = piece.data.T.reshape(groups, -1, 8, 8).swapaxes(2, 3)
        return Piece(piece.role, 0, out)

    def decode(self, stored: Array, spec: Spec) -> Array:
        """See :class:`.core.codec.Codec`."""
        import numpy as np

        groups, rows = stored.shape
        whole = stored.reshape(groups, -1, 8, 8).swapaxes(2, 3).reshape(groups, rows)
        return np.ascontiguousarray(whole.T)
