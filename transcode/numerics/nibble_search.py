"""Kernel that searches the scale of symmetric 4-bit integers: of 32 and more, the one that loses least.

All are judged at once by a bound of what they lose at least, see :mod:`.remainders`; the largest values,
which scales may cut off, count what they lose. Mostly one or two scales are left whose bound is below what
the most promising one is known to lose, and only those are tried. So the choice is that of all scales tried.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.scratch import Scratch
from .jit import kernel, lane
from .lanes import INTEGER, at_most, bits, coarse, fit, fma, quotient, store, widen
from .nibbles import LIMIT, LOW, SEARCHED, folded, misfit
from .peaks import peak_between
from .remainders import NOISE, REACH, VALUES, put_pairs, remainders32
from .vectors import columns32, first_bit, least, numbers32, put32, within

__all__ = ["AT_ONCE", "nibble_scales", "work"]

AT_ONCE = 32
"""Scales whose bounds are found at once."""

_U, _W = np.uint32, np.uint64
_ZERO = np.float32(0)
_ONE = np.float32(1)
_TWO, _HALF, _NEARLY = np.float32(2), np.float32(0.5), np.float32(0.98)
_INF = np.float32(np.inf)
_MOST = np.float32(-LOW)
_SEARCHED = np.float32(SEARCHED)
_GROUPS = 16
"""Groups that go through each step together: one after the other, each would wait for its own results."""

_CUT = _U(int(0.8 * VALUES))
"""Smaller values are cut off by scales only that lose much more with the largest ones."""

_MARGIN, _SMALL = np.float32(1 + 2.0**-12), np.float32(2.0**-16)
"""More than the sums of :func:`largest32` and of :func:`.nibbles.misfit`, which rounds shares of up to
16 to float32, can differ: by a part of the error, and by a little where a group is all but exact.
"""


def work(size: int, scratch: Scratch) -> NDArray[np.float32]:
    """What :func:`nibble_scales` needs for itself, for groups of ``size``."""
    return scratch.take((AT_ONCE + size // 2 + _GROUPS * (3 * AT_ONCE + 3),), np.float32)


@lane
def try32(
    peak: Any,
    first: Any,
    divisors: Any,
    units: Any,
    stored: Any,
    tried: Any,
    squares: Any,
    shares: Any,
    at: Any,
) -> Any:
    """Write the scales ``peak / divisor`` as they will be stored, the first of them as given, their squares
    over that of the first, and how many times ``peak`` is each; the last two from ``at`` on.

    Args:
        units: reciprocals of the divisors.
        tried: a view of 32: places counted from a number that may be negative, as far as the compiler knows,
            are scattered one by one (AVX-512).
    """
    if stored == 1:  # one loop for each dtype: with a choice inside they are not vectorised
        for k in range(AT_ONCE):
            tried[k] = store(quotient(peak, divisors[k], units[k]), 1)
    elif stored == 2:
        for k in range(AT_ONCE):
            tried[k] = store(quotient(peak, divisors[k], units[k]), 2)
    else:
        for k in range(AT_ONCE):
            tried[k] = store(quotient(peak, divisors[k], units[k]), 0)
    tried[0] = first
    own, parts = numbers32(tried, 0), numbers32(divisors, 0)
    unit, inverse = _ONE / first, _ONE / peak
    put32(squares, at, (own * unit) * (own * unit))
    # No division: the scale is but a little off, by the part that this is not one.
    change = own * (parts * inverse)
    put32(shares, at, parts * (_TWO - change))


@lane
def largest32(value: Any, inverse: Any, errors: Any) -> Any:
    """Errors to which the squared error of a value is added, in units of each of 32 scales squared.

    Args:
        value: bits.
        inverse: reciprocals of the scales.
    """
    size, limit = folded(value)
    code = at_most(fma(inverse, size, INTEGER), limit) - INTEGER
    left = fma(inverse, -size, code)
    return fma(left, left, errors)


@lane
def bounds32(values: Any, start: Any, stop: Any, peak: Any, shares: Any, pairs: Any) -> Any:
    """What a group loses at least under 32 scales, in units of each squared.

    Args:
        shares: how many times ``peak`` is each scale.
        pairs: float32, half as many as there are values, overwritten.
    """
    factor, inverse = VALUES / peak, shares * (_ONE / peak)
    errors = inverse * _ZERO
    for j in range(start, stop, 64):
        even, odd = columns32(values, j)
        large = _W(put_pairs(even, odd, factor, _CUT, pairs, (j - start) // 2))
        if j + 32 < stop:
            even, odd = columns32(values, j + 32)
            large |= _W(put_pairs(even, odd, factor, _CUT, pairs, (j - start) // 2 + 16)) << _W(32)
        while large:
            errors = largest32(values[j + first_bit(large)], inverse, errors)
            large &= large - _W(1)
    return errors + remainders32(pairs, (stop - start) // 2, shares)


@kernel
def nibble_scales(values: Any, size: int, stored: int, divisors: Any, work: Any, scales: Any) -> bool:
    """Scales of groups for codes from -8 to 7: ``amax`` over the first of the divisors with the least squared
    error, each as it will be stored.

    Args:
        values, size, stored, scales: see :func:`.nibbles.nibbles`.
        divisors: float32, 32 or more, rising; the first is 7.
        work: see :func:`work`.

    Returns:
        Whether all values were finite; otherwise the output is incomplete.
    """
    units, pairs = work[:AT_ONCE], work[AT_ONCE : AT_ONCE + size // 2]
    each = work[AT_ONCE + size // 2 :]
    span = _GROUPS * AT_ONCE
    tried, squares, bounds = each[:span], each[span : 2 * span], each[2 * span : 3 * span]
    peaks = each[3 * span : 3 * span + _GROUPS]
    errors = each[3 * span + _GROUPS : 3 * span + 2 * _GROUPS]
    reached = each[3 * span + 2 * _GROUPS : 3 * span + 3 * _GROUPS]
    slack = np.sqrt(np.float32(size)) * NOISE
    for k in range(AT_ONCE):
        units[k] = _ONE / divisors[k]
    for head in range(0, scales.shape[0], _GROUPS):
        groups = min(_GROUPS, scales.shape[0] - head)
        for g in range(groups):
            start = (head + g) * size
            peak = widen(peak_between(values, start, start + size))
            if not peak < _INF:
                return False
            peaks[g] = peak
            scales[head + g] = fit(peak, divisors[0], LIMIT, stored)
        for g in range(groups):
            at = g * AT_ONCE
            try32(
                peaks[g], scales[head + g], divisors, units, stored,
                tried[at : at + AT_ONCE], squares, bounds, at,
            )  # fmt: skip
        for g in range(groups):
            peak, start, at = peaks[g], (head + g) * size, g * AT_ONCE
            if peak >= _SEARCHED:
                square = numbers32(squares, at)
                smallest = tried[at + AT_ONCE - 1]
                if peak < REACH * smallest and not coarse(smallest * _HALF, stored):
                    lost = bounds32(values, start, start + size, peak, numbers32(bounds, at), pairs)
                    put32(bounds, at, lost * square)
                else:  # scales are hard to store: nothing is known
                    put32(bounds, at, square * _ZERO)
        for g in range(groups):
            lost = numbers32(bounds, g * AT_ONCE)
            reached[g] = np.float32(first_bit(within(lost, least(lost))))
        for g in range(groups):
            start, place = (head + g) * size, g * AT_ONCE + np.int64(reached[g])
            errors[g] = misfit(values, start, start + size, _ONE / tried[place]) * squares[place]
        for g in range(groups):
            peak, start, at = peaks[g], (head + g) * size, g * AT_ONCE
            if peak < _SEARCHED:
                continue
            least_error, chosen = errors[g], np.int64(reached[g])
            scale = tried[at + chosen]
            bound = np.sqrt(least_error) + slack
            left = within(numbers32(bounds, at), bits(bound * bound * _MARGIN + _SMALL))
            left = _U(left & ~_U(_U(1) << _U(chosen)))
            while left:
                k = first_bit(left)
                left = _U(left & _U(left - _U(1)))
                error = misfit(values, start, start + size, _ONE / tried[at + k]) * squares[at + k]
                if error < least_error or (error == least_error and k < chosen):
                    least_error, chosen, scale = error, k, tried[at + k]
            for k in range(AT_ONCE, divisors.shape[0]):
                lost = max(divisors[0] * _NEARLY - divisors[0] * _MOST / divisors[k], _ZERO)
                # That is less than the largest value alone loses, unless scales are hard to store.
                if lost * lost < least_error or coarse(tried[at + AT_ONCE - 1] * _HALF, stored):
                    other, unit = store(peak / divisors[k], stored), _ONE / tried[at]
                    error = misfit(values, start, start + size, _ONE / other)
                    error = error * ((other * unit) * (other * unit))
                    if error < least_error:
                        least_error, scale = error, other
            scales[head + g] = scale
    return True
