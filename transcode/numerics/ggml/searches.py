"""Searches of scales, as the reference quantizers have them (``ggml-quants.c``), to the bit.

Sixteen sub-blocks lie side by side in ``work``, float32 ``[2048]``: values from :data:`X`, weights from
:data:`W`, codes from :data:`L` and results from :data:`S` on.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..jit import lane
from ..lanes import at_least, at_most, size_of
from .lanes import whole
from .wide import above, fill, get16, nearest, put16, root

__all__ = [
    "LEAST",
    "MASS",
    "L",
    "S",
    "W",
    "X",
    "affine",
    "mean_weights",
    "peaks",
    "positive",
    "squares",
    "symmetric",
    "symmetric_few",
    "weighed",
]  # fmt: skip

_F = np.float32
_I = np.int32
_U8 = np.uint8
_INF = np.float32(np.inf)
_ZERO = np.float32(0)
_ONE = np.float32(1)

LEAST = np.float32(1e-15)
"""Peaks below it count as 0 (``GROUP_MAX_EPS``)."""

X, W, L, S = 0, 512, 1024, 1536
"""Where in ``work`` values, weights, codes and results of the sixteen sub-blocks begin."""

MASS = S + 64
"""Where :func:`affine` and :func:`symmetric` leave the sums of weights."""

_SIGMA = S + 80


@lane
def squares(work: Any, size: Any) -> Any:
    """Weights that are the squares of values."""
    for i in range(size):
        x = get16(work, X + 16 * i)
        put16(work, W + 16 * i, x * x)


@lane
def weighed(
    work: Any, values: Any, weights: Any, sigmas: Any, first: Any, inner: Any, size: Any, spread: Any
) -> Any:
    """Values, and their weights: that of the column times the root of a mean square plus the own one.

    Args:
        work: written.
        values: float32 ``[n, elements]``.
        weights: float32 ``[blocks of a row, elements]``.
        sigmas: float32 ``[m]``, mean squares; each is that of ``n / m`` blocks.
        first: as for :func:`.wide.fill`, as are ``inner`` and ``size``.
        spread: false for the weights of columns as they are.
    """
    fill(work, values, first, inner, size)
    count = values.shape[0]
    shared = count // sigmas.shape[0]
    for k in range(16):
        block = min(first + k // inner, count - 1)
        row, start = weights[block % weights.shape[0]], (k % inner) * size
        for j in range(size):
            work[W + 16 * j + k] = row[start + j]
        work[_SIGMA + k] = sigmas[block // shared]
    if spread:
        sigma = get16(work, _SIGMA)
        for j in range(size):
            x = get16(work, X + 16 * j)
            put16(work, W + 16 * j, get16(work, W + 16 * j) * root(sigma + x * x))


@lane
def affine(work: Any, size: Any, largest: Any, first: Any, delta: Any, last: Any, absolute: Any) -> Any:
    """``make_qkx2_quants`` and ``make_qkx3_quants``: scales and minima of least weighted error.

    They are tried near those of the range.

    Results stand from ``S`` on, sixteen each: scale, minimum (its negative), and what codes were made with,
    for blocks without a scale: factor and minimum.

    Args:
        work: values from ``_X``, weights from ``_W`` on.
        size: elements of a sub-block.
        largest: largest code, float32.
        first: of the steps by which the range of codes is made larger, float32.
        delta: how much more each step is, float32.
        last: number of the last step.
        absolute: errors are absolute, not squared.
    """
    x, w = get16(work, X), get16(work, W)
    zero = size_of(x * _ZERO)
    low, high, sum_w, sum_x = x, x, w, w * x
    for i in range(1, size):
        x, w = get16(work, X + 16 * i), get16(work, W + 16 * i)
        low = above(low, x, x, low)
        high = above(x, high, x, high)
        sum_w = sum_w + w
        sum_x = sum_x + w * x
    low = above(low, _ZERO, _ZERO, low)
    flat = above(high, low, _ONE, zero)  # 0 where all are one number
    span = above(flat, _ZERO, high - low, _ONE)
    factor = largest / span
    scale = _ONE / factor
    best = zero
    for i in range(size):
        x, w = get16(work, X + 16 * i), get16(work, W + 16 * i)
        code = at_most(at_least(nearest(factor * (x - low)), _ZERO), largest)
        miss = scale * code + low - x
        best = best + w * (size_of(miss) if absolute else miss * miss)
    least, made, from_ = low, factor, low
    for step in range(last + 1):
        factor = (first + delta * _F(step) + largest) / above(flat, _ZERO, high - least, _ONE)
        sum_l, sum_l2, sum_xl = zero, zero, zero
        for i in range(size):
            x, w = get16(work, X + 16 * i), get16(work, W + 16 * i)
            code = at_most(at_least(nearest(factor * (x - least)), _ZERO), largest)
            put16(work, L + 16 * i, code)
            weighted = w * code
            sum_l = sum_l + weighted
            sum_l2 = sum_l2 + weighted * code
            sum_xl = sum_xl + weighted * x
        divisor = sum_w * sum_l2 - sum_l * sum_l
        new_scale = (sum_w * sum_xl - sum_x * sum_l) / divisor
        new_low = (sum_l2 * sum_x - sum_l * sum_xl) / divisor
        new_scale = above(new_low, _ZERO, sum_xl / sum_l2, new_scale)
        new_low = above(new_low, _ZERO, _ZERO, new_low)
        error = zero
        for i in range(size):
            x, w, code = get16(work, X + 16 * i), get16(work, W + 16 * i), get16(work, L + 16 * i)
            miss = new_scale * code + new_low - x
            error = error + w * (size_of(miss) if absolute else miss * miss)
        error = above(divisor, _ZERO, error, _INF)
        made = above(best, error, factor, made)
        from_ = above(best, error, least, from_)
        scale = above(best, error, new_scale, scale)
        least = above(best, error, new_low, least)
        best = above(best, error, error, best)
    put16(work, MASS, sum_w)
    put16(work, S, above(flat, _ZERO, scale, zero))
    put16(work, S + 16, above(flat, _ZERO, least, low) * _F(-1))
    put16(work, S + 32, above(flat, _ZERO, made, zero))
    put16(work, S + 48, from_)


@lane
def mean_weights(work: Any) -> Any:
    """Weights of sub-blocks of 32: magnitudes, and the root of their mean square."""
    x = get16(work, X)
    squares = size_of(x * _ZERO)
    for i in range(32):
        x = get16(work, X + 16 * i)
        squares = squares + x * x
    mean = root(squares / _F(32))
    for i in range(32):
        put16(work, W + 16 * i, mean + size_of(get16(work, X + 16 * i)))


@lane
def peaks(work: Any, size: Any) -> Any:
    """From ``S`` on the first value of the largest magnitude of each sub-block, then that magnitude."""
    x = get16(work, X)
    top = size_of(x * _ZERO)
    peak = top
    for i in range(size):
        x = get16(work, X + 16 * i)
        magnitude = size_of(x)
        top = above(magnitude, peak, x, top)
        peak = above(magnitude, peak, magnitude, peak)
    put16(work, S, top)
    put16(work, S + 16, peak)


@lane
def symmetric(work: Any, size: Any, levels: Any) -> Any:
    """``make_qx_quants``: of scales near that of the peak the one of least weighted error.

    From ``S`` on, sixteen each: scale, peak, and the factor that codes were made with; 0 for sub-blocks
    without a scale. Sums of weights from :data:`MASS` on.

    Args:
        work: values and weights, and results.
        size: elements of a sub-block.
        levels: float32; codes go from its negative to one less.
    """
    peaks(work, size)
    top, peak = get16(work, S), get16(work, S + 16)
    zero = peak * _ZERO
    divisor = above(LEAST, peak, _ONE, top)
    scale, best, made, mass = zero, zero, zero, zero
    for i in range(size):
        w = get16(work, W + 16 * i)
        mass = mass + w
        put16(work, L + 16 * i, w * get16(work, X + 16 * i))
    for step in range(19):
        number = 0 if step == 0 else step - 10 if step < 10 else step - 9
        factor = _F(-1) * (levels + _F(0.1) * _F(number)) / divisor
        sum_xl, sum_l2 = zero, zero
        for i in range(size):
            code = at_most(at_least(nearest(factor * get16(work, X + 16 * i)), -levels), levels - _ONE)
            sum_xl = sum_xl + get16(work, L + 16 * i) * code
            sum_l2 = sum_l2 + get16(work, W + 16 * i) * code * code
        if step == 0:
            scale = above(sum_l2, _ZERO, sum_xl / sum_l2, zero)
            best = scale * sum_xl
            made = factor
        else:
            product, limit = sum_xl * sum_xl, best * sum_l2
            new = sum_xl / sum_l2
            scale, made = above(product, limit, new, scale), above(product, limit, factor, made)
            best = above(product, limit, new * sum_xl, best)
    put16(work, S, above(LEAST, peak, zero, scale))
    put16(work, S + 32, above(LEAST, peak, zero, made))
    put16(work, MASS, mass)


@lane
def symmetric_few(work: Any, at: Any, mass: Any, count: Any, levels: Any, codes: Any) -> Any:
    """As :func:`symmetric` of a few numbers, those in ``work`` from ``at`` on under weights from ``mass`` on.

    Args:
        codes: uint8, written: codes plus ``levels``; 0 without a scale.

    Returns:
        The scale.
    """
    top, peak = _ZERO, _ZERO
    for i in range(count):
        if abs(work[at + i]) > peak:
            top, peak = work[at + i], abs(work[at + i])
    scale, best, made = _ZERO, _ZERO, _ZERO
    if peak >= LEAST:
        for step in range(19):
            number = 0 if step == 0 else step - 10 if step < 10 else step - 9
            factor = _F(-1) * (levels + _F(0.1) * _F(number)) / top
            sum_xl, sum_l2 = _ZERO, _ZERO
            for i in range(count):
                code = min(max(nearest(factor * work[at + i]), -levels), levels - _ONE)
                sum_xl += work[mass + i] * work[at + i] * code
                sum_l2 += work[mass + i] * code * code
            if step == 0:
                scale = sum_xl / sum_l2 if sum_l2 > _ZERO else _ZERO
                best = scale * sum_xl
                made = factor
            elif sum_l2 > _ZERO and sum_xl * sum_xl > best * sum_l2:
                scale = sum_xl / sum_l2
                best = scale * sum_xl
                made = factor
    for i in range(count):
        code = min(max(nearest(made * work[at + i]), -levels), levels - _ONE) + levels
        codes[i] = _U8(_I(code)) if peak >= LEAST else _U8(0)
    return scale


@lane
def positive(work: Any, at: Any, mass: Any, count: Any, largest: Any, codes: Any) -> Any:
    """``make_qp_quants``: the scale and codes of a few numbers that are not negative.

    Args:
        work: numbers from ``at`` on, their weights from ``mass`` on.
        count: of the numbers.
        largest: code, int32.
        codes: uint8, written.

    Returns:
        The scale.
    """
    top = _ZERO
    for i in range(count):
        top = work[at + i] if work[at + i] > top else top
    if top < LEAST:
        for i in range(count):
            codes[i] = _U8(0)
        return _ZERO
    best = _ZERO
    factor = _F(largest) / top
    scale = _ONE / factor
    for i in range(count):
        miss = work[at + i] - scale * _F(_U8(whole(factor * work[at + i])))
        best += work[mass + i] * miss * miss
    for step in range(-4, 5):
        if step != 0:
            tried = (_F(0.1) * _F(step) + _F(largest)) / top
            scale = _ONE / tried
            error = _ZERO
            for i in range(count):
                miss = work[at + i] - scale * _F(min(whole(tried * work[at + i]), largest))
                error += work[mass + i] * miss * miss
            if error < best:
                best, factor = error, tried
    sum_xl, sum_l2 = _ZERO, _ZERO
    for i in range(count):
        code = min(whole(factor * work[at + i]), largest)
        codes[i] = _U8(code)
        sum_xl += work[mass + i] * work[at + i] * _F(code)
        sum_l2 += work[mass + i] * _F(code) * _F(code)
    for _ in range(5):
        changed = False
        for i in range(count):
            w, x, code = work[mass + i], work[at + i], _F(codes[i])
            rest_xl = sum_xl - w * x * code
            rest_l2 = sum_l2 - w * code * code
            if rest_xl > _ZERO and rest_l2 > _ZERO:
                new = min(whole(x * rest_l2 / rest_xl), largest)
                if new != _I(codes[i]):
                    rest_xl += w * x * _F(new)
                    rest_l2 += w * _F(new) * _F(new)
                    if rest_xl * rest_xl * sum_l2 > sum_xl * sum_xl * rest_l2:
                        codes[i] = _U8(new)
                        sum_xl, sum_l2 = rest_xl, rest_l2
                        changed = True
        if not changed:
            break
    return sum_xl / sum_l2 if sum_l2 > _ZERO else _ZERO
