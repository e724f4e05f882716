"""Blocks of 32 elements from float32, as the reference quantizers have them (``ggml-quants.c``), to the bit.

All take values, float32 ``[n, elements]``, and write blocks, uint8 ``[n, bytes]``. They return -1, or the number
of the first block that holds a value that is not finite, or one that needs a scale which F16 does not have; what
follows is not written then.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..jit import kernel, lane
from ..lanes import bits, disorder, order, real
from .lanes import away, first_peak, fits, peak_of, put_half

__all__ = ["q4_0", "q4_1", "q5_0", "q5_1", "q8_0"]

_F = np.float32
_I = np.int32
_U8 = np.uint8
_INF = np.float32(np.inf)
_ZERO = np.float32(0)
_ONE = np.float32(1)


@lane
def inverse(d: Any) -> Any:
    """What values are multiplied with; 0 of no scale."""
    return _ONE / d if d != _ZERO else _ZERO


@lane
def lesser(code: Any, largest: Any) -> Any:
    """The smaller of two int32."""
    return code if code < largest else largest


@lane
def lowest(row: Any, count: Any) -> Any:
    """The smallest value; of zeros of both signs the first."""
    key = order(_I(0x7FFFFFFF))
    for j in range(count):
        one = order(_I(np.int32(bits(row[j]))))
        key = one if one < key else key
    low = real(np.uint32(disorder(key, key)))
    if low == _ZERO:
        for j in range(count):
            if row[j] == _ZERO:
                return row[j]
    return low


@lane
def highest(row: Any, count: Any) -> Any:
    """The largest value."""
    key = _I(-0x7FFFFFFF)
    for j in range(count):
        one = order(_I(np.int32(bits(row[j]))))
        key = one if one > key else key
    return real(np.uint32(disorder(key, key)))


@kernel
def q8_0(values: Any, blocks: Any) -> int:
    for i in range(values.shape[0]):
        row, block = values[i], blocks[i]
        peak = peak_of(row, 0, 32)
        d = peak / _F(127)
        if not (peak < _INF and fits(d)):
            return i
        put_half(block, 0, d)
        factor = inverse(d)
        if factor == _INF:  # so small that F16 has no scale but 0
            factor = _ZERO
        for j in range(32):
            block[2 + j] = _U8(away(row[j] * factor))
    return -1


@kernel
def q4_0(values: Any, blocks: Any) -> int:
    for i in range(values.shape[0]):
        row, block = values[i], blocks[i]
        peak = peak_of(row, 0, 32)
        if not peak < _INF:
            return i
        d = first_peak(row, 0, 32, peak) / _F(-8)
        if not fits(d):
            return i
        put_half(block, 0, d)
        factor = inverse(d)
        for j in range(16):
            low, high = _I(row[j] * factor + _F(8.5)), _I(row[j + 16] * factor + _F(8.5))
            block[2 + j] = _U8(lesser(low, _I(15)) | _I(lesser(high, _I(15)) << _I(4)))
    return -1


@kernel
def q4_1(values: Any, blocks: Any) -> int:
    for i in range(values.shape[0]):
        row, block = values[i], blocks[i]
        peak = peak_of(row, 0, 32)
        if not peak < _INF:
            return i
        least = lowest(row, 32)
        d = (highest(row, 32) - least) / _F(15)
        if not (fits(d) and fits(least)):
            return i
        put_half(block, 0, d)
        put_half(block, 2, least)
        factor = inverse(d)
        for j in range(16):
            low, high = _I((row[j] - least) * factor + _F(0.5)), _I((row[j + 16] - least) * factor + _F(0.5))
            block[4 + j] = _U8(lesser(low, _I(15)) | _I(lesser(high, _I(15)) << _I(4)))
    return -1


@lane
def put_fifth(block: Any, at: Any, high: Any) -> Any:
    """Write the fifth bits of 32 codes."""
    for k in range(4):
        block[at + k] = _U8(high >> np.uint32(8 * k))


@kernel
def q5_0(values: Any, blocks: Any) -> int:
    for i in range(values.shape[0]):
        row, block = values[i], blocks[i]
        peak = peak_of(row, 0, 32)
        if not peak < _INF:
            return i
        d = first_peak(row, 0, 32, peak) / _F(-16)
        if not fits(d):
            return i
        put_half(block, 0, d)
        factor = inverse(d)
        fifth = np.uint32(0)
        for j in range(16):
            low, high = _I(row[j] * factor + _F(16.5)), _I(row[j + 16] * factor + _F(16.5))
            low, high = lesser(low, _I(31)), lesser(high, _I(31))
            block[6 + j] = _U8(_I(low & _I(15)) | _I(_I(high & _I(15)) << _I(4)))
            fifth |= np.uint32(((low >> 4) & 1) << j) | np.uint32(((high >> 4) & 1) << (j + 16))
        put_fifth(block, 2, fifth)
    return -1


@kernel
def q5_1(values: Any, blocks: Any) -> int:
    for i in range(values.shape[0]):
        row, block = values[i], blocks[i]
        peak = peak_of(row, 0, 32)
        if not peak < _INF:
            return i
        least = lowest(row, 32)
        d = (highest(row, 32) - least) / _F(31)
        if not (fits(d) and fits(least)):
            return i
        put_half(block, 0, d)
        put_half(block, 2, least)
        factor = inverse(d)
        fifth = np.uint32(0)
        for j in range(16):
            low, high = _I((row[j] - least) * factor + _F(0.5)), _I((row[j + 16] - least) * factor + _F(0.5))
            block[8 + j] = _U8(_I(low & _I(15)) | _I(_I(high & _I(15)) << _I(4)))
            fifth |= np.uint32(((low >> 4) & 1) << j) | np.uint32(((high >> 4) & 1) << (j + 16))
        put_fifth(block, 4, fifth)
    return -1
