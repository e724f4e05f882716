"""Kernel of symmetric 4-bit integers: the scale of each group that loses least, and the packed codes."""

from __future__ import annotations

from typing import Any

import numpy as np

from .jit import kernel, lane
from .lanes import (
    INTEGER,
    at_least,
    at_most,
    bits,
    fit,
    gentle,
    quotient,
    real,
    rne,
    shr,
    store,
    widen,
)
from .peaks import peak_between
from .vectors import columns32, pack4, total, values16

__all__ = [
    "HIGH",
    "LIMIT",
    "LOW",
    "SEARCHED",
    "fold",
    "folded",
    "misfit",
    "nibble_codes",
    "nibbles",
    "try_scales",
]

LOW, HIGH = -8.0, 7.0
"""The codes."""

SEARCHED = 2.0**-56
"""Groups whose largest magnitude is smaller keep the first scale: reciprocals of others may be infinite."""

LIMIT = np.float32(HIGH + 0.5)
"""From there on a quotient is cut off."""

_LOW, _HIGH = np.float32(LOW), np.float32(HIGH)
_SEARCHED = np.float32(SEARCHED)
_ONE = np.float32(1)
_INF = np.float32(np.inf)
_U = np.uint32
_RAISED_HIGH = _U(np.float32(INTEGER + _HIGH).view(_U))


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
def folded(value: Any) -> Any:
    """The magnitude of a value, which is given as bits, and the largest code of its sign.

    Limits are raised by what rounds to integers: a step of its last place is one.
    """
    x = bits(widen(value))
    return real(_U(x & _U(0x7FFFFFFF))), real(_U(_RAISED_HIGH + shr(x, _U(31))))


@lane
def fold(values: Any, start: Any, stop: Any, sizes: Any, limits: Any) -> Any:
    """Write :func:`folded` of all of a group."""
    for j in range(stop - start):
        sizes[j], limits[j] = folded(values[start + j])


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
def nibbles(values: Any, size: int, stored: int, divisors: Any, codes: Any, scales: Any) -> bool:
    """``code = clamp(rne(x / scale), -8, 7)``, two in a byte, the first in the low nibble.

    The scale is ``amax`` over one of ``divisors``: the first of those with the least squared error, each as
    it will be stored.

    Args:
        values: bits ``[n * size]``, size a multiple of 32, see :func:`.lanes.widen`.
        size: values of a group.
        stored: dtype of the stored scale, :data:`.lanes.STORED`.
        divisors: float32, as many as are a multiple of 3; the first is 7, under which nothing saturates.
        codes: uint8 ``[n * size / 2]``, written.
        scales: float32 ``[n]``, written; holds values of the stored dtype.

    Returns:
        Whether all values were finite; otherwise the outputs are incomplete.
    """
    for number in range(scales.shape[0]):
        # Places, not views: a view is counted, which takes longer than what is done with it.
        start = number * size
        stop = start + size
        peak = widen(peak_between(values, start, stop))
        if not peak < _INF:
            return False
        first = fit(peak, divisors[0], LIMIT, stored)
        scale = first
        if peak >= _SEARCHED:
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
