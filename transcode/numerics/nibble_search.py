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
from .lanes import INTEGER, at_most, bits, coarse, fit, fma, quotient, real, store, widen
from .nibbles import LIMIT, LOW, SEARCHED, folded, misfit
from .peaks import all_finite, peak_between, put_peaks32
from .remainders import NOISE, REACH, VALUES, put_pairs, remainders32
from .vectors import (
    columns32,
    first_bit,
    get16,
    last_lane,
    least,
    numbers32,
    put16,
    put32,
    with_first,
    within,
)

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

_ALL_CUT = np.float32(10.7)
"""Under that divisor and larger ones all those are cut off that are not smaller, and lose the more the larger
it is; a stored scale may be off, so only of one that is larger by the part _WIDER that is said."""
_WIDER = np.float32(1 + 2.0**-6)

_MARGIN, _SMALL = np.float32(1 + 2.0**-12), np.float32(2.0**-16)
"""More than the sums of :func:`largest32` and of :func:`.nibbles.misfit`, which rounds shares of up to
16 to float32, can differ: by a part of the error, and by a little where a group is all but exact.
"""


def work(size: int, scratch: Scratch) -> NDArray[np.float32]:
    """What :func:`nibble_scales` needs for itself, for groups of ``size``."""
    return scratch.take((AT_ONCE + size // 2 + _GROUPS * (5 * AT_ONCE + 5) + 1,), np.float32)


@lane
def try32(peak: Any, inverse: Any, first: Any, divisors: Any, units: Any, stored: Any, tried: Any,
          squares: Any, shares: Any, at: Any) -> Any:  # fmt: skip
    """Write the scales ``peak / divisor`` as they will be stored, the first of them as given, their squares
    over that of the first, and how many times ``peak`` is each; all from ``at`` on.

    Args:
        inverse: reciprocal of ``peak``.
        units: reciprocals of the divisors.
    """
    parts = numbers32(divisors, 0)
    own = with_first(store(quotient(peak, parts, numbers32(units, 0)), stored), first)
    unit = _ONE / first
    put32(tried, at, own)
    put32(squares, at, (own * unit) * (own * unit))
    # No division: the scale is but a little off, by the part that this is not one.
    change = own * (parts * inverse)
    put32(shares, at, parts * (_TWO - change))


@lane
def listed(mask: Any, base: Any, numbers: Any, count: Any) -> Any:
    """Append the numbers of the bits of a uint32 that are set, plus ``base``, to ``count`` numbers; returns
    how many there are then.

    The first two are written always, and counted if they are there: how many there are cannot be predicted.
    """
    for _ in range(2):
        numbers[count] = np.float32(base + first_bit(mask))
        count += np.int64(mask != _U(0))
        mask = _U(mask & _U(mask - _U(1)))
    while mask:
        numbers[count] = np.float32(base + first_bit(mask))
        count += 1
        mask = _U(mask & _U(mask - _U(1)))
    return count


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
def bounds32(values: Any, start: Any, stop: Any, inverse: Any, shares: Any, pairs: Any) -> Any:
    """What a group loses at least under 32 scales, in units of each squared; and the part of it that the
    largest values lose under the last one.

    Args:
        inverse: reciprocal of the largest magnitude.
        shares: how many times that is each scale.
        pairs: float32, half as many as there are values, overwritten.
    """
    factor, inverses = VALUES * inverse, shares * inverse
    errors = inverses * _ZERO
    for j in range(start, stop, 64):
        even, odd = columns32(values, j)
        large = _W(put_pairs(even, odd, factor, _CUT, pairs, (j - start) // 2))
        if j + 32 < stop:
            even, odd = columns32(values, j + 32)
            large |= _W(put_pairs(even, odd, factor, _CUT, pairs, (j - start) // 2 + 16)) << _W(32)
        while large:
            errors = largest32(values[j + first_bit(large)], inverses, errors)
            large &= large - _W(1)
    return errors + remainders32(pairs, (stop - start) // 2, shares), last_lane(errors)


@lane
def first_scales(
    values: Any, start: Any, size: Any, stored: Any, divisor: Any, peaks: Any, scales: Any
) -> Any:
    """Write the largest magnitude of each group and the scale that is that over a divisor; returns whether
    all values are finite.
    """
    groups = scales.shape[0]
    if size == 32:
        put_peaks32(values[start : start + groups * size], groups, peaks)
    else:
        for g in range(groups):
            peaks[g] = widen(peak_between(values, start + g * size, start + g * size + size))
    if not all_finite(peaks, groups):
        return False
    plain = groups == _GROUPS
    if plain:
        found = store(get16(peaks, 0) / divisor, stored)
        put16(scales, 0, found)
        plain = not coarse(real(least(found)), stored)
    if not plain:
        for g in range(groups):
            scales[g] = fit(peaks[g], divisor, LIMIT, stored)
    return True


@lane
def squared(x: Any) -> Any:
    """The square of a number."""
    return x * x


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
    others, losses = each[3 * span : 4 * span + 1], each[4 * span + 1 : 5 * span + 1]
    rest = each[5 * span + 1 :]
    peaks, errors, reached = rest[:_GROUPS], rest[_GROUPS : 2 * _GROUPS], rest[2 * _GROUPS : 3 * _GROUPS]
    cuts, inverses = rest[3 * _GROUPS : 4 * _GROUPS], rest[4 * _GROUPS :]
    slack = np.sqrt(np.float32(size)) * NOISE
    for k in range(AT_ONCE):
        units[k] = _ONE / divisors[k]
    for head in range(0, scales.shape[0], _GROUPS):
        groups = min(_GROUPS, scales.shape[0] - head)
        firsts = scales[head : head + groups]
        if not first_scales(values, head * size, size, stored, divisors[0], peaks, firsts):
            return False
        for g in range(groups):
            inverses[g] = _ONE / peaks[g]
        for g in range(groups):
            try32(
                peaks[g], inverses[g], firsts[g], divisors, units, stored, tried, squares, bounds, g * AT_ONCE
            )
        for g in range(groups):
            peak, start, at = peaks[g], (head + g) * size, g * AT_ONCE
            cuts[g] = _ZERO
            if peak >= _SEARCHED:
                square = numbers32(squares, at)
                smallest = tried[at + AT_ONCE - 1]
                if peak < REACH * smallest and not coarse(smallest * _HALF, stored):
                    lost, cut = bounds32(
                        values, start, start + size, inverses[g], numbers32(bounds, at), pairs
                    )
                    put32(bounds, at, lost * square)
                    if divisors[AT_ONCE - 1] >= _ALL_CUT:
                        cuts[g] = cut * squares[at + AT_ONCE - 1] * _NEARLY
                else:  # scales are hard to store: nothing is known
                    put32(bounds, at, square * _ZERO)
        for g in range(groups):
            lost = numbers32(bounds, g * AT_ONCE)
            reached[g] = np.float32(g * AT_ONCE + first_bit(within(lost, least(lost))))
        for g in range(groups):
            start, place = (head + g) * size, np.int64(reached[g])
            errors[g] = misfit(values, start, start + size, _ONE / tried[place]) * squares[place]
        # What may be better than that is listed first, then tried, then compared: each step by itself is not
        # held up by guesses of the processor that come out wrong.
        count = np.int64(0)
        for g in range(groups):
            at = g * AT_ONCE
            if peaks[g] >= _SEARCHED:
                bound = np.sqrt(errors[g]) + slack
                left = within(numbers32(bounds, at), bits(bound * bound * _MARGIN + _SMALL))
                left = _U(left & ~_U(_U(1) << _U(np.int64(reached[g]) - at)))
                count = listed(left, at, others, count)
        for k in range(count):
            number = np.int64(others[k])
            begin = (head + number // AT_ONCE) * size
            losses[k] = misfit(values, begin, begin + size, _ONE / tried[number]) * squares[number]
        for k in range(count):
            again, error = others[k], losses[k]
            of = np.int64(again) // AT_ONCE
            better = error < errors[of] or (error == errors[of] and again < reached[of])
            errors[of] = error if better else errors[of]
            reached[of] = again if better else reached[of]
        for g in range(groups):
            firsts[g] = tried[np.int64(reached[g])] if peaks[g] >= _SEARCHED else firsts[g]
        for k in range(AT_ONCE, divisors.shape[0]):
            lost = max(divisors[0] * _NEARLY - divisors[0] * _MOST / divisors[k], _ZERO)
            cut = divisors[k] > divisors[AT_ONCE - 1] * _WIDER
            for g in range(groups):
                # That is less than the largest values alone lose, unless scales are hard to store.
                hard = coarse(tried[g * AT_ONCE + AT_ONCE - 1] * _HALF, stored)
                if peaks[g] >= _SEARCHED and (
                    hard or max(lost * lost, cuts[g] if cut else _ZERO) < errors[g]
                ):
                    start, unit = (head + g) * size, _ONE / tried[g * AT_ONCE]
                    other = store(peaks[g] / divisors[k], stored)
                    error = misfit(values, start, start + size, _ONE / other) * squared(other * unit)
                    if error < errors[g]:
                        errors[g], firsts[g] = error, other
    return True
