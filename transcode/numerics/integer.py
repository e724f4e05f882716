"""Kernels of integers of up to 8 bits: symmetric and with a zero point.

A block is ``height`` rows by ``width`` columns and has one scale; those at the right and lower edge may be
smaller.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .backend import dispatched
from .jit import kernel
from .lanes import (
    INTEGER,
    INTEGER_BITS,
    beyond,
    clamp,
    coarse,
    disorder,
    fit,
    gentle,
    larger,
    order,
    quotient,
    rne,
    signed,
    store,
    widen,
)

__all__ = ["symmetric", "with_zero"]

_ZERO = np.float32(0)
_ONE = np.float32(1)
_HALF = np.float32(0.5)
_INF = np.float32(np.inf)


@dispatched
@kernel
def symmetric(
    rows: Any, height: int, width: int, stored: int, tensor_scale: Any, largest: Any, codes: Any, scales: Any
) -> bool:
    """``scale = amax / largest``, ``code = clamp(rne(x / scale), -largest, largest)``, from the
    scale as it is stored.

    Args:
        rows: bits ``[R, K]``, see :func:`.lanes.widen`.
        height, width: rows and columns of a block.
        stored: dtype of the stored scale, :data:`.lanes.STORED`.
        tensor_scale: a scale for all blocks, float32, or 0 to compute one for each.
        largest: largest code, float32: 127.
        codes: int8 ``[R, K]``, written.
        scales: float32 ``[cdiv(R, height), cdiv(K, width)]``, written; holds values of the stored dtype.

    Returns:
        Whether all values were finite; otherwise the outputs are incomplete.
    """
    low = np.int32(INTEGER_BITS - np.int32(largest))
    high = np.int32(INTEGER_BITS + np.int32(largest))
    count, columns = rows.shape
    for head in range(0, count, height):
        foot = min(head + height, count)
        for left in range(0, columns, width):
            right = min(left + width, columns)
            if tensor_scale > _ZERO:
                scale = tensor_scale
            else:
                peak_bits = rows.dtype.type(0)
                for i in range(head, foot):
                    row = rows[i, left:right]
                    for j in range(row.shape[0]):
                        peak_bits = larger(peak_bits, row[j])
                peak = widen(peak_bits)
                if not peak < _INF:
                    return False
                scale = fit(peak, largest, largest + _HALF, stored)
            scales[head // height, left // width] = scale
            quick = gentle(scale, stored)
            inverse = _ONE / scale
            for i in range(head, foot):
                row = rows[i, left:right]
                out = codes[i, left:right]
                if quick:
                    for j in range(row.shape[0]):
                        out[j] = np.int8(signed(quotient(widen(row[j]), scale, inverse) + INTEGER))
                else:
                    for j in range(row.shape[0]):
                        out[j] = np.int8(clamp(signed(widen(row[j]) / scale + INTEGER), low, high))
    return True


@dispatched
@kernel
def with_zero(rows: Any, width: int, stored: int, span: Any, codes: Any, scales: Any, zeros: Any) -> bool:
    """``scale = (max - min) / span`` over a range that includes 0, ``zero = clamp(rne(lowest_code - min /
    scale))``, ``code = clamp(rne(x / scale) + zero)``, all clamped from ``lowest_code = -(span + 1) / 2`` to
    ``lowest_code + span``.

    Arguments as for :func:`symmetric`, one row to a block; ``span`` is 255 or 15, float32; ``zeros`` is int8,
    shaped as ``scales``. Blocks of zeros get scale 1, zero point 0 and codes 0.
    """
    lowest_code = -(span + _ONE) * np.float32(0.5)
    low_code = np.int32(INTEGER_BITS + np.int32(lowest_code))
    high_code = np.int32(INTEGER_BITS + np.int32(lowest_code + span))
    count, columns = rows.shape
    for i in range(count):
        for left in range(0, columns, width):
            row = rows[i, left : min(left + width, columns)]
            low = order(rows.dtype.type(0))
            high = low
            for j in range(row.shape[0]):
                key = order(row[j])
                low = key if key < low else low
                high = key if key > high else high
            lowest = widen(disorder(low, row[0]))
            highest = widen(disorder(high, row[0]))
            if not (highest < _INF and lowest > -_INF):
                return False
            reach = highest - lowest
            if reach == _ZERO:
                scale, zero = _ONE, _ZERO
            else:
                # The difference of two large floats may be infinite, that of their shares is not.
                scale = store(reach / span if reach < _INF else highest / span - lowest / span, stored)
                if coarse(scale, stored) and reach / scale > span + _HALF:  # see lanes.fit
                    scale = beyond(scale, stored)
                zero = rne(min(max(lowest_code - lowest / scale, lowest_code), lowest_code + span))
            scales[i, left // width] = scale
            zeros[i, left // width] = np.int8(zero)
            quick = gentle(scale, stored)
            inverse = _ONE / scale
            shift = np.int32(zero)
            out = codes[i, left : left + row.shape[0]]
            for j in range(row.shape[0]):
                x = widen(row[j])
                y = quotient(x, scale, inverse) if quick else x / scale
                out[j] = np.int8(clamp(np.int32(signed(y + INTEGER) + shift), low_code, high_code))
    return True
