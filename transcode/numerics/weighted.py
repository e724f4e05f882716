"""Searches of scales in which the squared error of each column has a weight of its own.

Weights are float32 ``[K]``, finite and not negative; what they are multiplied by all together changes nothing
(:func:`balanced`). A weight may make any value of a block unimportant, its largest too, so scales are tried
downwards as long as what they cut off does not already weigh more than the least error. Upwards no more than
an octave is of use: under twice a scale that holds all values nothing is nearer, as all its codes but the
largest are those of the smaller one.

Kernels fill scales; codes are those of the plain kernels under them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.scratch import Scratch
from .jit import kernel, lane
from .lanes import (
    INTEGER,
    at_most,
    bits,
    fit,
    fma,
    shr,
    size_of,
    to_step,
    widen,
)
from .micro import nv_floored, nv_scale, nv_value, reciprocal, scale_byte, top_code
from .minifloat import FORMATS
from .nibbles import SEARCHED, fold, try_scales
from .peaks import peak16, peak32, peak_between
from .vectors import (
    first_bit,
    first_lane,
    get16,
    least,
    numbers32,
    only,
    total,
    values16,
    within,
)

__all__ = [
    "balanced",
    "mx_weighted",
    "nibbles_weighted",
    "nibbles_work",
    "nv_factors",
    "nv_weighted",
    "weighted32",
]

_U = np.uint32
_ZERO = np.float32(0)
_ONE = np.float32(1)
_TWO = np.float32(2)
_HALF = np.float32(0.5)
_QUARTER = np.float32(0.25)
_FOUR = np.float32(4)
_INF = np.float32(np.inf)
_E2M1, _E4M3 = FORMATS["e2m1"], FORMATS["e4m3fn"]
_E2M1_MAX = np.float32(_E2M1.max)
_E2M1_NORMAL_BITS, _E2M1_SHIFT = _E2M1.normal_bits, _E2M1.mantissa_shift
_SMALLEST_KEPT = np.float32(_E4M3.smallest_subnormal * _E2M1.smallest_subnormal / 2)
_SCALES = 127
_LANES = 16
_BELOW, _ABOVE = 8, 7
_SUBNORMAL_TOP = 15
"""Up to this code of E4M3 some scales are not twice another one."""

_MOVES = 60
"""So many octaves below the plain scale all of a block is cut off."""

_SEARCHED = np.float32(SEARCHED)
_LIMIT, _MOST = np.float32(7.5), np.float32(8)
_AT_ONCE = 32

Array = NDArray[Any]


def balanced(weights: Array) -> NDArray[np.float32]:
    """Weights times the power of two that brings the largest to 0.5 or above, below 1: sums of errors cannot
    overflow. Exact but where a weight is 2**100 times less than another.
    """
    largest = float(weights.max(initial=0))
    _, exponent = np.frexp(largest)
    narrow = np.ldexp(np.asarray(weights, np.float64), -int(exponent)).astype(np.float32)
    narrow.setflags(write=False)
    return narrow


def nv_factors(scratch: Scratch) -> NDArray[np.float32]:
    """What :func:`nv_weighted` needs for itself."""
    return scratch.take((2 * (_SCALES + _LANES),), np.float32)


@kernel
def nv_weighted(values: Any, shared: Any, both: bool, weights: Any, factors: Any, scales: Any) -> bool:
    """E4M3 scales of blocks of 16, as :func:`.micro.nv` has them, with the least weighted squared error.

    Of several that have it the plain one, else the least. All scales count, not only those about the plain
    one.

    Args:
        values, shared: see :func:`.micro.nv`; n a multiple of K.
        both: try only the plain one and the one that maps the peak to 4 instead of 6.
        weights: float32 ``[K]``, K a multiple of 16.
        factors: see :func:`nv_factors`.
        scales: uint8 ``[n / 16]``, written: E4M3.

    Returns:
        Whether all values were finite; otherwise the output is incomplete.
    """
    smallest_kept = shared * _SMALLEST_KEPT
    inverses = factors[: _SCALES + _LANES]
    squares = factors[_SCALES + _LANES :]
    for k in range(_SCALES + _LANES):
        value = nv_value(_U(k if k < _SCALES else _SCALES - 1))
        inverses[k] = _ONE / (shared * value)
        squares[k] = value * value
    columns = weights.shape[0]
    for b in range(scales.shape[0]):
        start = b * 16
        column = start % columns
        peak = widen(peak16(values, start))
        if not peak < _INF:
            return False
        first = np.int64(nv_floored(nv_scale((peak / _E2M1_MAX) / shared), peak, smallest_kept))
        if first == 0:
            scales[b] = 0
            continue
        low = max(first - _BELOW, np.int64(1))
        high = min(max(first + _ABOVE, np.int64(_SUBNORMAL_TOP)), np.int64(_SCALES - 1))
        open_lanes = _U(_U(1 << (high - low + 1)) - _U(1))
        if both:
            other = np.int64(nv_floored(nv_scale((peak / _FOUR) / shared), peak, smallest_kept))
            open_lanes = _U(_U(1 << (first - low)) | _U(1 << (other - low)))
        chosen = first
        best = _U(0xFFFFFFFF)
        while True:
            inverse = get16(inverses, low)
            sums = inverse * _ZERO
            cut = sums
            for k in range(16):
                size = size_of(widen(values[start + k]))
                weight = weights[column + k]
                share = inverse * size
                held = at_most(share, _E2M1_MAX)
                gap = share - to_step(held, _E2M1_NORMAL_BITS, _E2M1_SHIFT)
                beyond = share - held
                sums = fma(gap * weight, gap, sums)
                cut = fma(beyond * weight, beyond, cut)
            square = get16(squares, low)
            errors = only(sums * square, open_lanes)
            lowest = least(errors)
            if lowest < best:
                best = lowest
                lanes = within(errors, lowest)
                plain = _U(first - low)
                held_plain = first >= low and first < low + _LANES and shr(lanes, plain) & _U(1) == _U(1)
                chosen = first if held_plain else low + first_bit(lanes)
            if both or low == 1 or bits(first_lane(cut * square)) >= best:
                break
            step = min(low - 1, np.int64(_LANES))
            low -= step
            open_lanes = _U(_U(1 << step) - _U(1))
        scales[b] = np.uint8(chosen)
    return True


@kernel
def mx_weighted(
    values: Any, mode: int, largest: Any, emax: Any, normal_bits: Any, mantissa_shift: Any,
    weights: Any, scales: Any,
) -> bool:  # fmt: skip
    """E8M0 scales of blocks of 32 with the least weighted squared error.

    Of several that have it the plain one, else the largest below that, else the one above.

    Args:
        values, mode, largest, emax, normal_bits, mantissa_shift, scales: see :func:`.micro.mx_search`; n a
            multiple of K.
        weights: float32 ``[K]``, K a multiple of 32.

    Returns:
        Whether all values were finite; otherwise the output is incomplete.
    """
    columns = weights.shape[0]
    for b in range(scales.shape[0]):
        start = b * 32
        column = start % columns
        peak = widen(peak32(values, start))
        if not peak < _INF:
            return False
        first = np.int64(scale_byte(peak, mode, largest, emax, mantissa_shift))
        inverse = reciprocal(_U(first))
        x, y = size_of(values16(values, start) * inverse), size_of(values16(values, start + 16) * inverse)
        v, w = get16(weights, column), get16(weights, column + 16)
        chosen = first
        least_error = _INF
        factor, unit = _ONE, _ONE  # errors are in units of the square of the plain scale
        for move in range(min(first, np.int64(_MOVES)) + 1):
            a, c = x * factor, y * factor
            held_a, held_c = at_most(a, largest), at_most(c, largest)
            near_a = a - to_step(held_a, normal_bits, mantissa_shift)
            near_c = c - to_step(held_c, normal_bits, mantissa_shift)
            error = total(near_a * v * near_a + near_c * w * near_c) * unit
            if error < least_error:
                least_error, chosen = error, first - move
            over_a, over_c = a - held_a, c - held_c
            if total(over_a * v * over_a + over_c * w * over_c) * unit >= least_error:
                break
            factor, unit = factor * _TWO, unit * _QUARTER
        if first < top_code(emax):
            a, c = x * _HALF, y * _HALF
            near_a = a - to_step(at_most(a, largest), normal_bits, mantissa_shift)
            near_c = c - to_step(at_most(c, largest), normal_bits, mantissa_shift)
            error = total(near_a * v * near_a + near_c * w * near_c) * _FOUR
            if error < least_error:
                chosen = first + 1
        scales[b] = np.uint8(chosen)
    return True


def nibbles_work(size: int, divisors: int, scratch: Scratch) -> NDArray[np.float32]:
    """What :func:`nibbles_weighted` needs for itself, for groups of ``size`` and so many divisors."""
    return scratch.take((2 * size + 3 * divisors,), np.float32)


@lane
def weighted32(sizes: Any, limits: Any, count: Any, weights: Any, column: Any, inverses: Any, at: Any) -> Any:
    """Weighted squared errors of a group under 32 scales, in units of each squared; see
    :func:`.nibbles.misfit`.
    """
    inverse = numbers32(inverses, at)
    sums = inverse * _ZERO
    for j in range(count):
        code = at_most(fma(inverse, sizes[j], INTEGER), limits[j]) - INTEGER
        left = fma(inverse, -sizes[j], code)
        sums = fma(left * weights[column + j], left, sums)
    return sums


@kernel
def nibbles_weighted(
    values: Any, size: int, stored: int, divisors: Any, weights: Any, work: Any, scales: Any
) -> bool:
    """Scales of groups for codes from -8 to 7: ``amax`` over the first of the divisors with the least
    weighted squared error.

    Args:
        values, size, stored, scales: see :func:`.nibbles.nibbles`; n * size a multiple of K.
        divisors: float32, a multiple of 32 of them, rising; the first is 7.
        weights: float32 ``[K]``, K a multiple of the size.
        work: see :func:`nibbles_work`.

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
        column = start % columns
        peak = widen(peak_between(values, start, start + size))
        if not peak < _INF:
            return False
        first = fit(peak, divisors[0], _LIMIT, stored)
        scales[number] = first
        if peak < _SEARCHED:
            continue
        unit = _ONE / first
        try_scales(peak, first, divisors, stored, tried, inverses, squares)
        fold(values, start, start + size, sizes, limits)
        best = _U(0xFFFFFFFF)
        for at in range(0, count, _AT_ONCE):
            errors = weighted32(sizes, limits, size, weights, column, inverses, at) * numbers32(squares, at)
            lowest = least(errors)
            if lowest < best:
                best = lowest
                scales[number] = tried[at + first_bit(within(errors, lowest))]
            reach = _MOST * tried[at + _AT_ONCE - 1]
            cut = _ZERO
            for j in range(size):
                over = max(sizes[j] - reach, _ZERO) * unit
                cut += over * weights[column + j] * over
            if bits(cut) >= best:
                break
    return True
