"""Searches of the scales of 4-bit integers beyond the plain ones: of either sign, or with a zero point.

Of the codes -8 to 7 one is left over on the negative side. A scale below zero turns it to the other one,
where the largest value of a group may be. A zero point moves the codes to where the values are; there the
range is cut at both ends alike. In both cases a last step takes the scale that suits the codes best, by least
squares, and keeps it if it loses less once values are rounded anew.

The squared error of each column has a weight, see :mod:`.weighted`; without weights all are 1.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.scratch import Scratch
from .jit import kernel, lane
from .lanes import (
    INTEGER,
    above,
    at_least,
    at_most,
    beyond,
    bits,
    coarse,
    disorder,
    fit,
    fma,
    gentle,
    order,
    quotient,
    rne,
    store,
    widen,
)
from .nibbles import HIGH, LOW, SEARCHED, fold, try_scales
from .peaks import peak_between
from .vectors import columns32, first_bit, get16, least, numbers32, pack4, total, values16, within
from .weighted import weighted32

__all__ = ["SHARES", "SIGNED", "signed_scales", "zeroed_codes", "zeroed_scales", "zeroed_work"]

SIGNED = (*(7 + k / 8 for k in range(24)), *(10 + k / 2 for k in range(8)))
"""What ``amax`` is divided by to try a scale, of either sign."""

SHARES = tuple(1 - k / 32 for k in range(16))
"""What the range of a group is multiplied by to try a scale with a zero point."""

_U = np.uint32
_ZERO = np.float32(0)
_ONE = np.float32(1)
_INF = np.float32(np.inf)
_LOW, _HIGH = np.float32(LOW), np.float32(HIGH)
_LIMIT = np.float32(HIGH + 0.5)
_SEARCHED = np.float32(SEARCHED)
_SPAN, _BEYOND_SPAN = np.float32(15), np.float32(15.5)
_LIMIT_LOW, _LIMIT_HIGH = np.float32(INTEGER + _HIGH), np.float32(INTEGER - _LOW)
_AT_ONCE = 32
_LANES = 16


def zeroed_work(scratch: Scratch) -> NDArray[np.float32]:
    """What :func:`zeroed_scales` needs for itself."""
    return scratch.take((4 * _LANES,), np.float32)


@lane
def near(share: Any, low: Any, high: Any) -> Any:
    """The integer from ``low`` to ``high`` that is nearest."""
    return rne(at_most(at_least(share, low), high))


@lane
def misfit(
    values: Any, start: Any, stop: Any, inverse: Any, low: Any, high: Any, weights: Any, column: Any
) -> Any:
    """Weighted squared error of a group in units of its scale squared, whose reciprocal it is given by."""
    gap = values16(values, start) * inverse
    gap = gap - near(gap, low, high)
    sums = gap * get16(weights, column) * gap
    for j in range(start + 16, stop, 16):
        gap = values16(values, j) * inverse
        gap = gap - near(gap, low, high)
        sums = fma(gap * get16(weights, column + j - start), gap, sums)
    return total(sums)


@lane
def refitted(
    values: Any,
    start: Any,
    stop: Any,
    inverse: Any,
    low: Any,
    high: Any,
    weights: Any,
    column: Any,
    unit: Any,
) -> Any:
    """The scale, over that of which ``unit`` is the reciprocal, under which the codes of a scale lose least:
    ``sum(w q x) / sum(w q**2)``; 0 where all codes are.
    """
    x = values16(values, start)
    code = near(x * inverse, low, high)
    heavy = code * get16(weights, column)
    above_line, below_line = heavy * (x * unit), heavy * code
    for j in range(start + 16, stop, 16):
        x = values16(values, j)
        code = near(x * inverse, low, high)
        heavy = code * get16(weights, column + j - start)
        above_line, below_line = fma(heavy, x * unit, above_line), fma(heavy, code, below_line)
    squares = total(below_line)
    return total(above_line) / squares if squares > _ZERO else _ZERO


@kernel
def signed_scales(
    values: Any, size: int, stored: int, divisors: Any, weights: Any, work: Any, scales: Any
) -> bool:
    """Scales of groups for codes from -8 to 7, of either sign, with the least weighted squared error.

    Tried are ``amax`` over each divisor, positive and negative; the first of those that lose least is then
    fitted to its codes, which is kept if it loses less.

    Args:
        values, size, stored, scales: see :func:`.nibbles.nibbles`; n * size a multiple of K.
        divisors: float32, a multiple of 32 of them, rising; the first is 7.
        weights: float32 ``[K]``, K a multiple of the size.
        work: see :func:`.weighted.nibbles_work`.

    Returns:
        Whether all values were finite; otherwise the output is incomplete.
    """
    count = divisors.shape[0]
    sizes, limits = work[:size], work[size : 2 * size]
    tried = work[2 * size : 2 * size + count]
    inverses = work[2 * size + count : 2 * size + 2 * count]
    squares = work[2 * size + 2 * count :]
    columns = weights.shape[0]
    for number in range(scales.shape[0]):
        start = number * size
        stop = start + size
        column = start % columns
        peak = widen(peak_between(values, start, stop))
        if not peak < _INF:
            return False
        first = fit(peak, divisors[0], _LIMIT, stored)
        scales[number] = first
        if peak < _SEARCHED:
            continue
        unit = _ONE / first
        try_scales(peak, first, divisors, stored, tried, inverses, squares)
        fold(values, start, stop, sizes, limits)
        best = _U(0xFFFFFFFF)
        scale = first
        for side in range(2):
            for at in range(0, count, _AT_ONCE):
                errors = weighted32(sizes, limits, size, weights, column, inverses, at)
                errors = errors * numbers32(squares, at)
                lowest = least(errors)
                if lowest < best:
                    best = lowest
                    scale = tried[at + first_bit(within(errors, lowest))]
                    scale = -scale if side == 1 else scale
            for j in range(size):  # the other sign has the other largest codes
                limits[j] = _LIMIT_HIGH if limits[j] == _LIMIT_LOW else _LIMIT_LOW
        inverse = _ONE / scale
        share = refitted(values, start, stop, inverse, _LOW, _HIGH, weights, column, unit)
        scales[number] = scale
        fitted = store(abs(share) * first, stored)
        fitted = -fitted if share < _ZERO else fitted
        if share == _ZERO or fitted == scale:
            continue
        error = misfit(values, start, stop, inverse, _LOW, _HIGH, weights, column)
        other = misfit(values, start, stop, _ONE / fitted, _LOW, _HIGH, weights, column)
        one, two = scale * unit, fitted * unit
        if other * (two * two) < error * (one * one):
            scales[number] = fitted
    return True


@kernel
def zeroed_scales(
    values: Any, size: int, stored: int, shares: Any, weights: Any, work: Any, scales: Any, zeros: Any
) -> bool:
    """Scales and zero points of groups for codes from -8 to 7 with the least weighted squared error.

    Tried are those of the whole range, which includes 0, times each share; the first of those that lose least
    is then fitted to its codes, with its zero point and with those above and below.

    Args:
        values, size, stored, scales: see :func:`.nibbles.nibbles`; n * size a multiple of K.
        shares: float32 ``[16]``, the first 1.
        weights: float32 ``[K]``, K a multiple of the size.
        work: see :func:`zeroed_work`.
        zeros: int8, shaped as ``scales``, written.

    Returns:
        Whether all values were finite; otherwise the outputs are incomplete.
    """
    inverses, squares = work[:_LANES], work[_LANES : 2 * _LANES]
    lows, tried = work[2 * _LANES : 3 * _LANES], work[3 * _LANES :]
    columns = weights.shape[0]
    for number in range(scales.shape[0]):
        start = number * size
        stop = start + size
        column = start % columns
        least_key = order(values.dtype.type(0))
        most_key = least_key
        for j in range(start, stop):
            key = order(values[j])
            least_key = key if key < least_key else least_key
            most_key = key if key > most_key else most_key
        lowest, highest = widen(disorder(least_key, values[start])), widen(disorder(most_key, values[start]))
        if not (highest < _INF and lowest > -_INF):
            return False
        reach = highest - lowest
        if reach == _ZERO:
            scales[number], zeros[number] = _ONE, 0
            continue
        # As integer.with_zero has them.
        first = store(reach / _SPAN if reach < _INF else highest / _SPAN - lowest / _SPAN, stored)
        if coarse(first, stored) and reach / first > _BEYOND_SPAN:
            first = beyond(first, stored)
        zero = rne(min(max(_LOW - lowest / first, _LOW), _HIGH))
        scales[number], zeros[number] = first, np.int8(zero)
        if reach < _SEARCHED or reach == _INF:
            continue
        unit = _ONE / first
        for k in range(_LANES):
            tried[k] = first if k == 0 else store(reach * shares[k] / _SPAN, stored)
            inverses[k] = _ONE / tried[k]
            squares[k] = (tried[k] * unit) * (tried[k] * unit)
            lows[k] = _LOW - rne(min(max(_LOW - lowest * shares[k] * inverses[k], _LOW), _HIGH))
        lows[0] = _LOW - zero
        inverse, low = get16(inverses, 0), get16(lows, 0)
        high = low + _SPAN
        sums = inverse * _ZERO
        for j in range(size):
            share = inverse * widen(values[start + j])
            held = above(share, low, share, low)
            gap = share - rne(above(held, high, high, held))
            sums = fma(gap * weights[column + j], gap, sums)
        errors = sums * get16(squares, 0)
        k = first_bit(within(errors, least(errors)))
        scale, bottom = tried[k], lows[k]
        relative = scale * unit
        least_error = misfit(
            values, start, stop, inverses[k], bottom, bottom + _SPAN, weights, column
        ) * (relative * relative)  # fmt: skip
        best_scale, best_bottom = scale, bottom
        for move in range(-1, 2):
            moved = min(max(bottom + np.float32(move), -_SPAN), _ZERO)
            share = refitted(
                values, start, stop, inverses[k], moved, moved + _SPAN, weights, column, unit
            )  # fmt: skip
            if share > _ZERO:
                fitted = store(share * first, stored)
                relative = fitted * unit
                error = misfit(
                    values, start, stop, _ONE / fitted, moved, moved + _SPAN, weights, column
                ) * (relative * relative)  # fmt: skip
                if error < least_error:
                    least_error, best_scale, best_bottom = error, fitted, moved
        scales[number], zeros[number] = best_scale, np.int8(_LOW - best_bottom)
    return True


@kernel
def zeroed_codes(values: Any, size: int, stored: int, codes: Any, scales: Any, zeros: Any) -> None:
    """``code = clamp(rne(x / scale) + zero, -8, 7)``, two in a byte, the first in the low nibble.

    Args:
        values, size, stored, codes: see :func:`.nibbles.nibbles`; all values are finite.
        scales, zeros: float32, values of the stored dtype, and int8, ``[n]``.
    """
    for number in range(scales.shape[0]):
        scale, zero = scales[number], np.float32(zeros[number])
        quick = gentle(scale, stored)
        inverse = _ONE / scale
        low, high = _LOW - zero, _HIGH - zero
        for j in range(number * size, (number + 1) * size, 32):
            even, odd = columns32(values, j)
            if quick:
                even, odd = quotient(even, scale, inverse), quotient(odd, scale, inverse)
            else:
                even, odd = even / scale, odd / scale
            even, odd = near(even, low, high) + zero + INTEGER, near(odd, low, high) + zero + INTEGER
            pack4(codes, j // 2, bits(even), bits(odd))
