"""Blocks from float32 under weights of columns, as the reference quantizers have them (``ggml-quants.c``,
whose ``quant_weights`` an importance matrix gives), to the bit.

Arguments and results as in :mod:`.encode_k`; besides ``weights``, float32 ``[blocks of a row, elements]``,
and ``sigmas``, float32, what :func:`spread` makes of the values. Where all columns of a block of IQ4_NL or
IQ4_XS have no weight, the reference's scale is not a number; it is 0 here, as the other types have it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..jit import kernel, lane
from ..lanes import at_least, at_most
from .blocks_k import put_affine, put_fives, put_fours, put_q2, put_q3, put_q6, put_scales
from .encode import put_fifth
from .encode_iq import put_nl, put_xs, search
from .lanes import fits, put_half, unfit
from .searches import LEAST, MASS, L, S, X, affine, positive, symmetric, symmetric_few, weighed
from .wide import above, get16, nearest, put16

__all__ = [
    "iq4_nl", "iq4_xs", "q2_k", "q3_k", "q4_0", "q4_1", "q4_k", "q5_0", "q5_1", "q5_k", "q6_k", "spread",
]  # fmt: skip

_F = np.float32
_I = np.int32
_U8 = np.uint8
_ZERO = np.float32(0)
_ONE = np.float32(1)
_INF = np.float32(np.inf)
_FIRST, _DELTA, _LAST = np.float32(-0.9), np.float32(0.05), 36
"""The steps by which ``make_qkx3_quants`` makes the range of codes larger."""


@kernel
def spread(values: Any, factor: Any, sigmas: Any) -> None:
    """Mean squares of rows times a factor, summed from left to right in float32.

    Args:
        values: float32 ``[n, elements]``.
        sigmas: float32 ``[n]``, written.
    """
    size = _F(values.shape[1])
    count = values.shape[0]
    for first in range(0, count, 4):  # sums wait for one another: four do so side by side
        a, b = values[first], values[min(first + 1, count - 1)]
        c, d = values[min(first + 2, count - 1)], values[min(first + 3, count - 1)]
        one, two, three, four = _ZERO, _ZERO, _ZERO, _ZERO
        for j in range(values.shape[1]):
            one += a[j] * a[j]
            two += b[j] * b[j]
            three += c[j] * c[j]
            four += d[j] * d[j]
        sigmas[first] = factor * one / size
        if first + 1 < count:
            sigmas[first + 1] = factor * two / size
        if first + 2 < count:
            sigmas[first + 2] = factor * three / size
        if first + 3 < count:
            sigmas[first + 3] = factor * four / size


@lane
def symmetric_codes(work: Any, levels: Any) -> Any:
    """The codes of sub-blocks of 32 after :func:`.searches.symmetric`, from 0 on; 0 without a scale."""
    peak, made = get16(work, S + 16), get16(work, S + 32)
    for j in range(32):
        code = at_most(at_least(nearest(made * get16(work, X + 16 * j)), -levels), levels - _ONE) + levels
        put16(work, L + 16 * j, above(LEAST, peak, peak * _ZERO, code))


@lane
def affine_codes(work: Any, largest: Any) -> Any:
    """The codes of sub-blocks of 32 after :func:`.searches.affine`, 0 of infinity."""
    made, base = get16(work, S + 32), get16(work, S + 48)
    for j in range(32):
        code = nearest(made * (get16(work, X + 16 * j) - base))
        code = above(_INF, code, code, _ZERO)
        put16(work, L + 16 * j, at_most(at_least(code, _ZERO), largest))


@lane
def put_nibbles(block: Any, at: Any, work: Any, k: Any) -> Any:
    """Write the lower four bits of 32 codes; returns their fifth bits."""
    fifth = np.uint32(0)
    for j in range(16):
        low, high = _I(work[L + 16 * j + k]), _I(work[L + 16 * (j + 16) + k])
        block[at + j] = _U8(_I(low & _I(15)) | _I(_I(high & _I(15)) << _I(4)))
        fifth |= np.uint32(((low >> 4) & 1) << j) | np.uint32(((high >> 4) & 1) << (j + 16))
    return fifth


@kernel
def q4_0(values: Any, blocks: Any, weights: Any, sigmas: Any, work: Any, codes: Any) -> Any:
    for first in range(0, values.shape[0], 16):
        bad = unfit(values, first, 16)
        if bad >= 0:
            return bad
        weighed(work, values, weights, sigmas, first, 1, 32, True)
        symmetric(work, 32, _F(8))
        symmetric_codes(work, _F(8))
        for k in range(min(16, values.shape[0] - first)):
            if not fits(work[S + k]):
                return first + k
            put_half(blocks[first + k], 0, work[S + k])
            put_nibbles(blocks[first + k], 2, work, k)
    return -1


@kernel
def q4_1(values: Any, blocks: Any, weights: Any, sigmas: Any, work: Any, codes: Any) -> Any:
    for first in range(0, values.shape[0], 16):
        bad = unfit(values, first, 16)
        if bad >= 0:
            return bad
        weighed(work, values, weights, sigmas, first, 1, 32, True)
        affine(work, 32, _F(15), _FIRST, _DELTA, _LAST, False)
        affine_codes(work, _F(15))
        for k in range(min(16, values.shape[0] - first)):
            if not put_scales(blocks[first + k], 0, work[S + k], -work[S + 16 + k]):
                return first + k
            put_nibbles(blocks[first + k], 4, work, k)
    return -1


@kernel
def q5_0(values: Any, blocks: Any, weights: Any, sigmas: Any, work: Any, codes: Any) -> Any:
    for first in range(0, values.shape[0], 16):
        bad = unfit(values, first, 16)
        if bad >= 0:
            return bad
        weighed(work, values, weights, sigmas, first, 1, 32, True)
        symmetric(work, 32, _F(16))
        symmetric_codes(work, _F(16))
        for k in range(min(16, values.shape[0] - first)):
            if not fits(work[S + k]):
                return first + k
            put_half(blocks[first + k], 0, work[S + k])
            put_fifth(blocks[first + k], 2, put_nibbles(blocks[first + k], 6, work, k))
    return -1


@kernel
def q5_1(values: Any, blocks: Any, weights: Any, sigmas: Any, work: Any, codes: Any) -> Any:
    for first in range(0, values.shape[0], 16):
        bad = unfit(values, first, 16)
        if bad >= 0:
            return bad
        weighed(work, values, weights, sigmas, first, 1, 32, True)
        affine(work, 32, _F(31), _FIRST, _DELTA, _LAST, False)
        affine_codes(work, _F(31))
        for k in range(min(16, values.shape[0] - first)):
            if not put_scales(blocks[first + k], 0, work[S + k], -work[S + 16 + k]):
                return first + k
            put_fifth(blocks[first + k], 4, put_nibbles(blocks[first + k], 8, work, k))
    return -1


@lane
def positive_block(row: Any, block: Any, work: Any, first: Any, largest: Any, codes: Any) -> Any:
    """As :func:`.encode_k.affine_block`, the scales and minima searched under the sums of weights."""
    mass, scales = MASS + first, codes[256:]
    d = positive(work, S + first, mass, 8, _I(63), scales)
    dmin = positive(work, S + 16 + first, mass, 8, _I(63), scales[16:])
    if not put_scales(block, 0, d, dmin):
        return False
    put_affine(row, block, work, first, largest, scales, codes)
    return True


@kernel
def q4_k(values: Any, blocks: Any, weights: Any, sigmas: Any, work: Any, codes: Any) -> Any:
    for pair in range(0, values.shape[0], 2):
        bad = unfit(values, pair, 2)
        if bad >= 0:
            return bad
        weighed(work, values, weights, sigmas, pair, 8, 32, True)
        affine(work, 32, _F(15), _FIRST, _DELTA, _LAST, False)
        for i in range(pair, min(pair + 2, values.shape[0])):
            if not positive_block(values[i], blocks[i], work, 8 * (i - pair), _I(15), codes):
                return i
            put_fours(blocks[i], codes)
    return -1


@kernel
def q5_k(values: Any, blocks: Any, weights: Any, sigmas: Any, work: Any, codes: Any) -> Any:
    for pair in range(0, values.shape[0], 2):
        bad = unfit(values, pair, 2)
        if bad >= 0:
            return bad
        weighed(work, values, weights, sigmas, pair, 8, 32, True)
        affine(work, 32, _F(31), _FIRST, _DELTA, _LAST, False)
        for i in range(pair, min(pair + 2, values.shape[0])):
            if not positive_block(values[i], blocks[i], work, 8 * (i - pair), _I(31), codes):
                return i
            put_fives(blocks[i], codes)
    return -1


@kernel
def q2_k(values: Any, blocks: Any, weights: Any, sigmas: Any, work: Any, codes: Any) -> Any:
    for i in range(values.shape[0]):
        block = blocks[i]
        bad = unfit(values, i, 1)
        if bad >= 0:
            return bad
        weighed(work, values, weights, sigmas, i, 16, 16, True)
        affine(work, 16, _F(3), _FIRST, _DELTA, _LAST, False)
        d = positive(work, S, MASS, 16, _I(15), codes)
        dmin = positive(work, S + 16, MASS, 16, _I(15), codes[16:])
        if not put_scales(block, 80, d, dmin):
            return i
        for j in range(16):
            block[j] = _U8(codes[j] | (codes[16 + j] << 4))
        put_q2(values[i], block, work, codes)
    return -1


@kernel
def q3_k(values: Any, blocks: Any, weights: Any, sigmas: Any, work: Any, codes: Any) -> Any:
    for i in range(values.shape[0]):
        bad = unfit(values, i, 1)
        if bad >= 0:
            return bad
        weighed(work, values, weights, sigmas, i, 16, 16, True)
        symmetric(work, 16, _F(4))
        made = get16(work, S + 32)
        for j in range(16):
            code = at_most(at_least(nearest(made * get16(work, X + 16 * j)), _F(-4)), _F(3))
            put16(work, L + 16 * j, code)
        d = symmetric_few(work, S, MASS, 16, _F(32), codes[256:])
        if not fits(d):
            return i
        put_half(blocks[i], 108, d)
        put_q3(values[i], blocks[i], work, codes[256:], codes)
    return -1


@kernel
def q6_k(values: Any, blocks: Any, weights: Any, sigmas: Any, work: Any, codes: Any) -> Any:
    """The weights of columns are taken as they are."""
    for i in range(values.shape[0]):
        bad = unfit(values, i, 1)
        if bad >= 0:
            return bad
        weighed(work, values, weights, sigmas, i, 16, 16, False)
        symmetric(work, 16, _F(32))
        if not put_q6(values[i], blocks[i], work, codes):
            return i
    return -1


@kernel
def iq4_nl(values: Any, blocks: Any, weights: Any, sigmas: Any, table: Any, limits: Any, work: Any) -> Any:
    for first in range(0, values.shape[0], 16):
        bad = unfit(values, first, 16)
        if bad < 0:
            weighed(work, values, weights, sigmas, first, 1, 32, True)
            search(work, table, limits)
            bad = put_nl(blocks, first, work, limits)
        if bad >= 0:
            return bad
    return -1


@kernel
def iq4_xs(values: Any, blocks: Any, weights: Any, sigmas: Any, table: Any, limits: Any, work: Any) -> Any:
    for pair in range(0, values.shape[0], 2):
        bad = unfit(values, pair, 2)
        if bad < 0:
            weighed(work, values, weights, sigmas, pair, 8, 32, True)
            search(work, table, limits)
            bad = put_xs(blocks, pair, work, limits)
        if bad >= 0:
            return bad
    return -1
