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
from .across import LANES, across16, spread16, total16
from .backend import dispatched
from .hadamard import turn
from .jit import kernel, lane
from .lanes import INTEGER, above, at_least, at_most, bits, rne, size_of, widen
from .micro import nv_scale, nv_value
from .peaks import peak_between
from .vectors import columns16, get16, pack8, put16, total

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
_CODES6 = np.int64(126)
_CODES = np.float32(126)
_SIXTEEN = np.float32(16)
_BELOW_TINY = np.nextafter(_TINY, _ZERO)
"""Above it is what is at least :data:`_TINY`, and no NaN."""

_ROWS = 82
"""What :func:`grouped4` keeps for each lane: two tables of levels and of what lies between, and sums."""


def work4(groups: int, size: int, scratch: Scratch) -> NDArray[np.float32]:
    """What :func:`grouped4` needs for itself, for so many groups of a row, each of ``size`` values."""
    return scratch.take((groups + LANES * (size + _ROWS + 1),), np.float32)


@lane
def nearest(x: Any, levels: Any, middles: Any) -> Any:
    """The level nearest to each value, of a rising table of 16 for each lane; halfway the lower one."""
    level = get16(levels, 0)
    for k in range(15):
        level = above(x, get16(middles, LANES * k), get16(levels, LANES * k + LANES), level)
    return level


@lane
def number_of(x: Any, middles: Any) -> Any:
    """How many levels there are below that one."""
    number = above(x, get16(middles, 0), _ONE, _ZERO)
    for k in range(1, 15):
        number = above(x, get16(middles, LANES * k), np.float32(k + 1), number)
    return number


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
            low, high = nearest(even, levels, middles), nearest(odd, levels, middles)
            put16(sums, LANES * k, even * low + odd * high)
            put16(sums, LANES * (8 + k), low * low + high * high)
        products = products + total16(sums, 0)
        squares = squares + total16(sums, 8 * LANES)
    return above(products, _ZERO, scale * (products / squares), _ZERO)


@lane
def to_integers(levels: Any, scale: Any, integers: Any, middles: Any) -> Any:
    """What the levels of a table decode to under the scales of 16 groups, and what lies halfway between."""
    below = scale
    for k in range(16):
        integer = at_most(at_least(rne(scale * levels[k]), -_REACH), _REACH)
        put16(integers, LANES * k, integer)
        if k:
            put16(middles, LANES * (k - 1), (below + integer) * _HALF)
        below = integer


@lane
def lost(lines: Any, size: Any, integers: Any, middles: Any, sums: Any) -> Any:
    """Squared errors of 16 groups."""
    error = get16(lines, 0)
    error = error - error
    for block in range(0, LANES * size, LANES * LANES):
        for k in range(8):
            at = block + 2 * LANES * k
            even, odd = get16(lines, at), get16(lines, at + LANES)
            low, high = even - nearest(even, integers, middles), odd - nearest(odd, integers, middles)
            put16(sums, LANES * k, low * low + high * high)
        error = error + total16(sums, 0)
    return error


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
                for j in range(at, at + group, 16):  # in vectors; counting alone is one by one
                    share = get16(turned, j) * inverse + half
                    put16(turned, j, at_most(at_least(share, _ZERO), last))
                for j in range(at, at + group):
                    counts[_U(turned[j])] += 1
    return True


@dispatched
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
    count = scales.shape[1]
    last = (count - 1) * group
    lines = work[: LANES * group]
    room = work[LANES * group : LANES * (group + _ROWS)]
    group_scales = work[LANES * (group + _ROWS) :]
    plain, between = room[: 16 * LANES], room[16 * LANES : 31 * LANES]
    integers, limits = room[31 * LANES : 47 * LANES], room[47 * LANES : 62 * LANES]
    sums, peaks = room[62 * LANES : 78 * LANES], room[78 * LANES : 79 * LANES]
    firsts, tried, chosen = room[79 * LANES : 80 * LANES], room[80 * LANES : 81 * LANES], room[81 * LANES :]
    spread16(levels, get16(levels, 0), plain)
    spread16(middles, get16(levels, 0), between)
    for i in range(rows.shape[0]):
        turn(rows[i], size, unit, line[0])
        turned, words, row = line[0], bits_of_line[0], codes[i]
        reach = _ZERO
        for begin in range(0, count, LANES):
            first = begin * group
            for g in range(LANES):
                at = min(first + g * group, last)
                peak = widen(peak_between(words, at, at + group))
                if not peak < _INF:
                    return False
                peaks[g] = peak
            for j in range(0, group, LANES):
                across16(words, first + j, group, last + j, lines, LANES * j)
            most_of = get16(peaks, 0)
            scale = most_of / most
            some = scale
            for _ in range(_TURNS - 1):
                scale = refitted(lines, group, scale, plain, between, sums)
            scale = above(some, _BELOW_TINY, scale, _ZERO)
            put16(group_scales, begin, scale)
            for sign in (-_ONE, _ONE):
                level = size_of(nearest(most_of * sign / scale, plain, between))
                put16(peaks, 0, above(scale, _BELOW_TINY, level * scale, _ZERO))
                for g in range(LANES):
                    reach = max(reach, peaks[g])
        row_scale = max(reach / _REACH, _TINY) if reach > _ZERO else _ONE
        row_scales[i] = row_scale
        for j in range(turned.shape[0]):
            turned[j] = turned[j] / row_scale
        for begin in range(0, count, LANES):
            first = begin * group
            for j in range(0, group, LANES):
                across16(words, first + j, group, last + j, lines, LANES * j)
            for g in range(LANES):
                code = np.float32(nv_scale(group_scales[begin + g] / row_scale))
                firsts[g], chosen[g] = code, code
            least_error = get16(lines, 0)
            least_error = least_error - least_error + _INF
            for move in (0, -1, 1):
                for g in range(LANES):
                    tried[g] = min(max(firsts[g] + np.float32(move), _ZERO), _CODES)
                for g in range(LANES):
                    peaks[g] = nv_value(_U(tried[g]))
                to_integers(levels, get16(peaks, 0), integers, limits)
                error = lost(lines, group, integers, limits, sums)
                put16(chosen, 0, above(least_error, error, get16(tried, 0), get16(chosen, 0)))
                least_error = above(least_error, error, error, least_error)
            for g in range(LANES):
                peaks[g] = nv_value(_U(chosen[g]))
            to_integers(levels, get16(peaks, 0), integers, limits)
            for j in range(0, LANES * group, 2 * LANES):
                low = number_of(get16(lines, j), limits)
                high = number_of(get16(lines, j + LANES), limits)
                put16(lines, j // 2, low + high * _SIXTEEN)
            for g in range(min(LANES, count - begin)):
                scales[i, begin + g] = np.uint8(chosen[g])
                at = (begin + g) * group // 2
                for j in range(group // 2):
                    row[at + j] = np.uint8(lines[LANES * j + g])
    return True
