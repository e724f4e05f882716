"""Kernels of 8-bit floats, scaled by blocks of ``height`` rows by ``width`` columns (see :mod:`.integer`)."""

from __future__ import annotations

from typing import Any

import numpy as np

from .jit import kernel
from .lanes import bits, encode, fit, larger, quotient, real, rescue, shr, widen

__all__ = ["scaled"]

_ZERO = np.float32(0)
_ONE = np.float32(1)
_INF = np.float32(np.inf)
_U = np.uint32


@kernel
def scaled(
    rows: Any, height: int, width: int, stored: int, given: Any,
    top: Any, least: Any, drop: Any, codes: Any, scales: Any,
) -> bool:  # fmt: skip
    """``scale = amax / top``, ``code = rne(x / scale)`` saturating, from the scale as it is stored.

    Args:
        rows: bits ``[R, K]``, see :func:`lanes.widen`.
        height, width: rows and columns of a block.
        stored: dtype of the stored scale, :data:`lanes.STORED`.
        given: a scale for all blocks, float32, or 0 to compute one for each.
        top, least, drop: the format, see :func:`lanes.encode`.
        codes: uint8 ``[R, K]``, written.
        scales: float32 ``[cdiv(R, height), cdiv(K, width)]``, written; holds values of the stored dtype.

    Returns:
        Whether all values were finite; otherwise the outputs are incomplete.
    """
    count, columns = rows.shape
    for head in range(0, count, height):
        foot = min(head + height, count)
        for left in range(0, columns, width):
            right = min(left + width, columns)
            if given > _ZERO:
                scale = given
            else:
                best = rows.dtype.type(0)
                for i in range(head, foot):
                    row = rows[i, left:right]
                    for j in range(row.shape[0]):
                        best = larger(best, row[j])
                peak = widen(best)
                if not peak < _INF:
                    return False
                scale = fit(peak, top, stored)
            scales[head // height, left // width] = scale
            lift = rescue(scale)
            scale = scale * lift
            inverse = _ONE / scale
            for i in range(head, foot):
                row = rows[i, left:right]
                out = codes[i, left:right]
                for j in range(row.shape[0]):
                    x = widen(row[j])
                    y = quotient(x * lift, scale, inverse)
                    size = real(_U(bits(y) & _U(0x7FFFFFFF)))
                    sign = _U(shr(bits(x), _U(24)) & _U(0x80))
                    out[j] = np.uint8(encode(size, top, least, drop) | sign)
    return True
