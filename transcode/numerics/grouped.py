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
from .across import LANES, across16, back_nibbles, padded, peaks16, total16
from .backend import dispatched
from .e4m3 import e4m3_code
from .hadamard import turn
from .jit import kernel, lane
from .lanes import above, at_least, at_most, real, rne, size_of, widen
from .micro import nv_value
from .peaks import greatest, peak_between
from .vectors import get16, put16
from .whole import byte16, ceil, put_numbers16

__all__ = ["BINS", "grouped4", "histogram", "work4"]

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
_FITS = 2
_CODES = 126
_HALVES, _MIDDLE = 512, 256
_LOWEST, _HIGHEST = np.float32(-_MIDDLE), np.float32(_HALVES - _MIDDLE - 1)
_TWO = np.float32(2)
_BELOW_TINY = np.nextafter(_TINY, _ZERO)
"""Above it is what is at least :data:`_TINY`, and no NaN."""


def work4(
    groups: int, size: int, scratch: Scratch
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]:
    """What :func:`grouped4` needs for itself, for so many groups of a row, each of ``size`` values."""
    return (
        scratch.take((padded(groups) * (size + 1) + 17 * LANES,), np.float32),
        scratch.take(((_CODES + 1) * _HALVES,), np.uint32),
        scratch.take((LANES * (size + 1),), np.uint32),
        scratch.take((LANES * size,), np.uint32),
    )


@lane
def nearest(even: Any, odd: Any, levels: Any, middles: Any) -> Any:
    """The levels nearest to two vectors of values, of a rising table of 16; halfway the lower one."""
    low, high = above(even, middles[0], levels[1], levels[0]), above(odd, middles[0], levels[1], levels[0])
    for k in range(1, 15):
        low = above(even, middles[k], levels[k + 1], low)
        high = above(odd, middles[k], levels[k + 1], high)
    return low, high


@lane
def refitted(lines: Any, size: Any, scale: Any, levels: Any, middles: Any, sums: Any) -> Any:
    """Scales of least squares for the levels that are nearest under the scales of 16 groups; 0 for none."""
    inverse = _ONE / scale
    products = scale - scale
    squares = products
    for block in range(0, LANES * size, LANES * LANES):
        for k in range(8):
            at = block + 2 * LANES * k
            even, odd = get16(lines, at) * inverse, get16(lines, at + LANES) * inverse
            low, high = nearest(even, odd, levels, middles)
            put16(sums, LANES * k, even * low + odd * high)
            put16(sums, LANES * (8 + k), low * low + high * high)
        products = products + total16(sums, 0)
        squares = squares + total16(sums, 8 * LANES)
    return above(products, _ZERO, scale * (products / squares), _ZERO)


@lane
def fill_table(levels: Any, integers: Any, table: Any) -> Any:
    """Write what values become under each E4M3 scale, by halves: what lies halfway between two integers is a
    multiple of one.

    Args:
        levels: see :func:`grouped4`.
        integers: float32 ``[16]``, overwritten.
        table: uint32 ``[TABLE]``, written: for each code a row, in which ``2 * value``, rounded up, is at
            :data:`_MIDDLE`. The lowest byte is the integer of the nearest level under the scale of the
            code, the next two are those under the scale before it and the one behind it, and the highest the
            number of the level. Halfway the lower level is the nearest.
    """
    for code in range(_CODES + 1):
        scale = nv_value(_U(code))
        for k in range(16):
            integers[k] = min(max(rne(scale * levels[k]), -_REACH), _REACH)
        start, k = code * _HALVES, 0
        for at in range(_HALVES):
            while k < 15 and np.float32(at - _MIDDLE) > integers[k] + integers[k + 1]:
                k += 1
            table[start + at] = _U(_U(np.uint8(np.int8(integers[k]))) | _U(_U(k) << _U(24)))
    for code in range(_CODES + 1):
        before, behind = max(code - 1, 0) * _HALVES, min(code + 1, _CODES) * _HALVES
        for at in range(_HALVES):
            beside = _U(_U(table[before + at] & _U(255)) << _U(8)) | _U(
                _U(table[behind + at] & _U(255)) << _U(16)
            )
            table[code * _HALVES + at] |= _U(beside)


@lane
def lost(lines: Any, size: Any, words: Any, which: Any, sums: Any) -> Any:
    """Squared errors of 16 groups, of the integers in one byte of the words of :func:`fill_table`."""
    error = get16(lines, 0)
    error = error - error
    for block in range(0, LANES * size, LANES * LANES):
        for k in range(8):
            at = block + 2 * LANES * k
            low = get16(lines, at) - byte16(words, at, which)
            high = get16(lines, at + LANES) - byte16(words, at + LANES, which)
            put16(sums, LANES * k, low * low + high * high)
        error = error + total16(sums, 0)
    return error


@kernel
def histogram(
    rows: Any, size: int, unit: Any, line: Any, bits_of_line: Any, group: int, places: Any, counts: Any
) -> bool:
    """Count the turned values of groups, each over the largest magnitude of its group.

    Args:
        rows, size, unit, line: see :func:`.hadamard.rotated_largest`.
        bits_of_line: the memory of ``line`` as uint32.
        group: columns of a group, a multiple of 16; groups of zeros do not count.
        places: uint32 ``[K]``, overwritten.
        counts: int64 ``[BINS + 1]``, added to; the last one is of what does not count.

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
            inverse = half / peak
            low, high = _ZERO, last
            if peak < _TINY:
                inverse, low, high = _ZERO, last + _ONE, last + _ONE
            for j in range(at, at + group, 16):
                share = get16(turned, j) * inverse + half
                put_numbers16(places, j, at_most(at_least(share, low), high))
        for j in range(turned.shape[0]):
            counts[places[j]] += 1
    return True


@dispatched
@kernel
def grouped4(
    rows: Any, size: int, unit: Any, line: Any, bits_of_line: Any, group: int, most: Any,
    levels: Any, middles: Any, work: Any, table: Any, places: Any, found: Any,
    codes: Any, scales: Any, row_scales: Any,
) -> bool:  # fmt: skip
    """Codes of 4 bits, two in a byte, the even column in the low nibble.

    Args:
        rows, size, unit, line, bits_of_line, group: see :func:`histogram`.
        most: what the largest magnitude of a group is divided by for the first scale: the largest level.
        levels: float32 ``[16]``, rising.
        middles: float32 ``[15]``: halfway between.
        work, table, places, found: see :func:`work4`.
        codes: uint8 ``[R, K / 2]``, written: numbers of levels.
        scales: uint8 ``[R, K / group]``, written: E4M3.
        row_scales: float32 ``[R]``, written.

    Returns:
        Whether all turned values were finite; otherwise the outputs are incomplete.
    """
    count = scales.shape[1]
    last = (count - 1) * group
    room = (count + LANES - 1) // LANES * LANES
    values, group_scales = work[: room * group], work[room * group : room * (group + 1)]
    sums, numbers = work[room * (group + 1) :][: 8 * LANES * 2], work[room * (group + 1) + 16 * LANES :]
    fill_table(levels, sums, table)
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
            plain = peak / most
            scale = plain
            for _ in range(_FITS):
                scale = refitted(lines, group, scale, levels, middles, sums)
            scale = above(plain, _BELOW_TINY, scale, _ZERO)
            put16(group_scales, begin, scale)
            share = peak / scale
            lowest, highest = nearest(_ZERO - share, share, levels, middles)
            top = at_least(size_of(lowest), size_of(highest)) * scale
            put16(numbers, 0, above(scale, _BELOW_TINY, top, _ZERO))
            for g in range(LANES):
                reach = max(reach, numbers[g])
        row_scale = max(reach / _REACH, _TINY) if reach > _ZERO else _ONE
        row_scales[i] = row_scale
        for j in range(values.shape[0]):
            values[j] = values[j] / row_scale
        for begin in range(0, count, LANES):
            first = begin * group
            lines = values[first : first + LANES * group]
            code = e4m3_code(get16(group_scales, begin) / row_scale)
            base = code * np.float32(_HALVES) + np.float32(_MIDDLE)
            for at in range(0, LANES * group, LANES):
                halves = at_most(at_least(ceil(get16(lines, at) * _TWO), _LOWEST), _HIGHEST)
                put_numbers16(places, at, base + halves)
            for k in range(LANES * group):
                found[k] = table[places[k]]
            least_error = lost(lines, group, found, 0, sums)
            before = at_least(code - _ONE, _ZERO)
            behind = at_most(code + _ONE, np.float32(_CODES))
            moves = places[LANES * group :]
            chosen = code
            error = lost(lines, group, found, 1, sums)
            chosen = above(least_error, error, before, chosen)
            least_error = above(least_error, error, error, least_error)
            error = lost(lines, group, found, 2, sums)
            chosen = above(least_error, error, behind, chosen)
            put_numbers16(moves, 0, (chosen - code) * np.float32(_HALVES))
            for j in range(0, LANES * group, LANES):
                for g in range(LANES):
                    found[j + g] = table[_U(places[j + g] + moves[g])]
            for at in range(0, LANES * group, LANES):
                put16(lines, at, byte16(found, at, 3))
            for j in range(0, group, LANES):
                back_nibbles(lines, LANES * j, row, (first + j) // 2, group // 2, (last + j) // 2)
            put16(numbers, 0, chosen)
            for g in range(min(LANES, count - begin)):
                scales[i, begin + g] = np.uint8(numbers[g])
    return True
