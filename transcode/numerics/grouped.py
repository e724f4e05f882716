"""Kernels of groups of columns under two scales, decoded to integers of 8 bits: W4A8 and W6A8.

A code stands for a level of a table, a group of columns has a scale in E4M3, a row one in float32::

    integer = clamp(rne(level * group_scale), -127, 127)        value = integer * row_scale

(``backends/eager/w4a8_int8.py`` of comfy_kitchen). The scale of a group is that of least squares for the
levels that are nearest, found by turns (twice); of its E4M3 code and the two beside it that one is kept whose
integers lose least.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.scratch import Scratch
from .hadamard import turn
from .jit import kernel, lane
from .lanes import INTEGER, above, at_least, at_most, bits, rne, widen
from .micro import nv_scale, nv_value
from .peaks import peak_between
from .vectors import columns16, pack4, pack8, total

__all__ = ["BINS", "grouped4", "grouped6", "histogram", "work4"]

BINS = 4096
"""Bins of :func:`histogram`, from -1 to 1."""

_U = np.uint32
_ZERO = np.float32(0)
_ONE = np.float32(1)
_HALF = np.float32(0.5)
_INF = np.float32(np.inf)
_REACH = np.float32(127)
_LEVELS6 = np.float32(31)
_TINY = np.float32(2.0**-126)
_TURNS = 3
_CODES = np.int64(126)
_SCALES = 127


def work4(groups: int, scratch: Scratch) -> NDArray[np.float32]:
    """What :func:`grouped4` needs for itself, for so many groups of a row."""
    return scratch.take((groups + 32 * _SCALES,), np.float32)


@lane
def nearest(x: Any, levels: Any, middles: Any, first: Any) -> Any:
    """The level of a rising table of 16, from ``first`` on, that is nearest to each value; halfway the lower
    one.
    """
    level = above(x, middles[first], levels[first + 1], levels[first])
    for k in range(1, 15):
        level = above(x, middles[first + k], levels[first + k + 1], level)
    return level


@lane
def nearest6(x: Any) -> Any:
    """The same for the integers from -31 to 31; halfway the even one."""
    return rne(at_most(at_least(x, -_LEVELS6), _LEVELS6))


@lane
def to_integers(levels: Any, scale: Any, integers: Any, middles: Any) -> Any:
    """What the levels of a table decode to under the scale of a group, and what lies halfway between."""
    for k in range(16):
        integers[k] = min(max(rne(levels[k] * scale), -_REACH), _REACH)
    for k in range(15):
        middles[k] = (integers[k] + integers[k + 1]) * _HALF


@lane
def closer6(t: Any, scale: Any, inverse: Any, chosen: Any, other: Any) -> Any:
    """That of two levels from -31 to 31 whose integer is nearer to ``t``; the first in a tie."""
    other = at_most(at_least(other, -_LEVELS6), _LEVELS6)
    one, two = integer6(chosen, scale) - t, integer6(other, scale) - t
    return above(one * one, two * two, other, chosen)


@lane
def integer6(level: Any, scale: Any) -> Any:
    """What a level decodes to."""
    return at_most(at_least(rne(level * scale), -_REACH), _REACH)


@lane
def level6(t: Any, scale: Any, inverse: Any) -> Any:
    """The level from -31 to 31 whose integer is nearest to each value.

    Where steps are below one, that is the level nearest to the integer; else that nearest to the value, or
    one beside it.
    """
    level = nearest6(t * inverse)
    chosen = closer6(t, scale, inverse, level, level - _ONE)
    chosen = closer6(t, scale, inverse, chosen, level + _ONE)
    return closer6(t, scale, inverse, chosen, rne(rne(t) * inverse))


@kernel
def histogram(rows: Any, size: int, unit: Any, line: Any, bits_of_line: Any, group: int, counts: Any) -> bool:
    """Count the turned values of groups, each over the largest magnitude of its group.

    Args:
        rows, size, unit, line: see :func:`.hadamard.rotated_largest`.
        bits_of_line: the memory of ``line`` as uint32.
        group: columns of a group, a multiple of 16; groups of zeros do not count.
        counts: int64 ``[BINS]``, added to.

    Returns:
        Whether all turned values were finite.
    """
    half = np.float32(BINS // 2)
    last = np.float32(BINS - 1)
    for i in range(rows.shape[0]):
        turn(rows[i], size, unit, line[0])
        turned, words = line[0], bits_of_line[0]
        for at in range(0, turned.shape[0], group):
            peak = widen(peak_between(words, at, at + group))
            if not peak < _INF:
                return False
            if peak >= _TINY:
                inverse = half / peak
                for j in range(at, at + group):
                    counts[np.int64(min(max(turned[j] * inverse + half, _ZERO), last))] += 1
    return True


@kernel
def grouped4(
    rows: Any, size: int, unit: Any, line: Any, bits_of_line: Any, group: int, most: Any,
    levels: Any, middles: Any, work: Any, codes: Any, scales: Any, row_scales: Any,
) -> bool:  # fmt: skip
    """Codes of 4 bits, two in a byte, the even column in the low nibble.

    Args:
        rows, size, unit, line, bits_of_line, group: see :func:`histogram`.
        most: what the largest magnitude of a group is divided by for the first scale: the largest level.
        levels: float32 ``[16]``, rising.
        middles: float32 ``[15]``: halfway between.
        work: see :func:`work4`.
        codes: uint8 ``[R, K / 2]``, written: numbers of levels.
        scales: uint8 ``[R, K / group]``, written: E4M3.
        row_scales: float32 ``[R]``, written.

    Returns:
        Whether all turned values were finite; otherwise the outputs are incomplete.
    """
    # A hundred and some scales are all there are: what levels decode to under each is computed once.
    integers, between = work[: 16 * _SCALES], work[16 * _SCALES : 32 * _SCALES]
    group_scales = work[32 * _SCALES :]
    for k in range(_SCALES):
        at = 16 * k
        to_integers(levels, nv_value(_U(k)), integers[at : at + 16], between[at : at + 16])
    for i in range(rows.shape[0]):
        turn(rows[i], size, unit, line[0])
        turned, words = line[0], bits_of_line[0]
        reach = _ZERO
        for number in range(group_scales.shape[0]):
            at = number * group
            peak = widen(peak_between(words, at, at + group))
            if not peak < _INF:
                return False
            scale = peak / most
            if not scale >= _TINY:
                group_scales[number] = _ZERO
                continue
            for _ in range(_TURNS - 1):
                inverse = _ONE / scale
                products, squares = _ZERO, _ZERO
                for j in range(at, at + group, 16):
                    even, odd = columns16(words, j)
                    low = nearest(even * inverse, levels, middles, 0)
                    high = nearest(odd * inverse, levels, middles, 0)
                    products += total((even * inverse) * low + (odd * inverse) * high)
                    squares += total(low * low + high * high)
                scale = scale * (products / squares) if products > _ZERO else _ZERO
            group_scales[number] = scale
            if scale >= _TINY:
                for sign in (-_ONE, _ONE):
                    level = levels[0]
                    for k in range(15):
                        level = levels[k + 1] if sign * peak / scale > middles[k] else level
                    reach = max(reach, abs(level) * scale)
        row_scale = max(reach / _REACH, _TINY) if reach > _ZERO else _ONE
        row_scales[i] = row_scale
        for j in range(turned.shape[0]):
            turned[j] = turned[j] / row_scale
        for number in range(group_scales.shape[0]):
            at = number * group
            first = np.int64(nv_scale(group_scales[number] / row_scale))
            chosen = first
            least_error = _INF
            for move in (0, -1, 1):
                code = min(max(first + np.int64(move), np.int64(0)), _CODES)
                error = _ZERO
                for j in range(at, at + group, 16):
                    even, odd = columns16(words, j)
                    low = even - nearest(even, integers, between, 16 * code)
                    high = odd - nearest(odd, integers, between, 16 * code)
                    error += total(low * low + high * high)
                better = error < least_error
                least_error = error if better else least_error
                chosen = code if better else chosen  # no branch: which is better cannot be predicted
            scales[i, number] = np.uint8(chosen)
            begin = 16 * chosen
            row = codes[i]
            for j in range(at, at + group, 16):
                even, odd = columns16(words, j)
                low = above(even, between[begin], _ONE, _ZERO)
                high = above(odd, between[begin], _ONE, _ZERO)
                for k in range(1, 15):
                    low = above(even, between[begin + k], np.float32(k + 1), low)
                    high = above(odd, between[begin + k], np.float32(k + 1), high)
                pack4(row, j // 2, bits(low + INTEGER), bits(high + INTEGER))
    return True


@kernel
def grouped6(
    rows: Any, size: int, unit: Any, line: Any, bits_of_line: Any, group: int,
    work: Any, plain: Any, codes: Any, scales: Any, row_scales: Any,
) -> bool:  # fmt: skip
    """Codes of 6 bits: the levels are the integers from -31 to 31, a code is its level plus 32.

    Args:
        rows, size, unit, line, bits_of_line, group, scales, row_scales: see :func:`grouped4`.
        work: float32 ``[K / group]``, overwritten.
        plain: uint8 ``[K]``, overwritten.
        codes: uint8 ``[R, K * 3 / 4]``, written: low nibbles as those of :func:`grouped4`, then the upper two
            bits of four columns in a byte, the first lowest.

    Returns:
        Whether all turned values were finite; otherwise the outputs are incomplete.
    """
    offset = np.float32(32)
    for i in range(rows.shape[0]):
        turn(rows[i], size, unit, line[0])
        turned, words = line[0], bits_of_line[0]
        reach = _ZERO
        for number in range(work.shape[0]):
            at = number * group
            peak = widen(peak_between(words, at, at + group))
            if not peak < _INF:
                return False
            scale = peak / _LEVELS6
            if not scale >= _TINY:
                work[number] = _ZERO
                continue
            for _ in range(_TURNS - 1):
                inverse = _ONE / scale
                products, squares = _ZERO, _ZERO
                for j in range(at, at + group, 16):
                    even, odd = columns16(words, j)
                    low, high = nearest6(even * inverse), nearest6(odd * inverse)
                    products += total((even * inverse) * low + (odd * inverse) * high)
                    squares += total(low * low + high * high)
                scale = scale * (products / squares)
            work[number] = scale
            reach = max(reach, abs(min(rne(peak / scale), _LEVELS6)) * scale)
        row_scale = max(reach / _REACH, _TINY) if reach > _ZERO else _ONE
        row_scales[i] = row_scale
        for j in range(turned.shape[0]):
            turned[j] = turned[j] / row_scale
        for number in range(work.shape[0]):
            at = number * group
            first = np.int64(nv_scale(work[number] / row_scale))
            chosen = first
            least_error = _INF
            for move in (0, -1, 1):
                code = min(max(first + np.int64(move), np.int64(0)), _CODES)
                scale = nv_value(_U(code))
                inverse = _ONE / scale if code > 0 else _ZERO
                error = _ZERO
                for j in range(at, at + group, 16):
                    even, odd = columns16(words, j)
                    low = even - integer6(level6(even, scale, inverse), scale)
                    high = odd - integer6(level6(odd, scale, inverse), scale)
                    error += total(low * low + high * high)
                better = error < least_error
                least_error = error if better else least_error
                chosen = code if better else chosen  # no branch: which is better cannot be predicted
            scales[i, number] = np.uint8(chosen)
            scale = nv_value(_U(chosen))
            inverse = _ONE / scale if chosen > 0 else _ZERO
            for j in range(at, at + group, 16):
                even, odd = columns16(words, j)
                low, high = level6(even, scale, inverse) + offset, level6(odd, scale, inverse) + offset
                pack8(plain, j, bits(low + INTEGER), bits(high + INTEGER))
        half = plain.shape[0] // 2
        row = codes[i]
        for j in range(half):
            row[j] = (plain[2 * j] & 15) | (plain[2 * j + 1] & 15) << 4
        for j in range(half // 2):
            low = plain[4 * j] >> 4 | plain[4 * j + 1] >> 4 << 2
            high = plain[4 * j + 2] >> 4 | plain[4 * j + 3] >> 4 << 2
            row[half + j] = low | high << 4
    return True
