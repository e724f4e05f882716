"""The 128x4 layout of block scales that tensor cores read.

Scales ``[R, C]`` are padded with zeros to whole tiles of 128 rows and 4 columns. A tile is 512 bytes in a
row; row m, column k of the scales lies at

    ((m // 128) * T + k // 4) * 512 + (m % 32) * 16 + ((m % 128) // 32) * 4 + k % 4,    T = cdiv(C, 4)

(cuBLAS documentation, "1D block scaling factors layout"; the same as ``to_blocked`` of torchao). Tiles of one
run of 128 rows follow each other, so such a run is swizzled by itself, into one contiguous piece.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["TILE_COLUMNS", "TILE_ROWS", "padded", "swizzle", "unswizzle"]

Bytes = NDArray[np.uint8]

TILE_ROWS = 128
TILE_COLUMNS = 4


def padded(rows: int, columns: int) -> tuple[int, int]:
    """Shape that holds the swizzled scales: rows to a multiple of 128, columns to one of 4.

    Consumers name the same bytes by other shapes too, such as ``[32 * cdiv(rows, 128), 16 * cdiv(columns,
    4)]``, or flat.
    """
    return rows + -rows % TILE_ROWS, columns + -columns % TILE_COLUMNS


def swizzle(scales: Bytes, out: Bytes | None = None) -> Bytes:
    """Scales ``[R, C]`` in this layout, as an array of the padded shape; ``out`` may be that array.

    For a tile of a tensor's rows, start at a multiple of 128 and end at one or with the tensor.
    """
    rows, columns = scales.shape
    high, wide = padded(rows, columns)
    if out is None:
        out = np.empty((high, wide), np.uint8)
    tiles = out.reshape(high // TILE_ROWS, wide // TILE_COLUMNS, 32, 4, 4).transpose(0, 3, 2, 1, 4)
    if (rows, columns) == (high, wide):
        tiles[...] = scales.reshape(tiles.shape)
    else:
        whole = np.zeros((high, wide), np.uint8)
        whole[:rows, :columns] = scales
        tiles[...] = whole.reshape(tiles.shape)
    return out


def unswizzle(swizzled: Bytes, rows: int, columns: int) -> Bytes:
    """The inverse of :func:`swizzle`: scales ``[rows, columns]`` from their bytes in any shape; padding is
    left out.

    Raises:
        ValueError: another number of bytes than those scales take.
    """
    high, wide = padded(rows, columns)
    if swizzled.size != high * wide:
        raise ValueError(
            f"{swizzled.size} swizzled bytes, {high * wide} are needed for {rows} x {columns} scales"
        )
    tiles = swizzled.reshape(high // TILE_ROWS, wide // TILE_COLUMNS, 32, 4, 4).transpose(0, 3, 2, 1, 4)
    return np.ascontiguousarray(tiles.reshape(high, wide)[:rows, :columns])
