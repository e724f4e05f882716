"""Kernel that turns codes of one format into those of another, whose scales differ by powers of two."""

from __future__ import annotations

from typing import Any

from .jit import kernel

__all__ = ["recode"]


@kernel
def recode(codes: Any, shifts: Any, width: int, table: Any, states: Any, out: Any, worst: Any) -> None:
    """``out = table[shift, code]``, and for each cell the largest of ``states[shift, code]``.

    Args:
        codes: uint8 ``[R, K]``.
        shifts: int32 ``[R, cdiv(K, width)]``: row of the tables for each cell.
        width: columns of a cell.
        table, states: uint8 ``[S, 256]``.
        out: uint8 ``[R, K]``, written.
        worst: uint8, shaped as ``shifts``, written.
    """
    count, columns = codes.shape
    for i in range(count):
        for cell in range(shifts.shape[1]):
            shift = shifts[i, cell]
            left = cell * width
            right = min(left + width, columns)
            state = states[shift, codes[i, left]]
            for j in range(left, right):
                code = codes[i, j]
                out[i, j] = table[shift, code]
                state = max(state, states[shift, code])
            worst[i, cell] = state
