"""Searches of scales and numbers of code books, as the reference quantizers have them (``ggml-quants.c``), to
the bit.

Sixteen groups of 16 or 32 values lie side by side in ``work``, float32 ``[6912]``: values, weights and codes
as for :mod:`.searches`, and behind them what :func:`.books.book` is searched with. A book's row is 8 or 4
values of a group, whose signs are stored beside its number.

The reference tries scales, rounds the values of a row under each, and where the book does not hold the row of
codes, takes of its neighbours the one of least error. That error is a sum of one term to each value. The
sums over all that half a row may be are made before, for sixteen groups at once, so that a neighbour costs
one addition. Two halves added are rounded otherwise than the terms one by one: where the least two are not
farther apart than that, all are added as the reference does.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..jit import kernel, lane
from ..lanes import at_least, at_most, bits, size_of
from .lanes import unfit
from .searches import L, S, W, X, squares, weighed
from .wide import above, byte, fill, get16, put16, root, rounded

__all__ = ["ROOM", "search_eights", "search_fours"]

_F = np.float32
_I = np.int32
_W = np.uint64
_ZERO = np.float32(0)
_ONE = np.float32(1)
_HALF = np.float32(0.5)
_MOST = np.float32(3.4028235e38)

_ROOTS, _BEST, _TERMS, _HALVES = 2048, 2560, 3072, 3584
_NUMBERS, _SIGNS, _HELD, _BEST_HELD = 6400, 6528, 6656, 6784
ROOM = 6912
"""Floats of the work space."""

_UNSURE = 9
"""Bits at the end of a sum that are not relied on, and in which its place in a list stands meanwhile."""


@lane
def away(work: Any, size: Any, even: Any) -> Any:
    """Take signs off values, and leave them from ``_SIGNS`` on, eight values to a number.

    Args:
        even: an even number of eight are to be negative, of which seven signs are kept: where it is odd, the
            value that counts least is given the other sign.
    """
    for k in range(size // 8):
        signs = size_of(get16(work, X + 128 * k) * _ZERO)
        bit = _ONE
        for i in range(8 * k, 8 * k + 8):
            x = get16(work, X + 16 * i)
            signs = signs + above(_ZERO, x, bit, _ZERO)
            put16(work, X + 16 * i, size_of(x))
            bit = bit * _F(2)
        put16(work, _SIGNS + 16 * k, signs)
        for group in range(16 if even else 0):
            evened(work, 128 * k + group, _SIGNS + 16 * k + group)


@lane
def evened(work: Any, at: Any, signs: Any) -> Any:
    """Give the value of eight that counts least the other sign, if an odd number is negative."""
    negative = _I(work[signs])
    odd = negative ^ (negative >> 4)
    odd ^= odd >> 2
    if ((odd >> 1) ^ odd) & 1:
        which, least = 0, work[W + at] * work[X + at] * work[X + at]
        for i in range(1, 8):
            x = work[X + at + 16 * i]
            weighted = work[W + at + 16 * i] * x * x
            if weighted < least:
                which, least = i, weighted
        work[X + at + 16 * which] = -work[X + at + 16 * which]
        negative ^= 1 << which
    work[signs] = _F(negative & 127)


@lane
def tops(work: Any, size: Any) -> Any:
    """The largest values of groups."""
    top = get16(work, X)
    for i in range(1, size):
        x = get16(work, X + 16 * i)
        top = above(x, top, x, top)
    return top


@lane
def first_scales(work: Any, size: Any, largest: Any) -> Any:
    """``make_qp_quants``: the scales of groups under which codes up to the largest have the least error.

    Codes are held in bytes there, also those below 0 that values have whose sign was turned.
    """
    top = tops(work, size)
    zero = size_of(top * _ZERO)
    top = above(top, zero, top, zero)
    factor = largest / top
    scale = _ONE / factor
    best = zero
    for i in range(size):
        x, w = get16(work, X + 16 * i), get16(work, W + 16 * i)
        miss = x - scale * byte(rounded(factor * x))
        best = best + w * miss * miss
    for step in range(-4, 5):
        if step != 0:
            tried = (_F(0.1) * _F(step) + largest) / top
            scale = _ONE / tried
            error = zero
            for i in range(size):
                x, w = get16(work, X + 16 * i), get16(work, W + 16 * i)
                miss = x - scale * at_most(rounded(tried * x), largest)
                error = error + w * miss * miss
            factor = above(best, error, tried, factor)
            best = above(best, error, error, best)
    sum_xl, sum_l2 = zero, zero
    for i in range(size):
        x, w = get16(work, X + 16 * i), get16(work, W + 16 * i)
        code = at_most(rounded(factor * x), largest)
        put16(work, L + 16 * i, byte(code))
        sum_xl = sum_xl + w * x * code
        sum_l2 = sum_l2 + w * code * code
    for _ in range(5):
        for i in range(size):
            x, w, code = get16(work, X + 16 * i), get16(work, W + 16 * i), get16(work, L + 16 * i)
            rest_xl = sum_xl - w * x * code
            rest_l2 = sum_l2 - w * code * code
            new = at_most(rounded(x * rest_l2 / rest_xl), largest)
            new_xl, new_l2 = rest_xl + w * x * new, rest_l2 + w * new * new
            better = above(new_xl * new_xl * sum_l2, sum_xl * sum_xl * new_l2, _ONE, zero)
            better = above(rest_xl, _ZERO, above(rest_l2, _ZERO, better, zero), zero)
            better = above(size_of(new - code), _HALF, better, zero)
            put16(work, L + 16 * i, above(better, _HALF, byte(new), code))
            sum_xl = above(better, _HALF, new_xl, sum_xl)
            sum_l2 = above(better, _HALF, new_l2, sum_l2)
    return above(sum_l2, _ZERO, sum_xl / sum_l2, zero)


@lane
def halved(work: Any, first: Any, width: Any, levels: Any, scale: Any) -> Any:
    """The terms that the values of a row add to its error under each code, and the sums of half of them.

    Args:
        first: number of the row's first value.
    """
    half = width // 2
    for side in range(2):
        start = _HALVES + 16 * side * levels**half
        made = 1
        for j in range(half):
            value = first + half * side + j
            x, weight = get16(work, X + 16 * value), get16(work, _ROOTS + 16 * value)
            for back in range(levels):
                code = levels - 1 - back  # the sums that 0 is added to are those that the others are made of
                miss = scale * _F(2 * code + 1) - x
                term = weight * miss * miss
                put16(work, _TERMS + 16 * ((half * side + j) * levels + code), term)
                for i in range(made):
                    total = term + get16(work, start + 16 * i) if j else term
                    put16(work, start + 16 * (code * made + i), total)
            made *= levels


@lane
def exactly(work: Any, group: Any, width: Any, levels: Any, start: Any, stop: Any, book: Any) -> Any:
    """Of the neighbours of a row the first of least error, added one by one."""
    near, codes = book[2], book[4]
    best, number = _MOST, near[start]
    for e in range(start, stop):
        error = _ZERO
        for j in range(width):
            error += work[_TERMS + 16 * (levels * j + codes[near[e], j]) + group]
        if error < best:
            best, number = error, near[e]
    return number


@lane
def nearest_of(work: Any, group: Any, width: Any, levels: Any, row: Any, book: Any) -> Any:
    """Of the neighbours of a row the first of least error."""
    _, starts, near, halves, _ = book
    start, stop = _W(starts[row]), _W(starts[row + 1])
    low, high = _W(_HALVES + group), _W(_HALVES + 16 * levels ** (width // 2) + group)
    first, second = np.uint32(0xFFFFFFFF), np.uint32(0xFFFFFFFF)
    for e in range(start, stop):
        error = bits(work[low + _W(halves[e, 0])] + work[high + _W(halves[e, 1])])
        key = np.uint32((error >> np.uint32(_UNSURE) << np.uint32(_UNSURE)) | np.uint32(e - start))
        second = min(second, max(first, key))
        first = min(first, key)
    if (second >> np.uint32(_UNSURE)) - (first >> np.uint32(_UNSURE)) > np.uint32(1):
        return near[start + _W(first & np.uint32((1 << _UNSURE) - 1))]
    return exactly(work, group, width, levels, start, stop, book)


@lane
def coded(work: Any, size: Any, width: Any, levels: Any, factor: Any, scale: Any, book: Any) -> Any:
    """The codes of all rows under a scale, such as the book has them, and whether it had them before."""
    found, codes = book[0], book[4]
    for k in range(size // width):
        row = factor * _ZERO
        digit = 1
        for j in range(width):
            at = 16 * (width * k + j)
            code = rounded(_HALF * (factor * get16(work, X + at) - _ONE))
            code = at_most(at_least(code, _ZERO), _F(levels - 1))
            put16(work, L + at, code)
            row = row + code * _F(digit) if j else code
            digit *= levels
        put16(work, _NUMBERS + 16 * k, row)
        halved(work, width * k, width, levels, scale)
        for group in range(16):
            row = _I(work[_NUMBERS + 16 * k + group])
            work[_HELD + 16 * k + group] = _ONE if found[row] >= 0 else _ZERO
            if found[row] < 0:
                number = nearest_of(work, group, width, levels, row, book)
                for j in range(width):
                    work[L + 16 * (width * k + j) + group] = _F(codes[number, j])


@lane
def sums(work: Any, at: Any, size: Any) -> Any:
    """Of values times what codes mean, and of the latter's squares, under weights."""
    zero = size_of(get16(work, X) * _ZERO)
    sum_qx, sum_q2 = zero, zero
    for i in range(size):
        w, q = get16(work, W + 16 * i), _F(2) * get16(work, at + 16 * i) + _ONE
        sum_qx = sum_qx + w * get16(work, X + 16 * i) * q
        sum_q2 = sum_q2 + w * q * q
    return sum_qx, sum_q2


@lane
def searched(
    work: Any, size: Any, width: Any, levels: Any, top: Any, scale: Any, last: Any, delta: Any, held: Any,
    again: Any, book: Any,
) -> Any:  # fmt: skip
    """The scale of each group, left from ``S`` on, and the number of each row, from ``_NUMBERS`` on.

    Args:
        width, levels: of the rows of the book.
        top: by what the largest code's value is divided to begin with.
        scale: where no scale is better than none.
        last: scales are tried so many steps below and above.
        delta: of a step.
        held: whether rows count as held by the book before any scale is tried.
        again: which rows are rounded once more under the scale that is best: 0 those that the book did not
            hold, 1 all of groups that had such, 2 all.
    """
    zero = size_of(top * _ZERO)
    for i in range(size):
        put16(work, _ROOTS + 16 * i, root(get16(work, W + 16 * i)))
        put16(work, _BEST + 16 * i, zero)
    for k in range(size // width):
        put16(work, _BEST_HELD + 16 * k, zero + _F(held))
    best = zero
    for step in range(2 * last + 2):
        tried = (_F(2 * levels - 1) + _F(step - last) * delta) / top
        factor = tried if step <= 2 * last else _ONE / scale
        coded(work, size, width, levels, factor, _ONE / factor if step <= 2 * last else scale, book)
        if step <= 2 * last:
            sum_qx, sum_q2 = sums(work, L, size)
            better = above(sum_qx * sum_qx, best * sum_q2, above(sum_q2, _ZERO, _ONE, zero), zero)
            scale = above(better, _HALF, sum_qx / sum_q2, scale)
            best = above(better, _HALF, scale * sum_qx, best)
            for i in range(size):
                at = 16 * i
                put16(work, _BEST + at, above(better, _HALF, get16(work, L + at), get16(work, _BEST + at)))
            for k in range(size // width):
                at = 16 * k
                new, old = get16(work, _HELD + at), get16(work, _BEST_HELD + at)
                put16(work, _BEST_HELD + at, above(better, _HALF, new, old))
    left = zero
    for k in range(size // width):
        left = left + (_ONE - get16(work, _BEST_HELD + 16 * k))
    some = above(scale, _ZERO, _ONE, zero)
    if again != 2:
        some = some * above(left, _HALF, _ONE, zero)
    for k in range(size // width):
        anew = some * (_ONE - get16(work, _BEST_HELD + 16 * k)) if again == 0 else some
        row = zero
        digit = 1
        for j in range(width):
            at = 16 * (width * k + j)
            code = above(anew, _HALF, get16(work, L + at), get16(work, _BEST + at))
            put16(work, _BEST + at, code)
            row = row + code * _F(digit)
            digit *= levels
        put16(work, _NUMBERS + 16 * k, row)
    sum_qx, sum_q2 = sums(work, _BEST, size)
    put16(work, S, above(some * sum_q2, _ZERO, sum_qx / sum_q2, scale))
    found = book[0]
    for k in range(size // width):
        for group in range(16):
            at = _NUMBERS + 16 * k + group
            work[at] = _F(found[_I(work[at])])


@lane
def settled(work: Any, size: Any, width: Any, alive: Any, all_signs: Any) -> Any:
    """Nothing of groups without a scale; no scale below 0, for which all signs are turned."""
    scale = get16(work, S)
    below = above(_ZERO, scale, _ONE, _ZERO)
    put16(work, S, above(alive, _HALF, scale * (_ONE - _F(2) * below), _ZERO))
    for k in range(size // width):
        at = _NUMBERS + 16 * k
        put16(work, at, above(alive, _HALF, get16(work, at), _ZERO))
    for k in range(size // 8):
        at = _SIGNS + 16 * k
        signs = get16(work, at)
        signs = above(below, _HALF, all_signs - signs, signs)
        put16(work, at, above(alive, _HALF, signs, _ZERO))


@kernel
def search_eights(
    values: Any, weights: Any, sigmas: Any, work: Any, found: Any, starts: Any, near: Any, halves: Any,
    codes: Any, size: Any, even: Any, least: Any, last: Any, delta: Any, held: Any, again: Any, scales: Any,
    numbers: Any, signs: Any,
) -> Any:  # fmt: skip
    """Of books with rows of eight values, which have three codes; see :func:`search`."""
    book = (found, starts, near, halves, codes)
    how = (size, even, least, last, delta, held, again)
    return search(values, weights, sigmas, work, book, 8, 3, how, scales, numbers, signs)


@kernel
def search_fours(
    values: Any, weights: Any, sigmas: Any, work: Any, found: Any, starts: Any, near: Any, halves: Any,
    codes: Any, size: Any, even: Any, least: Any, last: Any, delta: Any, held: Any, again: Any, scales: Any,
    numbers: Any, signs: Any,
) -> Any:  # fmt: skip
    """Of books with rows of four values, which have eight codes; see :func:`search`."""
    book = (found, starts, near, halves, codes)
    how = (size, even, least, last, delta, held, again)
    return search(values, weights, sigmas, work, book, 4, 8, how, scales, numbers, signs)


@lane
def search(
    values: Any, weights: Any, sigmas: Any, work: Any, book: Any, width: Any, levels: Any, how: Any,
    scales: Any, numbers: Any, signs: Any,
) -> Any:  # fmt: skip
    """Scales, numbers of the book and signs of all groups.

    Args:
        values: float32 ``[n, 256]``.
        weights, sigmas: see :func:`.searches.weighed`; without weights, ``[0, 256]``, squares weigh.
        work: float32 ``[6912]``, written.
        book: the fields of :class:`.books.Book`.
        width, levels: values of its rows, and how many codes there are.
        how: the fields of :class:`.books.How` but the first and the number of codes. Groups whose largest
            value is below ``least`` have no scale. With ``again`` 2 the scales that are tried are those near
            :func:`first_scales`, else those near the largest value; see :func:`searched`.
        scales: float32 ``[groups]``, written: 0 where all is 0.
        numbers: int16 ``[groups, rows]``, written.
        signs: uint8 ``[groups, size / 8]``, written.

    Returns:
        -1, or the first row of values that no block holds.
    """
    size, even, least, last, delta, held, again = how
    inner = 256 // size
    for first in range(0, scales.shape[0], 16):
        row = first // inner
        bad = unfit(values, row, 16 // inner)
        if bad >= 0:
            return bad
        if weights.shape[0] > 0:
            weighed(work, values, weights, sigmas, row, inner, size, True)
        else:
            fill(work, values, row, inner, size)
            squares(work, size)
        away(work, size, even)
        top = tops(work, size)
        alive = above(least, top, _ZERO, _ONE)
        scale = top / _F(2 * levels - 1)
        if again == 2:
            scale = first_scales(work, size, _F(levels + 1))
            alive = above(scale, _ZERO, alive, _ZERO)
            top = scale * _F(levels)
        searched(work, size, width, levels, top, scale, last, delta, held, again, book)
        settled(work, size, width, alive, _F(127) if even else _F(255))
        for group in range(min(16, scales.shape[0] - first)):
            scales[first + group] = work[S + group]
            for k in range(size // width):
                numbers[first + group, k] = np.int16(work[_NUMBERS + 16 * k + group])
            for k in range(size // 8):
                signs[first + group, k] = np.uint8(_I(work[_SIGNS + 16 * k + group]))
    return -1
