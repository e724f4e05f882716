"""Kernel of W6A8, see :mod:`.grouped`: levels are the integers from -31 to 31.

Which scale a group gets is found without its levels: how far a value is from the nearest of the integers that
levels decode to follows from the two levels around it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.scratch import Scratch
from .across import LANES, across16, back_nibbles, back_uppers, padded, peaks16, total16
from .backend import dispatched
from .e4m3 import CODES, e4m3_code, e4m3_value
from .hadamard import turn
from .jit import kernel, lane
from .lanes import above, at_least, at_most, real, rne, size_of, widen
from .peaks import greatest
from .vectors import get16, put16, total
from .whole import floor, nearest_integer

__all__ = ["grouped6", "work6"]

_ZERO = np.float32(0)
_ONE = np.float32(1)
_HALF = np.float32(0.5)
_INF = np.float32(np.inf)
_REACH = np.float32(127)
_END = np.float32(31)
_OFFSET = np.float32(32)
_BEFORE_REACH = np.float32(126.75)
"""Above it are the products that are rounded to 127, below those rounded to 126: levels reach them under
scales from 4 on, which are multiples of a half.
"""
_TINY = np.float32(2.0**-126)
_BELOW_TINY = np.nextafter(_TINY, _ZERO)
_BELOW_ONE = np.nextafter(_ONE, _ZERO)
_FITS = 2


def work6(groups: int, size: int, scratch: Scratch) -> NDArray[np.float32]:
    """What :func:`grouped6` needs for itself, for so many groups of a row, each of ``size`` values."""
    return scratch.take((padded(groups) * (size + 1) + 9 * LANES,), np.float32)


@lane
def nearest6(x: Any) -> Any:
    """The level nearest to each value; halfway the even one."""
    return rne(at_most(at_least(x, -_END), _END))


@lane
def refitted6(lines: Any, size: Any, scale: Any, sums: Any) -> Any:
    """Scales of least squares for the levels that are nearest under the scales of 16 groups."""
    inverse = _ONE / scale
    products = inverse - inverse
    squares = products
    for block in range(0, LANES * size, LANES * LANES):
        for k in range(8):
            at = block + 2 * LANES * k
            even, odd = get16(lines, at) * inverse, get16(lines, at + LANES) * inverse
            low, high = nearest6(even), nearest6(odd)
            put16(sums, LANES * k, even * low + odd * high)
            squares = squares + low * low + high * high  # integers: exact in any order
        products = products + total16(sums, 0)
    return scale * (products / squares)


@lane
def missed6(t: Any, step: Any, inverse: Any, low: Any, high: Any) -> Any:
    """How far values are from the nearer one of the integers of the two levels around them, see
    :func:`lost6`.
    """
    level = at_least(at_most(floor(t * inverse), high), low)
    under = level * step  # exact, as is the product with the next level
    over = at_most(nearest_integer(under + step), _REACH)
    under = at_least(nearest_integer(under), -_REACH)
    return at_most(size_of(t - under), size_of(t - over))


@lane
def lost6(lines: Any, size: Any, scale: Any, sums: Any) -> Any:
    """Squared errors of 16 groups under their scales.

    Where a step is less than one all integers are met, up to that of the last level: there steps of one lose
    as much.
    """
    end = rne(scale * _END)
    most = at_most(floor(_BEFORE_REACH / scale), _END - _ONE)
    low = above(scale, _BELOW_ONE, -_ONE - most, _ZERO - end)
    high = above(scale, _BELOW_ONE, most, end - _ONE)
    step = above(scale, _BELOW_ONE, scale, above(end, _HALF, _ONE, _ZERO))
    inverse = _ONE / step
    error = step - step
    for block in range(0, LANES * size, LANES * LANES):
        for k in range(8):
            at = block + 2 * LANES * k
            even = missed6(get16(lines, at), step, inverse, low, high)
            odd = missed6(get16(lines, at + LANES), step, inverse, low, high)
            put16(sums, LANES * k, even * even + odd * odd)
        error = error + total16(sums, 0)
    return error


@lane
def integer6(level: Any, scale: Any) -> Any:
    """What a level decodes to."""
    return at_most(at_least(rne(level * scale), -_REACH), _REACH)


@lane
def closer6(t: Any, scale: Any, chosen: Any, other: Any) -> Any:
    """That of two levels whose integer is nearer to ``t``; the first in a tie."""
    other = at_most(at_least(other, -_END), _END)
    one, two = integer6(chosen, scale) - t, integer6(other, scale) - t
    return above(one * one, two * two, other, chosen)


@lane
def level6(t: Any, scale: Any, inverse: Any, fine: Any) -> Any:
    """The level whose integer is nearest to each value: the nearest one, or the next one on the value's side;
    where steps are below one (``fine``) that nearest to the nearest integer, if it is nearer.
    """
    level = nearest6(t * inverse)
    beside = above(t, integer6(level, scale), level + _ONE, level - _ONE)
    chosen = closer6(t, scale, level, beside)
    return closer6(t, scale, chosen, rne(rne(t) * inverse)) if fine else chosen


@lane
def fill6(lines: Any, size: Any, scale: Any, inverse: Any, fine: Any) -> Any:
    """Codes in place of the values of 16 groups."""
    for at in range(0, LANES * size, LANES):
        put16(lines, at, level6(get16(lines, at), scale, inverse, fine) + _OFFSET)


@dispatched
@kernel
def grouped6(
    rows: Any, size: int, unit: Any, line: Any, bits_of_line: Any, group: int,
    work: Any, codes: Any, scales: Any, row_scales: Any,
) -> bool:  # fmt: skip
    """Codes of 6 bits: a code is its level plus 32.

    Args:
        rows, size, unit, line, bits_of_line, group, scales, row_scales: see :func:`.grouped.grouped4`.
        work: see :func:`work6`.
        codes: uint8 ``[R, K * 3 / 4]``, written: low nibbles as those of :func:`.grouped.grouped4`, then the
            upper two bits of four columns in a byte, the first lowest.

    Returns:
        Whether all turned values were finite; otherwise the outputs are incomplete.
    """
    count = scales.shape[1]
    last = (count - 1) * group
    room = (count + LANES - 1) // LANES * LANES
    values, group_scales = work[: room * group], work[room * group : room * (group + 1)]
    sums, numbers = work[room * (group + 1) :][: 8 * LANES], work[room * (group + 1) + 8 * LANES :]
    half = line.shape[1] // 2
    for i in range(rows.shape[0]):
        turn(rows[i], size, unit, line[0])
        words, row = bits_of_line[0], codes[i]
        reach = _ZERO
        for begin in range(0, count, LANES):
            first = begin * group
            lines = values[first : first + LANES * group]
            for j in range(0, group, LANES):
                across16(words, first + j, group, last + j, lines, LANES * j)
            peak_bits = peaks16(lines, group)
            if not widen(greatest(peak_bits)) < _INF:
                return False
            peak = real(peak_bits)
            plain = peak / _END
            scale = plain
            for _ in range(_FITS):
                scale = refitted6(lines, group, scale, sums)
            put16(group_scales, begin, above(plain, _BELOW_TINY, scale, _ZERO))
            top = at_most(rne(peak / scale), _END) * scale
            put16(numbers, 0, above(plain, _BELOW_TINY, top, _ZERO))
            for g in range(LANES):
                reach = max(reach, numbers[g])
        row_scale = max(reach / _REACH, _TINY) if reach > _ZERO else _ONE
        row_scales[i] = row_scale
        for j in range(values.shape[0]):
            values[j] = values[j] / row_scale
        for begin in range(0, count, LANES):
            first = begin * group
            lines = values[first : first + LANES * group]
            nearest = e4m3_code(get16(group_scales, begin) / row_scale)
            chosen = nearest
            least_error = nearest - nearest + _INF
            for move in (_ZERO, -_ONE, _ONE):
                code = at_most(at_least(nearest + move, _ZERO), CODES)
                error = lost6(lines, group, e4m3_value(code), sums)
                chosen = above(least_error, error, code, chosen)
                least_error = above(least_error, error, error, least_error)
            scale = e4m3_value(chosen)
            inverse = above(scale, _ZERO, _ONE / scale, _ZERO)
            if total(above(scale, _BELOW_ONE, _ZERO, _ONE)) > _ZERO:
                fill6(lines, group, scale, inverse, True)
            else:
                fill6(lines, group, scale, inverse, False)
            for j in range(0, group, LANES):
                at, stop = (first + j) // 2, (last + j) // 2
                back_nibbles(lines, LANES * j, row, at, group // 2, stop)
                back_uppers(lines, LANES * j, row, half + at // 2, group // 4, half + stop // 2)
            put16(numbers, 0, chosen)
            for g in range(min(LANES, count - begin)):
                scales[i, begin + g] = np.uint8(numbers[g])
    return True
