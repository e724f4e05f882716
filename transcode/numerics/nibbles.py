"""Kernel of symmetric 4-bit integers: the scale of each group that loses least, and the packed codes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.scratch import Scratch
from .jit import kernel, lane
from .lanes import (
    INTEGER,
    at_least,
    at_most,
    bits,
    fit,
    fma,
    gentle,
    larger,
    quotient,
    real,
    rne,
    shr,
    store,
    widen,
)
from .vectors import columns32, first_bit, least, numbers32, pack4, peak16, total, values16, within

__all__ = ["HIGH", "LOW", "SEARCHED", "nibble_codes", "nibbles", "work"]

LOW, HIGH = -8.0, 7.0
"""The codes."""

SEARCHED = 2.0**-56
"""Groups whose largest magnitude is smaller keep the first scale: reciprocals of others may be infinite."""

_LOW, _HIGH = np.float32(LOW), np.float32(HIGH)
_LIMIT = np.float32(HIGH + 0.5)
_SEARCHED = np.float32(SEARCHED)
_ONE = np.float32(1)
_INF = np.float32(np.inf)
_U = np.uint32
_AT_ONCE = 32
_RAISED_HIGH = _U(np.float32(INTEGER + _HIGH).view(_U))
_MOST = np.float32(-LOW)
_MARGIN, _NOISE = np.float32(1 + 2.0**-12), np.float32(2.0**-16)
"""More than the sums of :func:`misfits32` and of :func:`misfit`, which rounds shares of up to 16 to float32,
can differ: by a part of the error, and by a little where a group is all but exact.
"""


def work(size: int, divisors: int, scratch: Scratch) -> NDArray[np.float32]:
    """What :func:`nibbles` needs for itself, for groups of ``size`` and so many divisors."""
    return scratch.take((2 * size + 3 * divisors,), np.float32)


@lane
def gap(x: Any, inverse: Any) -> Any:
    """How far quotients lie from their codes; a product with the reciprocal will do, as this only judges."""
    share = x * inverse
    return share - rne(at_most(at_least(share, _LOW), _HIGH))


@lane
def misfits(values: Any, start: Any, stop: Any, first: Any, second: Any, third: Any) -> Any:
    """Squared errors of a group under three scales, each in units of its scale squared; float32.

    The scales are given by their reciprocals. Sixteen sums side by side, then halves added to halves: one
    order on every machine.
    """
    x = values16(values, start)
    a, b, c = gap(x, first), gap(x, second), gap(x, third)
    a, b, c = a * a, b * b, c * c
    for j in range(start + 16, stop, 16):
        x = values16(values, j)
        u, v, w = gap(x, first), gap(x, second), gap(x, third)
        a, b, c = a + u * u, b + v * v, c + w * w
    return total(a), total(b), total(c)


@lane
def misfit(values: Any, start: Any, stop: Any, inverse: Any) -> Any:
    """The same under one scale."""
    a = gap(values16(values, start), inverse)
    a = a * a
    for j in range(start + 16, stop, 16):
        u = gap(values16(values, j), inverse)
        a = a + u * u
    return total(a)


@lane
def try_scales(
    peak: Any, first: Any, divisors: Any, stored: Any, tried: Any, inverses: Any, squares: Any
) -> Any:
    """Write the scales ``peak / divisor`` as they will be stored, the first of them as given, their
    reciprocals, and their squares over that of the first.
    """
    if stored == 1:  # one loop for each dtype: with a choice inside they are not vectorised
        for k in range(divisors.shape[0]):
            tried[k] = store(peak / divisors[k], 1)
    elif stored == 2:
        for k in range(divisors.shape[0]):
            tried[k] = store(peak / divisors[k], 2)
    else:
        for k in range(divisors.shape[0]):
            tried[k] = store(peak / divisors[k], 0)
    tried[0] = first
    unit = _ONE / first
    for k in range(divisors.shape[0]):
        inverses[k] = _ONE / tried[k]
        squares[k] = (tried[k] * unit) * (tried[k] * unit)


@lane
def fold(values: Any, start: Any, stop: Any, sizes: Any, limits: Any) -> Any:
    """Write the magnitudes of a group, and the largest code of each value's sign.

    Limits are raised by what rounds to integers: a step of its last place is one.
    """
    for j in range(stop - start):
        x = bits(widen(values[start + j]))
        sizes[j] = real(_U(x & _U(0x7FFFFFFF)))
        limits[j] = real(_U(_RAISED_HIGH + shr(x, _U(31))))


@lane
def misfits32(sizes: Any, limits: Any, count: Any, inverses: Any, at: Any) -> Any:
    """Squared errors of a group under 32 scales, which are given by their reciprocals: float32 vector.

    About those of :func:`misfits`: the order of sums is another, and products are not rounded. A lane is a
    scale, so nothing has to be added up over lanes.
    """
    inverse = numbers32(inverses, at)
    less = INTEGER - at_most(fma(inverse, sizes[0], INTEGER), limits[0])
    left = fma(inverse, sizes[0], less)
    sums = left * left
    for j in range(1, count):
        less = INTEGER - at_most(fma(inverse, sizes[j], INTEGER), limits[j])
        left = fma(inverse, sizes[j], less)
        sums = fma(left, left, sums)
    return sums


@lane
def code_group(values: Any, start: Any, stop: Any, scale: Any, quick: Any, codes: Any) -> Any:
    """Write the codes of a group, two in a byte."""
    inverse = _ONE / scale
    for j in range(start, stop, 32):
        even, odd = columns32(values, j)
        if quick:
            low, high = quotient(even, scale, inverse), quotient(odd, scale, inverse)
        else:
            low, high = even / scale, odd / scale
        low = at_most(at_least(low, _LOW), _HIGH) + INTEGER
        high = at_most(at_least(high, _LOW), _HIGH) + INTEGER
        pack4(codes, j // 2, bits(low), bits(high))


@kernel
def nibbles(values: Any, size: int, stored: int, divisors: Any, work: Any, codes: Any, scales: Any) -> bool:
    """``code = clamp(rne(x / scale), -8, 7)``, two in a byte, the first in the low nibble.

    The scale is ``amax`` over one of ``divisors``: the first of those with the least squared error, each as
    it will be stored.

    Args:
        values: bits ``[n * size]``, size a multiple of 32, see :func:`.lanes.widen`.
        size: values of a group.
        stored: dtype of the stored scale, :data:`.lanes.STORED`.
        divisors: float32, as many as are a multiple of 3; the first is 7, under which nothing saturates. Of
            more than 32, the first 32 are tried at once, and those that may be the best then one by one.
        work: see :func:`work`.
        codes: uint8 ``[n * size / 2]``, written.
        scales: float32 ``[n]``, written; holds values of the stored dtype.

    Returns:
        Whether all values were finite; otherwise the outputs are incomplete.
    """
    sizes, limits = work[:size], work[size : 2 * size]
    tried = work[2 * size : 2 * size + divisors.shape[0]]
    inverses = work[2 * size + divisors.shape[0] : 2 * size + 2 * divisors.shape[0]]
    weights = work[2 * size + 2 * divisors.shape[0] :]
    for number in range(scales.shape[0]):
        # Places, not views: a view is counted, which takes longer than what is done with it.
        start = number * size
        stop = start + size
        highest = values.dtype.type(0)
        for j in range(start, stop, 16):
            highest = larger(highest, peak16(values, j))
        peak = widen(highest)
        if not peak < _INF:
            return False
        first = fit(peak, divisors[0], _LIMIT, stored)
        scale = first
        if peak >= _SEARCHED and divisors.shape[0] > _AT_ONCE:
            unit = _ONE / first
            try_scales(peak, first, divisors, stored, tried, inverses, weights)
            fold(values, start, stop, sizes, limits)
            errors = misfits32(sizes, limits, size, inverses, 0) * numbers32(weights, 0)
            bound = real(least(errors)) * _MARGIN + _NOISE
            left = within(errors, bits(bound))
            least_error = _INF
            while left:
                k = first_bit(left)
                left = _U(left & _U(left - _U(1)))
                error = misfit(values, start, stop, inverses[k]) * weights[k]
                if error < least_error:
                    least_error, scale = error, tried[k]
            for k in range(_AT_ONCE, divisors.shape[0]):
                lost = peak * unit - _MOST * (tried[k] * unit)  # of the largest value alone
                if lost <= np.float32(0) or lost * lost < bound:
                    error = misfit(values, start, stop, inverses[k]) * weights[k]
                    if error < least_error:
                        least_error, scale = error, tried[k]
        elif peak >= _SEARCHED:
            unit = _ONE / first
            least_error = _INF
            for k in range(0, divisors.shape[0], 3):
                a = first if k == 0 else store(peak / divisors[k], stored)
                b = store(peak / divisors[k + 1], stored)
                c = store(peak / divisors[k + 2], stored)
                first_error, second_error, third_error = misfits(
                    values, start, stop, _ONE / a, _ONE / b, _ONE / c
                )
                for other, error in ((a, first_error), (b, second_error), (c, third_error)):
                    share = other * unit
                    error = error * (share * share)
                    better = error < least_error
                    least_error = error if better else least_error
                    scale = other if better else scale  # no branch: which is better cannot be predicted
        scales[number] = scale
        code_group(values, start, stop, scale, gentle(scale, stored), codes)
    return True


@kernel
def nibble_codes(values: Any, size: int, stored: int, codes: Any, scales: Any) -> None:
    """The codes of :func:`nibbles` under scales that are there already.

    Args:
        values, size, stored, codes: see :func:`nibbles`; all values are finite.
        scales: float32 ``[n]``, values of the stored dtype, of either sign.
    """
    for number in range(scales.shape[0]):
        scale = scales[number]
        quick = gentle(abs(scale), stored)
        code_group(values, number * size, (number + 1) * size, scale, quick, codes)
