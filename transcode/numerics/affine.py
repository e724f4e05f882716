"""Kernel of 4-bit codes under a scale and an offset, both floats.

Sixteen groups are encoded side by side, each in a lane: every sum is one group's, in the order of its values.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.scratch import Scratch
from .jit import kernel, lane
from .lanes import above, at_least, at_most, rne, store, widen
from .vectors import get16, put16, total

__all__ = ["affine", "work"]

_LANES = 16
_ROOM = 15 * _LANES
"""What is kept for each lane beside values and their weights."""

_ZERO = np.float32(0)
_ONE = np.float32(1)
_SEVEN, _EIGHT = np.float32(7), np.float32(8)
_FIFTEEN = np.float32(15)
_INF = np.float32(np.inf)
_TINY = np.float32(2.0**-100)
_ROUNDS = 4


def work(size: int, scratch: Scratch) -> NDArray[np.float32]:
    """What :func:`affine` needs for itself, for groups of ``size``."""
    return scratch.take((2 * _LANES * size + _ROOM,), np.float32)


@lane
def stored_offset(offset: Any, stored: Any) -> Any:
    """A number of either sign as it will be stored."""
    if offset == _ZERO:
        return _ZERO
    return -store(-offset, stored) if offset < _ZERO else store(offset, stored)


@lane
def code(x: Any, scale: Any, offset: Any) -> Any:
    """The codes nearest to values, less 8."""
    return at_most(
        at_least(rne(at_most(at_least((x - offset) / scale, -_FIFTEEN), _FIFTEEN)), -_EIGHT), _SEVEN
    )


@kernel
def affine(
    values: Any, size: int, stored: int, weights: Any, work: Any, codes: Any, scales: Any, offsets: Any
) -> bool:
    """``code = clamp(rne((x - offset) / scale) + 8, 0, 15)``, two in a byte, the first in the low nibble.

    From ``scale = (max - min) / 15``, ``offset = min + 8 * scale`` on: codes, the line of least squares
    through them, and again; the pair with the least squared error is kept. A group of equal values has that
    value for an offset.

    Args:
        values: bits ``[n * size]``, see :func:`.lanes.widen`; size even.
        size: values of a group.
        stored: dtype of scales and offsets, :data:`.lanes.STORED`.
        weights: what the squared error of each column counts, float32 ``[K]``, K a multiple of the size; or
            ``[1]`` for one weight for all.
        work: see :func:`work`.
        codes: uint8 ``[n * size / 2]``, written.
        scales, offsets: float32 ``[n]``, written; they hold values of the stored dtype.

    Returns:
        Whether all values were finite; otherwise the outputs are incomplete.
    """
    lines = work[: _LANES * size]
    heavy = work[_LANES * size : 2 * _LANES * size]
    room = work[2 * _LANES * size :]
    scale, offset, own, shift, unit = room[0:16], room[16:32], room[32:48], room[48:64], room[64:80]
    best_scale, best_offset, least, done = room[80:96], room[96:112], room[112:128], room[128:144]
    errors, sums, squares = room[144:160], room[160:176], room[176:192]
    totals, products, counts = room[192:208], room[208:224], room[224:240]
    columns = weights.shape[0]
    for k in range(_LANES * size):
        heavy[k] = weights[0]
    last = scales.shape[0] - 1
    for first in range(0, scales.shape[0], _LANES):
        for g in range(_LANES):
            at = min(first + g, last) * size
            for j in range(size):
                lines[j * _LANES + g] = widen(values[at + j])
            if columns > 1:
                column = at % columns
                for j in range(size):
                    heavy[j * _LANES + g] = weights[column + j]
        low = get16(lines, 0)
        high = low
        broken = low - low
        count = broken
        for j in range(0, _LANES * size, _LANES):
            x = get16(lines, j)
            low, high = above(low, x, x, low), above(x, high, x, high)
            broken = broken + (x - x)  # NaN of what is not finite
            count = count + get16(heavy, j)
        if not total(broken) < _ONE:
            return False
        widest = high / _FIFTEEN - low / _FIFTEEN
        put16(scale, 0, widest)
        put16(offset, 0, low + widest * _EIGHT)
        put16(shift, 0, low)
        put16(counts, 0, count)
        for g in range(_LANES):
            best_scale[g], best_offset[g] = _ONE, stored_offset(shift[g], stored)
            least[g] = _INF
            unit[g] = _ONE / max(scale[g], _TINY)
            done[g] = _ZERO
        for _ in range(_ROUNDS):
            for g in range(_LANES):
                own[g], shift[g] = store(scale[g], stored), stored_offset(offset[g], stored)
            step, middle, share = get16(own, 0), get16(shift, 0), get16(unit, 0)
            error = low - low
            sum_codes, sum_squares, sum_values, sum_products = error, error, error, error
            for j in range(0, _LANES * size, _LANES):
                x, weight = get16(lines, j), get16(heavy, j)
                q = code(x, step, middle)
                gap = (x - (q * step + middle)) * share
                error = error + gap * gap * weight
                y = (x - middle) * share * weight
                sum_codes = sum_codes + q * weight
                sum_squares = sum_squares + q * q * weight
                sum_values = sum_values + y
                sum_products = sum_products + q * y
            put16(errors, 0, error)
            put16(sums, 0, sum_codes)
            put16(squares, 0, sum_squares)
            put16(totals, 0, sum_values)
            put16(products, 0, sum_products)
            for g in range(_LANES):
                if done[g] == _ZERO:
                    if errors[g] < least[g]:
                        best_scale[g], best_offset[g], least[g] = own[g], shift[g], errors[g]
                    spread = counts[g] * squares[g] - sums[g] * sums[g]
                    slope = counts[g] * products[g] - sums[g] * totals[g]
                    slope = slope / spread if spread > _ZERO else _ZERO
                    if scale[g] >= _TINY and slope > _ZERO:
                        offset[g] = shift[g] + ((totals[g] - slope * sums[g]) / counts[g]) / unit[g]
                        scale[g] = slope / unit[g]
                    else:
                        done[g] = _ONE
        step, middle = get16(best_scale, 0), get16(best_offset, 0)
        for j in range(0, _LANES * size, _LANES):
            put16(lines, j, code(get16(lines, j), step, middle) + _EIGHT)
        for g in range(min(_LANES, scales.shape[0] - first)):
            scales[first + g], offsets[first + g] = best_scale[g], best_offset[g]
            at = (first + g) * size // 2
            for j in range(size // 2):
                low_code = np.uint8(lines[2 * j * _LANES + g])
                high_code = np.uint8(lines[(2 * j + 1) * _LANES + g])
                codes[at + j] = low_code | high_code << 4
    return True
