"""IQ4_NL and IQ4_XS from float32, as the reference quantizers have them (``ggml-quants.c``), to the bit.

Arguments and results as in :mod:`.encode_k`; ``table``: float32 ``[16]``, the values of codes; ``limits``:
float32 ``[15]``, the least number to which the next of them is nearer.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..jit import kernel, lane
from ..lanes import INTEGER
from .lanes import fits, put_half, unfit
from .searches import LEAST, L, S, W, X, peaks, squares
from .wide import above, fill, get16, put16

__all__ = ["iq4_nl", "iq4_xs", "put_nl", "put_xs", "search"]

_F = np.float32
_I = np.int32
_U8 = np.uint8
_ZERO = np.float32(0)
_ONE = np.float32(1)
_TRIES = 7


@lane
def search(work: Any, table: Any, limits: Any) -> Any:
    """The scale of each of sixteen sub-blocks of 32 under which the weighted error is least; 0 where nothing
    has weight."""
    peaks(work, 32)
    top, peak = get16(work, S), get16(work, S + 16)
    zero = peak * _ZERO
    divisor = above(LEAST, peak, _ONE, top)
    scale, best = zero, zero
    for step in range(2 * _TRIES + 2):
        if step == 0:
            factor = _ONE / (divisor * _F(-1) / table[0])
        else:
            factor = (_F(step - 1 - _TRIES) + table[0]) / divisor
        sum_qx, sum_q2 = zero, zero
        for i in range(32):
            x = get16(work, X + 16 * i)
            scaled = factor * x
            q = zero + table[0]
            for k in range(15):
                q = above(limits[k], scaled, q, table[k + 1])
            weighted = get16(work, W + 16 * i) * q
            sum_qx = sum_qx + weighted * x
            sum_q2 = sum_q2 + weighted * q
        if step == 0:
            scale = above(sum_q2, _ZERO, sum_qx / sum_q2, zero)
            best = scale * sum_qx
        else:
            product, limit, new = sum_qx * sum_qx, best * sum_q2, sum_qx / sum_q2
            scale = above(product, limit, new, scale)
            best = above(product, limit, new * sum_qx, best)
    put16(work, S, above(LEAST, peak, zero, scale))


@lane
def coded(work: Any, limits: Any) -> Any:
    """The codes of all values under factors from ``S + 32`` on."""
    factor = get16(work, S + 32)
    for i in range(32):
        scaled = factor * get16(work, X + 16 * i)
        code = _ZERO * scaled
        for k in range(15):
            code = above(limits[k], scaled, code, _F(k + 1))
        put16(work, L + 16 * i, code)


@lane
def put_nl(blocks: Any, first: Any, work: Any, limits: Any) -> Any:
    """Blocks of IQ4_NL from a search; returns the first without a scale in F16, or -1."""
    for k in range(16):
        scale = work[S + k]
        work[S + 32 + k] = _ONE / scale if scale != _ZERO else _ZERO
    coded(work, limits)
    for k in range(min(16, blocks.shape[0] - first)):
        block, scale = blocks[first + k], work[S + k]
        if not fits(scale):
            return first + k
        put_half(block, 0, scale)
        for j in range(16):
            low, high = _I(work[L + 16 * j + k]), _I(work[L + 16 * (j + 16) + k])
            block[2 + j] = _U8(low | (high << 4))
    return -1


@lane
def put_xs(blocks: Any, pair: Any, work: Any, limits: Any) -> Any:
    """Two blocks of IQ4_XS from a search; returns the first without a scale in F16, or -1."""
    count = blocks.shape[0]
    for i in range(min(2, count - pair)):
        block = blocks[pair + i]
        largest, size = _ZERO, _ZERO
        for j in range(8):
            scale = work[S + 8 * i + j]
            if abs(scale) > size:
                largest, size = scale, abs(scale)
        d = largest * _F(-1) / _F(32)
        if not fits(d):
            return pair + i
        put_half(block, 0, d)
        inverse = _ONE / d if d != _ZERO else _ZERO
        high = _I(0)
        for j in range(8):
            code = _I((inverse * work[S + 8 * i + j] + INTEGER) - INTEGER)
            code = max(min(code, _I(31)), _I(-32))
            unit = d * _F(_I(code))
            work[S + 32 + 8 * i + j] = _ONE / unit if unit != _ZERO else _ZERO
            code += _I(32)
            high |= _I((code >> 4) << (2 * j))
            low = _U8(code & 15)
            block[4 + j // 2] = low if j % 2 == 0 else _U8(block[4 + j // 2] | (low << 4))
        block[2], block[3] = _U8(high), _U8(high >> 8)
    coded(work, limits)
    for i in range(min(2, count - pair)):
        block = blocks[pair + i]
        for s in range(8):
            for j in range(16):
                first = _I(work[L + 16 * j + 8 * i + s])
                second = _I(work[L + 16 * (j + 16) + 8 * i + s])
                block[8 + 16 * s + j] = _U8(first | (second << 4))
    return -1


@kernel
def iq4_nl(values: Any, blocks: Any, table: Any, limits: Any, work: Any) -> Any:
    for first in range(0, values.shape[0], 16):
        bad = unfit(values, first, 16)
        if bad < 0:
            fill(work, values, first, 1, 32)
            squares(work, 32)
            search(work, table, limits)
            bad = put_nl(blocks, first, work, limits)
        if bad >= 0:
            return bad
    return -1


@kernel
def iq4_xs(values: Any, blocks: Any, table: Any, limits: Any, work: Any) -> Any:
    for pair in range(0, values.shape[0], 2):
        bad = unfit(values, pair, 2)
        if bad < 0:
            fill(work, values, pair, 8, 32)
            squares(work, 32)
            search(work, table, limits)
            bad = put_xs(blocks, pair, work, limits)
        if bad >= 0:
            return bad
    return -1
