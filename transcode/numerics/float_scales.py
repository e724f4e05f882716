"""Kernel that searches the scales of 8-bit floats: blocks as in :mod:`.floats`."""

from __future__ import annotations

from typing import Any

import numpy as np

from .jit import kernel
from .lanes import bits, fit, fma, gentle, larger, real, size_of, store, to_step, widen
from .vectors import first_bit, get16, least, within

__all__ = ["SHARES", "scale_search"]

_ZERO = np.float32(0)
_ONE = np.float32(1)
_INF = np.float32(np.inf)
_U = np.uint32
_RUN = 64

SHARES = tuple(1 + k / 16 for k in range(16))
"""What the plain scale is multiplied by in a search: under a scale of the next octave codes are the same."""


@kernel
def scale_search(
    rows: Any, height: int, width: int, stored: int, largest: Any, normal_bits: Any, mantissa_shift: Any,
    shares: Any, weights: Any, work: Any, scales: Any,
) -> bool:  # fmt: skip
    """Scales of blocks with the least squared error: the first of the plain one times each share, as they are
    stored. None lets a value saturate. Blocks with a plain scale below 2**-60, or that is
    subnormal in F16, keep it.

    Args:
        rows, height, width, stored, largest, normal_bits, mantissa_shift, scales: see
            :func:`.floats.scaled_under`.
        shares: float32 ``[16]``, the first 1.
        weights: what the squared error of each column counts, float32 ``[K]``.
        work: float32 ``[48]``, overwritten.

    Returns:
        Whether all values were finite; otherwise the output is incomplete.
    """
    limit = real(_U(bits(largest) + _U(_U(1) << _U(mantissa_shift - _U(1)))))
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
            first = fit(peak, largest, limit, stored)
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
                        gap = share - to_step(share, normal_bits, mantissa_shift)
                        part = fma(gap * weights[left + j], gap, part)
                    sums = sums + part
            errors = sums * get16(squares, 0)
            scales[head // height, left // width] = tried[first_bit(within(errors, least(errors)))]
    return True
