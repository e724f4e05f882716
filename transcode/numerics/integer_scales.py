"""Kernels that search the scales of symmetric integers of up to 8 bits: blocks as in :mod:`.integer`."""

from __future__ import annotations

from typing import Any

import numpy as np

from .jit import kernel
from .lanes import (
    INTEGER,
    INTEGER_BITS,
    at_most,
    clamp,
    fit,
    fma,
    gentle,
    larger,
    quotient,
    rne,
    signed,
    size_of,
    store,
    widen,
)
from .vectors import first_bit, get16, least, within

__all__ = ["SHARES", "integer_scales", "symmetric_under"]

_ZERO = np.float32(0)
_ONE = np.float32(1)
_HALF = np.float32(0.5)
_INF = np.float32(np.inf)
_RUN = 64

SHARES = (*(1 - k / 320 for k in range(10)), 0.96, 0.94, 0.92, 0.9, 0.85, 0.8)
"""What the plain scale is multiplied by in a search. Most rows gain by where codes happen to fall, for
which small steps do; few by giving up their largest values.
"""


@kernel
def integer_scales(
    rows: Any, height: int, width: int, stored: int, largest: Any, shares: Any, weights: Any, work: Any,
    scales: Any,
) -> bool:  # fmt: skip
    """Scales of blocks with the least squared error: the first of the plain one times each share, as they are
    stored. Blocks with a plain scale below 2**-60, or that is subnormal in F16, keep it.

    Args:
        rows, height, width, stored, largest, scales: see :func:`.integer.symmetric`.
        shares: float32 ``[16]``, the first 1.
        weights: what the squared error of each column counts, float32 ``[K]``.
        work: float32 ``[48]``, overwritten.

    Returns:
        Whether all values were finite; otherwise the output is incomplete.
    """
    tried, inverses, squares = work[:16], work[16:32], work[32:48]
    count, columns = rows.shape
    for head in range(0, count, height):
        foot = min(head + height, count)
        for left in range(0, columns, width):
            right = min(left + width, columns)
            peak_bits = rows.dtype.type(0)
            for i in range(head, foot):
                row = rows[i, left:right]
                for j in range(row.shape[0]):
                    peak_bits = larger(peak_bits, row[j])
            peak = widen(peak_bits)
            if not peak < _INF:
                return False
            first = fit(peak, largest, largest + _HALF, stored)
            scales[head // height, left // width] = first
            if peak == _ZERO or not gentle(first, stored):
                continue
            for k in range(16):
                tried[k] = first if k == 0 else store(peak / largest * shares[k], stored)
                inverses[k] = _ONE / tried[k]
                squares[k] = (tried[k] / first) * (tried[k] / first)
            inverse = get16(inverses, 0)
            sums = inverse * _ZERO
            for i in range(head, foot):
                row = rows[i, left:right]
                for begin in range(0, row.shape[0], _RUN):
                    part = inverse * _ZERO  # sums of sums: a row is long
                    for j in range(begin, min(begin + _RUN, row.shape[0])):
                        share = inverse * size_of(widen(row[j]))
                        gap = share - rne(at_most(share, largest))
                        part = fma(gap * weights[left + j], gap, part)
                    sums = sums + part
            errors = sums * get16(squares, 0)
            scales[head // height, left // width] = tried[first_bit(within(errors, least(errors)))]
    return True


@kernel
def symmetric_under(
    rows: Any, height: int, width: int, stored: int, largest: Any, codes: Any, scales: Any
) -> None:
    """The codes of :func:`.integer.symmetric` under scales that are there already; all values are finite."""
    low = np.int32(INTEGER_BITS - np.int32(largest))
    high = np.int32(INTEGER_BITS + np.int32(largest))
    count, columns = rows.shape
    for i in range(count):
        for left in range(0, columns, width):
            right = min(left + width, columns)
            row, out = rows[i, left:right], codes[i, left:right]
            scale = scales[i // height, left // width]
            quick = gentle(scale, stored)
            inverse = _ONE / scale
            for j in range(row.shape[0]):
                x = widen(row[j])
                share = quotient(x, scale, inverse) if quick else x / scale
                out[j] = np.int8(clamp(signed(share + INTEGER), low, high))
