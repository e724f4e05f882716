"""Kernel that searches the scales of 8-bit floats: blocks as in :mod:`.floats`.

Under a scale that stays the same, a value twice as large is twice as far from its code, as long as both codes
are normal numbers. BF16 has 128 mantissas, so of a block of many values each is a row of a table that is
filled once: how far it is from its code under each scale, to the same bit as if it were rounded.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .edges import by_words
from .jit import kernel, lane
from .lanes import bits, fit, fma, gentle, larger, real, size_of, store, to_step, widen
from .mantissas import AT_ONCE, lowest_word, words_below
from .vectors import first_bit, get16, least, put16, within

__all__ = ["ROOM", "SHARES", "scale_search"]

_ZERO = np.float32(0)
_ONE = np.float32(1)
_INF = np.float32(np.inf)
_U = np.uint32
_RUN = AT_ONCE
_SCALES, _MANTISSAS = 16, 128
_WORTH = 8 * _MANTISSAS
"""So many values pay for the table."""

ROOM = (3 + _MANTISSAS) * _SCALES
"""Numbers that :func:`scale_search` needs for itself."""

SHARES = tuple(1 + k / 16 for k in range(16))
"""What the plain scale is multiplied by in a search: under a scale of the next octave codes are the same."""


@lane
def put_gaps(peak: Any, inverses: Any, normal_bits: Any, mantissa_shift: Any, gaps: Any) -> Any:
    """Write how far each number from 1 to 2 of BF16 is from its code under 16 scales, in units of each scale,
    16 to a number: that of the numbers of the octave of ``peak``, over its power of two.
    """
    octave = _U(bits(peak) & _U(0x7F800000))
    inverse = get16(inverses, 0)
    for k in range(_MANTISSAS):
        share = inverse * real(_U(octave | _U(_U(k) << _U(16))))
        gap = share - to_step(share, normal_bits, mantissa_shift)
        put16(gaps, k * _SCALES, gap * (_ONE / real(octave)))


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
        work: float32 ``[ROOM]``, overwritten.

    Returns:
        Whether all values were finite; otherwise the output is incomplete.
    """
    limit = real(_U(bits(largest) + _U(_U(1) << _U(mantissa_shift - _U(1)))))
    tried, inverses, squares, gaps = work[:16], work[16:32], work[32:48], work[48:]
    count, columns = rows.shape
    tabled = by_words(rows) and min(height, count) * min(width, columns) >= _WORTH
    for head in range(0, count, height):
        foot = min(head + height, count)
        for left in range(0, columns, width):
            right = min(left + width, columns)
            heavy = weights[left:right]
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
            if tabled:
                put_gaps(peak, inverses, normal_bits, mantissa_shift, gaps)
            lowest = lowest_word(tried[15], normal_bits)  # the largest scale: others have larger shares
            for i in range(head, foot):
                row = rows[i, left:right]
                for begin in range(0, row.shape[0], _RUN):
                    part = inverse * _ZERO  # sums of sums: a row is long
                    end = min(begin + _RUN, row.shape[0])
                    if tabled and end - begin == _RUN and not words_below(row, begin, lowest):
                        for j in range(begin, end):
                            at = np.uint64(j)  # an index that cannot count from the end
                            word = _U(row[at])
                            power = real(_U(_U(word & _U(0x7F80)) << _U(16)))
                            gap = get16(gaps, np.int64(word & _U(_MANTISSAS - 1)) * _SCALES) * power
                            part = fma(gap * heavy[at], gap, part)
                    else:
                        for j in range(begin, end):
                            share = inverse * size_of(widen(row[j]))
                            gap = share - to_step(share, normal_bits, mantissa_shift)
                            part = fma(gap * heavy[j], gap, part)
                    sums = sums + part
            errors = sums * get16(squares, 0)
            scales[head // height, left // width] = tried[first_bit(within(errors, least(errors)))]
    return True
