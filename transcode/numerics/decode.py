"""Kernel that turns codes of at most 8 bits back into float32."""

from __future__ import annotations

from typing import Any

from .jit import kernel

__all__ = ["by_table"]


@kernel
def by_table(codes: Any, table: Any, height: int, width: int, scales: Any, zeros: Any, out: Any) -> None:
    """``out = (table[code] - zero) * scale``.

    Args:
        codes: uint8 ``[R, K]``.
        table: float32 ``[256]``, the value of each code.
        height, width: rows and columns of a block that shares a scale; the first row starts a block.
        scales: float32 ``[cdiv(R, height), cdiv(K, width)]``.
        zeros: float32, shaped as ``scales``.
        out: float32 ``[R, K]``, written.
    """
    count, columns = codes.shape
    for i in range(count):
        for left in range(0, columns, width):
            scale = scales[i // height, left // width]
            zero = zeros[i // height, left // width]
            right = min(left + width, columns)
            row = codes[i, left:right]
            line = out[i, left:right]
            for j in range(row.shape[0]):
                line[j] = (table[row[j]] - zero) * scale
