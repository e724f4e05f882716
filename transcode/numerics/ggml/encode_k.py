"""The K types from float32, as the reference quantizers have them (``ggml-quants.c``), to the bit.

Arguments and results as in :mod:`.encode`, and ``work``, float32 ``[2048]``, written.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..jit import kernel, lane
from ..lanes import INTEGER, at_least, at_most, size_of
from .lanes import fits, half, min_k, peak_of, put_half, scale_k
from .wide import above, fill, get16, nearest, put16, root

__all__ = ["MOST", "peaks", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k"]

_F = np.float32
_I = np.int32
_U8 = np.uint8
_INF = np.float32(np.inf)
_ZERO = np.float32(0)
_ONE = np.float32(1)
_LEAST = np.float32(1e-15)
"""Peaks below it count as 0 (``GROUP_MAX_EPS``)."""

MOST = np.float32(2.0**29)
"""No block of any type holds a value as large: its scales, which are F16, times 127 times 32 are less."""

_X, _W, _L, _S = 0, 512, 1024, 1536
"""Where in ``work`` values, weights, codes and results of the sixteen sub-blocks begin."""


@lane
def whole(x: Any) -> Any:
    """``nearest_int`` of one number, as int32."""
    return _I((x + INTEGER) - INTEGER)


@lane
def between(code: Any, low: Any, high: Any) -> Any:
    """An int32 held between two others."""
    code = high if code > high else code
    return low if code < low else code


@lane
def affine(work: Any, size: Any, largest: Any, first: Any, last: Any, absolute: Any) -> Any:
    """``make_qkx2_quants``: of scales and minima near those of the range, the ones of least weighted error.

    Results stand from ``_S`` on, sixteen each: scale, minimum (its negative), and what codes were made with,
    for blocks without a scale: factor and minimum.

    Args:
        work: values from ``_X``, weights from ``_W`` on.
        size: elements of a sub-block.
        largest: largest code, float32.
        first: of the steps by which the range of codes is made larger, float32; each is 0.1 more.
        last: number of the last step.
        absolute: errors are absolute, not squared.
    """
    x, w = get16(work, _X), get16(work, _W)
    zero = size_of(x * _ZERO)
    low, high, sum_w, sum_x = x, x, w, w * x
    for i in range(1, size):
        x, w = get16(work, _X + 16 * i), get16(work, _W + 16 * i)
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
        x, w = get16(work, _X + 16 * i), get16(work, _W + 16 * i)
        code = at_most(at_least(nearest(factor * (x - low)), _ZERO), largest)
        miss = scale * code + low - x
        best = best + w * (size_of(miss) if absolute else miss * miss)
    least, made, from_ = low, factor, low
    for step in range(last + 1):
        factor = (first + _F(0.1) * _F(step) + largest) / above(flat, _ZERO, high - least, _ONE)
        sum_l, sum_l2, sum_xl = zero, zero, zero
        for i in range(size):
            x, w = get16(work, _X + 16 * i), get16(work, _W + 16 * i)
            code = at_most(at_least(nearest(factor * (x - least)), _ZERO), largest)
            put16(work, _L + 16 * i, code)
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
            x, w, code = get16(work, _X + 16 * i), get16(work, _W + 16 * i), get16(work, _L + 16 * i)
            miss = new_scale * code + new_low - x
            error = error + w * (size_of(miss) if absolute else miss * miss)
        error = above(divisor, _ZERO, error, _INF)
        made = above(best, error, factor, made)
        from_ = above(best, error, least, from_)
        scale = above(best, error, new_scale, scale)
        least = above(best, error, new_low, least)
        best = above(best, error, error, best)
    put16(work, _S, above(flat, _ZERO, scale, zero))
    put16(work, _S + 16, above(flat, _ZERO, least, low) * _F(-1))
    put16(work, _S + 32, above(flat, _ZERO, made, zero))
    put16(work, _S + 48, from_)


@lane
def mean_weights(work: Any) -> Any:
    """Weights of sub-blocks of 32: magnitudes, and the root of their mean square."""
    x = get16(work, _X)
    squares = size_of(x * _ZERO)
    for i in range(32):
        x = get16(work, _X + 16 * i)
        squares = squares + x * x
    mean = root(squares / _F(32))
    for i in range(32):
        put16(work, _W + 16 * i, mean + size_of(get16(work, _X + 16 * i)))


@lane
def affine_block(row: Any, block: Any, work: Any, first: Any, largest: Any, codes: Any) -> Any:
    """Scales and minima of eight sub-blocks of 32, and the codes under them, as they are stored.

    Args:
        first: of the eight results in ``work``.
        codes: uint8 ``[256]``, written.

    Returns:
        Whether F16 has the two scales of the block.
    """
    top, top_min = _ZERO, _ZERO
    for j in range(8):
        scale, low = work[_S + first + j], work[_S + 16 + first + j]
        top = scale if scale > top else top
        top_min = low if low > top_min else top_min
    d, dmin = top / _F(63), top_min / _F(63)
    if not (fits(d) and fits(dmin)):
        return False
    inverse = _F(63) / top if top > _ZERO else _ZERO
    inverse_min = _F(63) / top_min if top_min > _ZERO else _ZERO
    put_half(block, 0, d)
    put_half(block, 2, dmin)
    for j in range(8):
        scale = np.uint8(whole(inverse * work[_S + first + j]))
        low = np.uint8(whole(inverse_min * work[_S + 16 + first + j]))
        scale, low = min(scale, _U8(63)), min(low, _U8(63))
        if j < 4:
            block[4 + j] = scale
            block[8 + j] = low
        else:
            block[8 + j] = _U8((scale & 15) | ((low & 15) << 4))
            block[j] |= _U8((scale >> 4) << 6)
            block[4 + j] |= _U8((low >> 4) << 6)
    d, dmin = half(block, 0), half(block, 2)
    most = _I(largest)
    for j in range(8):
        scale, low = d * _F(_I(scale_k(block, 4, j))), dmin * _F(_I(min_k(block, 4, j)))
        if scale != _ZERO:
            for i in range(32):
                codes[32 * j + i] = _U8(between(whole((row[32 * j + i] + low) / scale), _I(0), most))
        else:
            factor, base = work[_S + 32 + first + j], work[_S + 48 + first + j]
            for i in range(32):
                codes[32 * j + i] = _U8(between(whole(factor * (row[32 * j + i] - base)), _I(0), most))
    return True


@kernel
def q4_k(values: Any, blocks: Any, work: Any, codes: Any) -> int:
    """``codes``: uint8 ``[256]``, written."""
    for pair in range(0, values.shape[0], 2):
        for i in range(pair, min(pair + 2, values.shape[0])):
            if not peak_of(values[i], 0, 256) < MOST:
                return i
        fill(work, values, pair, 8, 32)
        mean_weights(work)
        affine(work, 32, _F(15), _F(-1), 20, False)
        for i in range(pair, min(pair + 2, values.shape[0])):
            block = blocks[i]
            if not affine_block(values[i], block, work, 8 * (i - pair), _F(15), codes):
                return i
            for part in range(4):
                for j in range(32):
                    block[16 + 32 * part + j] = _U8(codes[64 * part + j] | (codes[64 * part + 32 + j] << 4))
    return -1


@kernel
def q5_k(values: Any, blocks: Any, work: Any, codes: Any) -> int:
    """``codes``: uint8 ``[256]``, written."""
    for pair in range(0, values.shape[0], 2):
        for i in range(pair, min(pair + 2, values.shape[0])):
            if not peak_of(values[i], 0, 256) < MOST:
                return i
        fill(work, values, pair, 8, 32)
        mean_weights(work)
        affine(work, 32, _F(31), _F(-0.5), 15, False)
        for i in range(pair, min(pair + 2, values.shape[0])):
            block = blocks[i]
            if not affine_block(values[i], block, work, 8 * (i - pair), _F(31), codes):
                return i
            for j in range(32):
                fifth = 0
                for part in range(4):
                    low, high = codes[64 * part + j], codes[64 * part + 32 + j]
                    fifth |= ((low >> 4) << (2 * part)) | ((high >> 4) << (2 * part + 1))
                    block[48 + 32 * part + j] = _U8((low & 15) | ((high & 15) << 4))
                block[16 + j] = _U8(fifth)
    return -1


@lane
def put_twos(block: Any, at: Any, codes: Any) -> Any:
    """Write 256 codes of two bits as Q2_K and Q3_K have them."""
    for part in range(2):
        for j in range(32):
            four = codes[128 * part + j] | (codes[128 * part + 32 + j] << 2)
            four |= (codes[128 * part + 64 + j] << 4) | (codes[128 * part + 96 + j] << 6)
            block[at + 32 * part + j] = _U8(four)


@kernel
def q2_k(values: Any, blocks: Any, work: Any, codes: Any) -> int:
    """``codes``: uint8 ``[256]``, written."""
    for i in range(values.shape[0]):
        row, block = values[i], blocks[i]
        if not peak_of(row, 0, 256) < MOST:
            return i
        fill(work, values, i, 16, 16)
        for j in range(16):
            put16(work, _W + 16 * j, size_of(get16(work, _X + 16 * j)))
        affine(work, 16, _F(3), _F(-0.5), 15, True)
        top, top_min = _ZERO, _ZERO
        for j in range(16):
            scale, low = work[_S + j], work[_S + 16 + j]
            top = scale if scale > top else top
            top_min = low if low > top_min else top_min
        d, dmin = top / _F(15), top_min / _F(15)
        if not (fits(d) and fits(dmin)):
            return i
        inverse = _F(15) / top if top > _ZERO else _ZERO
        inverse_min = _F(15) / top_min if top_min > _ZERO else _ZERO
        put_half(block, 80, d)
        put_half(block, 82, dmin)
        d, dmin = half(block, 80), half(block, 82)
        for j in range(16):
            code = whole(inverse * work[_S + j])
            least = whole(inverse_min * work[_S + 16 + j])
            block[j] = _U8(code) | _U8(least << 4)
            scale, low = d * _F(_I(block[j] & 15)), dmin * _F(_I(block[j] >> 4))
            factor, base = work[_S + 32 + j], work[_S + 48 + j]
            for k in range(16):
                x = row[16 * j + k]
                code = whole((x + low) / scale) if scale != _ZERO else whole(factor * (x - base))
                codes[16 * j + k] = _U8(between(code, _I(0), _I(3)))
        put_twos(block, 16, codes)
    return -1


@lane
def peaks(work: Any, size: Any) -> Any:
    """From ``_S`` on the first value of the largest magnitude of each sub-block, then that magnitude."""
    x = get16(work, _X)
    top = size_of(x * _ZERO)
    peak = top
    for i in range(size):
        x = get16(work, _X + 16 * i)
        magnitude = size_of(x)
        top = above(magnitude, peak, x, top)
        peak = above(magnitude, peak, magnitude, peak)
    put16(work, _S, top)
    put16(work, _S + 16, peak)


@kernel
def q6_k(values: Any, blocks: Any, work: Any, codes: Any) -> int:
    """``make_qx_quants`` with squares as weights; ``codes``: uint8 ``[256]``, written."""
    for n in range(values.shape[0]):
        row, block = values[n], blocks[n]
        if not peak_of(row, 0, 256) < MOST:
            return n
        fill(work, values, n, 16, 16)
        peaks(work, 16)
        top, peak = get16(work, _S), get16(work, _S + 16)
        zero = peak * _ZERO
        divisor = above(_LEAST, peak, _ONE, top)
        scale, best, made = zero, zero, zero
        for i in range(16):
            x = get16(work, _X + 16 * i)
            put16(work, _W + 16 * i, x * x)
            put16(work, _L + 16 * i, x * x * x)
        for step in range(19):
            number = 0 if step == 0 else step - 10 if step < 10 else step - 9
            factor = _F(-1) * (_F(32) + _F(0.1) * _F(number)) / divisor
            sum_xl, sum_l2 = zero, zero
            for i in range(16):
                code = at_most(at_least(nearest(factor * get16(work, _X + 16 * i)), _F(-32)), _F(31))
                sum_xl = sum_xl + get16(work, _L + 16 * i) * code
                sum_l2 = sum_l2 + get16(work, _W + 16 * i) * code * code
            if step == 0:
                scale = above(sum_l2, _ZERO, sum_xl / sum_l2, zero)
                best = scale * sum_xl
                made = factor
            else:
                product, limit = sum_xl * sum_xl, best * sum_l2
                new = sum_xl / sum_l2
                scale, made = above(product, limit, new, scale), above(product, limit, factor, made)
                best = above(product, limit, new * sum_xl, best)
        put16(work, _S, above(_LEAST, peak, zero, scale))
        put16(work, _S + 32, above(_LEAST, peak, zero, made))
        largest, size = _ZERO, _ZERO
        for j in range(16):
            if abs(work[_S + j]) > size:
                largest, size = work[_S + j], abs(work[_S + j])
        if size < _LEAST:
            for j in range(210):
                block[j] = _U8(0)
            continue
        inverse = _F(-128) / largest
        d = _ONE / inverse
        if not fits(d):
            return n
        put_half(block, 208, d)
        d = half(block, 208)
        for j in range(16):
            code = whole(inverse * work[_S + j])
            code = code if code < 127 else _I(127)
            block[192 + j] = _U8(code)
            unit = d * _F(_I(np.int8(code)))
            factor, silent = work[_S + 32 + j], work[_S + 16 + j] < _LEAST
            for k in range(16):
                x = row[16 * j + k]
                code = between(whole(x / unit if unit != _ZERO else factor * x), _I(-32), _I(31)) + _I(32)
                codes[16 * j + k] = _U8(_I(0) if silent and unit == _ZERO else code)
        for part in range(2):
            for j in range(32):
                at = 128 * part + j
                a, b, c, e = codes[at], codes[at + 32], codes[at + 64], codes[at + 96]
                block[64 * part + j] = _U8((a & 15) | ((c & 15) << 4))
                block[64 * part + 32 + j] = _U8((b & 15) | ((e & 15) << 4))
                block[128 + 32 * part + j] = _U8(
                    (a >> 4) | ((b >> 4) << 2) | ((c >> 4) << 4) | ((e >> 4) << 6)
                )
    return -1


@kernel
def q3_k(values: Any, blocks: Any, work: Any, codes: Any) -> int:
    """``make_q3_quants``: each code in turn is made the best under the scale of the others.

    ``codes``: uint8 ``[256]``, written.
    """
    for n in range(values.shape[0]):
        row, block = values[n], blocks[n]
        if not peak_of(row, 0, 256) < MOST:
            return n
        fill(work, values, n, 16, 16)
        peaks(work, 16)
        top, peak = get16(work, _S), get16(work, _S + 16)
        zero = peak * _ZERO
        factor = _F(-4) / above(_LEAST, peak, _ONE, top)
        sum_xl, sum_l2 = zero, zero
        for i in range(16):
            x = get16(work, _X + 16 * i)
            code = at_most(at_least(nearest(factor * x), _F(-4)), _F(3))
            put16(work, _L + 16 * i, code)
            sum_xl = sum_xl + x * x * x * code
            sum_l2 = sum_l2 + x * x * code * code
        for _ in range(5):
            moved = zero
            for i in range(16):
                x, code = get16(work, _X + 16 * i), get16(work, _L + 16 * i)
                w = x * x
                rest_xl = sum_xl - w * x * code
                rest_l2 = sum_l2 - w * code * code
                new = at_most(at_least(nearest(x * rest_l2 / rest_xl), _F(-4)), _F(3))
                new = above(rest_xl, _ZERO, new, code)
                with_xl = rest_xl + w * x * new
                with_l2 = rest_l2 + w * new * new
                better = above(with_l2, _ZERO, with_xl * with_xl * sum_l2 - zero, zero)
                differs = size_of(new - code)
                gain = above(better, sum_xl * sum_xl * with_l2, differs, zero)
                sum_xl = above(gain, _ZERO, with_xl, sum_xl)
                sum_l2 = above(gain, _ZERO, with_l2, sum_l2)
                put16(work, _L + 16 * i, above(gain, _ZERO, new, code))
                moved = moved + gain
            put16(work, _S + 32, moved)
            changes = _ZERO
            for j in range(16):
                changes += work[_S + 32 + j]
            if changes == _ZERO:
                break
        scale = above(sum_l2, _ZERO, sum_xl / sum_l2, zero)
        put16(work, _S, above(_LEAST, peak, zero, scale))
        largest, size = _ZERO, _ZERO
        for j in range(16):
            if abs(work[_S + j]) > size:
                largest, size = work[_S + j], abs(work[_S + j])
        inverse = _F(-32) / largest if largest != _ZERO else _ZERO
        d = _ONE / inverse if largest != _ZERO else _ZERO
        if not fits(d):
            return n
        put_half(block, 108, d)
        d = half(block, 108)
        for j in range(12):
            block[96 + j] = _U8(0)
        for j in range(16):
            code = (
                between(whole(inverse * work[_S + j]), _I(-32), _I(31)) + _I(32)
                if largest != _ZERO
                else _I(0)
            )
            block[96 + j % 8] |= _U8((code & 15) << (4 * (j // 8)))
            block[104 + j % 4] |= _U8((code >> 4) << (2 * (j // 4)))
            unit = d * _F(_I(code - 32))
            silent = work[_S + 16 + j] < _LEAST
            for k in range(16):
                if unit != _ZERO:
                    code = between(whole(row[16 * j + k] / unit), _I(-4), _I(3)) + _I(4)
                else:
                    code = _I(0) if silent else _I(work[_L + 16 * k + j]) + _I(4)
                codes[16 * j + k] = _U8(code)
        for j in range(32):
            high = 0
            for part in range(8):
                high |= (codes[32 * part + j] >> 2) << part
            block[j] = _U8(high)
        for j in range(256):
            codes[j] &= _U8(3)
        put_twos(block, 32, codes)
    return -1
