"""Kernel of 4-bit codes under a scale and an offset, both floats.

Sixteen groups are encoded side by side, each in a lane: every sum is one group's, in the order of its values.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.scratch import Scratch
from .across import across16
from .backend import dispatched
from .jit import kernel, lane
from .lanes import above, at_least, at_most, fma, quotient, rne, store
from .vectors import get16, put16, total

__all__ = ["affine", "work"]

_LANES = 16
_ROOM = 11 * _LANES
"""What is kept for each lane beside values and their weights."""

_ZERO = np.float32(0)
_ONE = np.float32(1)
_SEVEN, _EIGHT = np.float32(7), np.float32(8)
_FIFTEEN, _SIXTEEN = np.float32(15), np.float32(16)
_QUICK = np.float32(2.0**-60)
_INF = np.float32(np.inf)
_TINY = np.float32(2.0**-100)
_BELOW_TINY = np.nextafter(_TINY, _ZERO)
_ROUNDS = 4


def work(size: int, scratch: Scratch) -> NDArray[np.float32]:
    """What :func:`affine` needs for itself, for groups of ``size``."""
    return scratch.take((2 * _LANES * size + _ROOM,), np.float32)


@lane
def stored_offset(offset: Any, stored: Any) -> Any:
    """A number of either sign as it will be stored."""
    size = store(abs(offset), stored)
    size = -size if offset < _ZERO else size
    return size if offset != _ZERO else _ZERO


@lane
def as_stored(scale: Any, offset: Any, stored: Any, own: Any, shift: Any) -> Any:
    """Write 16 scales and offsets as they will be stored."""
    if stored == 1:  # one loop for each dtype: with a choice inside they are not vectorised
        for g in range(_LANES):
            own[g], shift[g] = store(scale[g], 1), stored_offset(offset[g], 1)
    elif stored == 2:
        for g in range(_LANES):
            own[g], shift[g] = store(scale[g], 2), stored_offset(offset[g], 2)
    else:
        for g in range(_LANES):
            own[g], shift[g] = store(scale[g], 0), stored_offset(offset[g], 0)


@lane
def code(x: Any, scale: Any, inverse: Any, offset: Any, quick: Any) -> Any:
    """The codes nearest to values, less 8; ``quick`` tells whether :func:`.lanes.quotient` will do."""
    gap = x - offset
    share = quotient(gap, scale, inverse) if quick else gap / scale
    return rne(at_most(at_least(share, -_EIGHT), _SEVEN))


@lane
def fit_line(
    lines: Any, heavy: Any, size: Any, step: Any, middle: Any, share: Any, alike: Any, quick: Any, sums: Any
) -> Any:
    """Write of 16 groups the sums that a line of least squares is made of.

    Args:
        lines, heavy: values and their weights, a group to a lane.
        step, middle: scales and offsets of the codes.
        share: reciprocals of the units in which errors and values are summed.
        alike: whether all weights are 1, and ``heavy`` is not there.
        quick: see :func:`code`.
        sums: written: those of squared errors, codes, their squares, values and products, 16 each.
    """
    inverse, nothing = _ONE / step, step - step
    error, sum_codes, sum_squares, sum_values, sum_products = nothing, nothing, nothing, nothing, nothing
    for j in range(0, _LANES * size, _LANES):
        x = get16(lines, j)
        q = code(x, step, inverse, middle, quick)
        gap = (x - (q * step + middle)) * share
        y = (x - middle) * share
        if alike:
            error = error + gap * gap
            sum_codes, sum_squares = sum_codes + q, fma(q, q, sum_squares)  # integers: exact
        else:
            weight = get16(heavy, j)
            error = error + gap * gap * weight
            y = y * weight
            sum_codes, sum_squares = sum_codes + q * weight, sum_squares + q * q * weight
        sum_values = sum_values + y
        sum_products = sum_products + q * y
    put16(sums, 0, error)
    put16(sums, 16, sum_codes)
    put16(sums, 32, sum_squares)
    put16(sums, 48, sum_values)
    put16(sums, 64, sum_products)


@dispatched
@kernel
def affine(
    values: Any, size: int, stored: int, weights: Any, work: Any, codes: Any, scales: Any, offsets: Any
) -> bool:
    """``code = clamp(rne((x - offset) / scale) + 8, 0, 15)``, two in a byte, the first in the low nibble.

    From ``scale = (max - min) / 15``, ``offset = min + 8 * scale`` on: codes, the line of least squares
    through them, and again; the pair with the least squared error is kept. A group of equal values has that
    value for an offset.

    Args:
        values: bits ``[n * size]``, see :func:`.lanes.widen`; size a multiple of 16.
        size: values of a group.
        stored: dtype of scales and offsets, :data:`.lanes.STORED`.
        weights: what the squared error of each column counts, float32 ``[K]``, K a multiple of the size; or
            ``[1]`` where all are 1.
        work: see :func:`work`.
        codes: uint8 ``[n * size / 2]``, written.
        scales, offsets: float32 ``[n]``, written; they hold values of the stored dtype.

    Returns:
        Whether all values were finite; otherwise the outputs are incomplete.
    """
    lines = work[: _LANES * size]
    heavy = work[_LANES * size : 2 * _LANES * size]
    room = work[2 * _LANES * size :]
    scale, offset, own, shift = room[0:16], room[16:32], room[32:48], room[48:64]
    sums, best_scale, best_offset = room[64:144], room[144:160], room[160:176]
    columns = weights.shape[0]
    alike = columns == 1
    last = scales.shape[0] - 1
    for first in range(0, scales.shape[0], _LANES):
        for j in range(0, size, _LANES):
            across16(values, first * size + j, size, last * size + j, lines, j * _LANES)
        if not alike:
            for g in range(_LANES):
                column = (min(first + g, last) * size) % columns
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
            if alike:
                count = count + _ONE
            else:
                count = count + get16(heavy, j)
        if not total(broken) < _ONE:
            return False
        widest = high / _FIFTEEN - low / _FIFTEEN
        put16(scale, 0, widest)
        put16(offset, 0, low)
        as_stored(scale, offset, stored, own, shift)
        put16(offset, 0, low + widest * _EIGHT)
        share = _ONE / at_least(widest, _TINY)
        step, middle = broken * _ZERO + _ONE, get16(shift, 0)
        done, least = step - step, step + _INF
        for _ in range(_ROUNDS):
            as_stored(scale, offset, stored, own, shift)
            own16, shift16 = get16(own, 0), get16(shift, 0)
            quick = True
            for g in range(_LANES):
                quick &= own[g] >= _QUICK
            if quick and alike:
                fit_line(lines, heavy, size, own16, shift16, share, True, True, sums)
            else:
                fit_line(lines, heavy, size, own16, shift16, share, alike, quick, sums)
            error = above(done, _ZERO, _INF, get16(sums, 0))
            codes16, squares16 = get16(sums, 16), get16(sums, 32)
            values16, products16 = get16(sums, 48), get16(sums, 64)
            step = above(least, error, own16, step)
            middle = above(least, error, shift16, middle)
            least = above(least, error, error, least)
            spread = count * squares16 - codes16 * codes16
            slope = count * products16 - codes16 * values16
            slope = above(spread, _ZERO, slope / spread, _ZERO)
            slope = above(get16(scale, 0), _BELOW_TINY, slope, _ZERO)
            done = above(slope, _ZERO, done, _ONE)
            put16(offset, 0, shift16 + ((values16 - slope * codes16) / count) / share)
            put16(scale, 0, slope / share)
        put16(best_scale, 0, step)
        put16(best_offset, 0, middle)
        for j in range(0, _LANES * size, 2 * _LANES):
            even = code(get16(lines, j), step, step, middle, False) + _EIGHT
            odd = code(get16(lines, j + _LANES), step, step, middle, False) + _EIGHT
            put16(lines, j // 2, even + odd * _SIXTEEN)
        for g in range(min(_LANES, scales.shape[0] - first)):
            scales[first + g], offsets[first + g] = best_scale[g], best_offset[g]
            at = (first + g) * size // 2
            for j in range(size // 2):
                codes[at + j] = np.uint8(lines[j * _LANES + g])
    return True
