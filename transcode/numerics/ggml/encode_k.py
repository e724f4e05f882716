"""The K types from float32, as the reference quantizers have them (``ggml-quants.c``), to the bit.

Arguments and results as in :mod:`.encode`; besides ``work``, float32 ``[2048]``, and ``codes``, uint8
``[288]``, which are written.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..jit import kernel, lane
from ..lanes import at_least, at_most, size_of
from .blocks_k import put_affine, put_fives, put_fours, put_q2, put_q3, put_q6, put_scales
from .lanes import between, fits, put_half, unfit, whole
from .searches import LEAST, L, S, W, X, affine, mean_weights, peaks, squares, symmetric
from .wide import above, fill, get16, nearest, put16

__all__ = ["q2_k", "q3_k", "q4_k", "q5_k", "q6_k"]

_F = np.float32
_I = np.int32
_U8 = np.uint8
_ZERO = np.float32(0)
_ONE = np.float32(1)


@lane
def top_of(work: Any, at: Any, count: Any) -> Any:
    """The largest of some results; 0 where none is above."""
    top = _ZERO
    for j in range(count):
        top = work[at + j] if work[at + j] > top else top
    return top


@lane
def affine_block(row: Any, block: Any, work: Any, first: Any, largest: Any, codes: Any) -> Any:
    """Scales and minima of eight sub-blocks of 32 as parts of the largest, and the codes under them.

    Args:
        first: of the eight results in ``work``.
        codes: uint8 ``[288]``, written.

    Returns:
        Whether F16 has the two scales of the block.
    """
    top, top_min = top_of(work, S + first, 8), top_of(work, S + 16 + first, 8)
    if not put_scales(block, 0, top / _F(63), top_min / _F(63)):
        return False
    inverse = _F(63) / top if top > _ZERO else _ZERO
    inverse_min = _F(63) / top_min if top_min > _ZERO else _ZERO
    for j in range(8):
        codes[256 + j] = min(np.uint8(whole(inverse * work[S + first + j])), _U8(63))
        codes[272 + j] = min(np.uint8(whole(inverse_min * work[S + 16 + first + j])), _U8(63))
    put_affine(row, block, work, first, _I(largest), codes[256:], codes)
    return True


@kernel
def q4_k(values: Any, blocks: Any, work: Any, codes: Any) -> Any:
    for pair in range(0, values.shape[0], 2):
        bad = unfit(values, pair, 2)
        if bad >= 0:
            return bad
        fill(work, values, pair, 8, 32)
        mean_weights(work)
        affine(work, 32, _F(15), _F(-1), _F(0.1), 20, False)
        for i in range(pair, min(pair + 2, values.shape[0])):
            if not affine_block(values[i], blocks[i], work, 8 * (i - pair), _F(15), codes):
                return i
            put_fours(blocks[i], codes)
    return -1


@kernel
def q5_k(values: Any, blocks: Any, work: Any, codes: Any) -> Any:
    for pair in range(0, values.shape[0], 2):
        bad = unfit(values, pair, 2)
        if bad >= 0:
            return bad
        fill(work, values, pair, 8, 32)
        mean_weights(work)
        affine(work, 32, _F(31), _F(-0.5), _F(0.1), 15, False)
        for i in range(pair, min(pair + 2, values.shape[0])):
            if not affine_block(values[i], blocks[i], work, 8 * (i - pair), _F(31), codes):
                return i
            put_fives(blocks[i], codes)
    return -1


@kernel
def q2_k(values: Any, blocks: Any, work: Any, codes: Any) -> Any:
    for i in range(values.shape[0]):
        block = blocks[i]
        bad = unfit(values, i, 1)
        if bad >= 0:
            return bad
        fill(work, values, i, 16, 16)
        for j in range(16):
            put16(work, W + 16 * j, size_of(get16(work, X + 16 * j)))
        affine(work, 16, _F(3), _F(-0.5), _F(0.1), 15, True)
        top, top_min = top_of(work, S, 16), top_of(work, S + 16, 16)
        if not put_scales(block, 80, top / _F(15), top_min / _F(15)):
            return i
        inverse = _F(15) / top if top > _ZERO else _ZERO
        inverse_min = _F(15) / top_min if top_min > _ZERO else _ZERO
        for j in range(16):
            code = whole(inverse * work[S + j])
            least = whole(inverse_min * work[S + 16 + j])
            block[j] = _U8(code) | _U8(least << 4)
        put_q2(values[i], block, work, codes)
    return -1


@kernel
def q6_k(values: Any, blocks: Any, work: Any, codes: Any) -> Any:
    """Squares are the weights."""
    for i in range(values.shape[0]):
        bad = unfit(values, i, 1)
        if bad >= 0:
            return bad
        fill(work, values, i, 16, 16)
        squares(work, 16)
        symmetric(work, 16, _F(32))
        if not put_q6(values[i], blocks[i], work, codes):
            return i
    return -1


@kernel
def q3_k(values: Any, blocks: Any, work: Any, codes: Any) -> Any:
    """``make_q3_quants``: each code in turn is made the best under the scale of the others."""
    for n in range(values.shape[0]):
        block = blocks[n]
        bad = unfit(values, n, 1)
        if bad >= 0:
            return bad
        fill(work, values, n, 16, 16)
        peaks(work, 16)
        top, peak = get16(work, S), get16(work, S + 16)
        zero = peak * _ZERO
        factor = _F(-4) / above(LEAST, peak, _ONE, top)
        sum_xl, sum_l2 = zero, zero
        for i in range(16):
            x = get16(work, X + 16 * i)
            code = at_most(at_least(nearest(factor * x), _F(-4)), _F(3))
            put16(work, L + 16 * i, code)
            sum_xl = sum_xl + x * x * x * code
            sum_l2 = sum_l2 + x * x * code * code
        for _ in range(5):
            moved = zero
            for i in range(16):
                x, code = get16(work, X + 16 * i), get16(work, L + 16 * i)
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
                put16(work, L + 16 * i, above(gain, _ZERO, new, code))
                moved = moved + gain
            put16(work, S + 32, moved)
            changes = _ZERO
            for j in range(16):
                changes += work[S + 32 + j]
            if changes == _ZERO:
                break
        scale = above(sum_l2, _ZERO, sum_xl / sum_l2, zero)
        put16(work, S, above(LEAST, peak, zero, scale))
        largest, size = _ZERO, _ZERO
        for j in range(16):
            if abs(work[S + j]) > size:
                largest, size = work[S + j], abs(work[S + j])
        inverse = _F(-32) / largest if largest != _ZERO else _ZERO
        d = _ONE / inverse if largest != _ZERO else _ZERO
        if not fits(d):
            return n
        put_half(block, 108, d)
        for j in range(16):
            code = between(whole(inverse * work[S + j]), _I(-32), _I(31)) + _I(32)
            codes[256 + j] = _U8(code) if largest != _ZERO else _U8(0)
        put_q3(values[n], block, work, codes[256:], codes)
    return -1
