"""Blocks of 32 elements from float32, as the reference quantizers have them (``ggml-quants.c``), to the bit.

All take values, float32 ``[n, elements]``, and write blocks, uint8 ``[n, bytes]``. They return -1, or the
number of the first block that holds a value that is not finite, or needs a larger scale than there is; what
follows is not written then.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..jit import kernel, lane
from ..lanes import above, at_most, bits, larger, real, size_of
from ..peaks import greatest
from ..vectors import first_bit, get16, pack4, within
from .lanes import away, cut, first_peak, fits, largest, peak_of, power, put_half, smallest, ue4m3

__all__ = ["mxfp4", "nvfp4", "q1_0", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "tq1_0", "tq2_0"]

_F = np.float32
_I = np.int32
_U8 = np.uint8
_INF = np.float32(np.inf)
_ZERO = np.float32(0)
_ONE = np.float32(1)
_NONE, _HALVES = np.uint32(0), np.uint32(16)


@lane
def inverse(d: Any) -> Any:
    """What values are multiplied with; 0 of no scale."""
    return _ONE / d if d != _ZERO else _ZERO


@lane
def lesser(code: Any, largest: Any) -> Any:
    """The smaller of two int32."""
    return code if code < largest else largest


@lane
def peak32(row: Any) -> Any:
    """Largest magnitude of 32 values; infinity or NaN where one of them is."""
    return real(greatest(larger(bits(size_of(get16(row, 0))), bits(get16(row, 16)))))


@lane
def ends(row: Any) -> Any:
    """The smallest and the largest of 32 finite values; of zeros of both signs the first."""
    first, second = get16(row, 0), get16(row, 16)
    low, high = smallest(above(first, second, second, first)), largest(above(second, first, second, first))
    if low == _ZERO or high == _ZERO:  # which zero it is shows in what is stored
        low, high = row[0], row[0]
        for j in range(1, 32):
            low = row[j] if row[j] < low else low
            high = row[j] if row[j] > high else high
    return low, high


@kernel
def q8_0(values: Any, blocks: Any) -> int:
    for i in range(values.shape[0]):
        row, block = values[i], blocks[i]
        peak = peak32(row)
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
        low, high = get16(row, 0), get16(row, 16)
        sizes, others = size_of(low), size_of(high)
        peak = peak32(row)
        if not peak < _INF:
            return i
        at = np.uint32(within(peak - sizes, _NONE) | np.uint32(within(peak - others, _NONE) << _HALVES))
        d = (row[first_bit(at)] if peak > _ZERO else _ZERO) / _F(-8)
        if not fits(d):
            return i
        put_half(block, 0, d)
        factor = inverse(d)
        low, high = low * factor + _F(8.5), high * factor + _F(8.5)
        if abs(factor) == _INF:  # codes of what is so small are 0
            low, high = sizes * _ZERO, others * _ZERO
        pack4(block, 2, cut(at_most(low, _F(15))), cut(at_most(high, _F(15))))
    return -1


@kernel
def q4_1(values: Any, blocks: Any) -> int:
    for i in range(values.shape[0]):
        row, block = values[i], blocks[i]
        peak = peak32(row)
        if not peak < _INF:
            return i
        least, most = ends(row)
        d = (most - least) / _F(15)
        if not (fits(d) and fits(least)):
            return i
        put_half(block, 0, d)
        put_half(block, 2, least)
        factor = inverse(d)
        if factor == _INF:  # so small that F16 has no scale but 0
            factor = _ZERO
        low = at_most((get16(row, 0) - least) * factor + _F(0.5), _F(15))
        high = at_most((get16(row, 16) - least) * factor + _F(0.5), _F(15))
        pack4(block, 4, cut(low), cut(high))
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
        peak = peak32(row)
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
        peak = peak32(row)
        if not peak < _INF:
            return i
        least, most = ends(row)
        d = (most - least) / _F(31)
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


@kernel
def q1_0(values: Any, blocks: Any) -> int:
    """The scale is the mean magnitude."""
    for i in range(values.shape[0]):
        row, block = values[i], blocks[i]
        if not peak_of(row, 0, 128) < _INF:
            return i
        total = _ZERO
        for j in range(128):
            total += abs(row[j])
        d = total / _F(128)
        if not fits(d):
            return i
        put_half(block, 0, d)
        for j in range(16):
            signs = np.int64(0)
            for k in range(8):
                signs |= np.int64(row[8 * j + k] >= _ZERO) << k
            block[2 + j] = _U8(signs)
    return -1


@lane
def ternary(x: Any, factor: Any) -> Any:
    """0, 1 or 2 for -1, 0 and 1."""
    return away(x * factor) + _I(1)


@kernel
def tq1_0(values: Any, blocks: Any) -> int:
    """Digits of base 3, the first the highest, as a fraction of 256 that is rounded up."""
    for i in range(values.shape[0]):
        row, block = values[i], blocks[i]
        peak = peak_of(row, 0, 256)
        if not (peak < _INF and fits(peak)):
            return i
        put_half(block, 52, peak)
        factor = inverse(peak)
        if factor == _INF:
            factor = _ZERO
        for j in range(52):
            # 32 bytes of five digits, 16 of five, 4 of four
            first = j if j < 32 else 160 + j - 32 if j < 48 else 240 + j - 48
            apart, digits = (32, 5) if j < 32 else (16, 5) if j < 48 else (4, 4)
            number = 0
            for n in range(5):
                number = number * 3 + (ternary(row[first + n * apart], factor) if n < digits else 0)
            block[j] = _U8((number * 256 + 242) // 243)
    return -1


@kernel
def tq2_0(values: Any, blocks: Any) -> int:
    for i in range(values.shape[0]):
        row, block = values[i], blocks[i]
        peak = peak_of(row, 0, 256)
        if not (peak < _INF and fits(peak)):
            return i
        put_half(block, 64, peak)
        factor = inverse(peak)
        if factor == _INF:
            factor = _ZERO
        for part in range(2):
            for j in range(32):
                four = 0
                for n in range(4):
                    four |= (ternary(row[128 * part + 32 * n + j], factor) & 3) << (2 * n)
                block[32 * part + j] = _U8(four)
    return -1


@lane
def e2m1(x: Any, d: Any) -> Any:
    """The code of E2M1 nearest to ``x``, of two the smaller; ``d`` is half of the scale."""
    size = abs(x)
    code = _I(size > _F(0.5) * d) + _I(size > _F(1.5) * d) + _I(size > _F(2.5) * d) + _I(size > _F(3.5) * d)
    code += _I(size > _F(5) * d) + _I(size > _F(7) * d) + _I(size > _F(10) * d)
    return code | 8 if x < _ZERO and code else code


@kernel
def mxfp4(values: Any, blocks: Any, nearly: Any) -> int:
    """``nearly``: uint32 ``[277]``, for each exponent from -149 on, from which bits of the fraction on the
    float32 logarithm of a number is that of the next power of two.
    """
    for i in range(values.shape[0]):
        row, block = values[i], blocks[i]
        peak = peak32(row)
        if not peak < _INF:
            return i
        code = np.uint8(0)
        if peak > _ZERO:
            lift = 0
            if peak < _F(2.0**-126):
                peak *= _F(2.0**23)
                lift = 23
            exponent = np.int64(bits(peak) >> 23) - 127 - lift
            exponent += np.int64((bits(peak) & np.uint32(0x7FFFFF)) >= nearly[exponent + 149])
            code = _U8(exponent + 125)
        block[0] = code
        d = power(code)
        for j in range(16):
            block[1 + j] = _U8(e2m1(row[j], d) | (e2m1(row[j + 16], d) << 4))
    return -1


@lane
def to_ue4m3(x: Any) -> Any:
    """The code of E4M3 nearest to a number that is not negative, halves up; at most 448."""
    if not x > _ZERO:
        return 0
    x = x if x < _F(448) else _F(448)
    word = bits(x)
    exponent = np.int64(word >> 23) - 120
    if exponent <= 0:
        return min(np.int64(x * _F(512) + _F(0.5)), 7)
    fraction = np.int64((word >> 20) & np.uint32(7)) + np.int64((word >> 19) & np.uint32(1))
    if fraction > 7:
        fraction = np.int64(0)
        exponent += 1
    return (exponent << 3) | fraction if exponent < 15 else 126


@kernel
def nvfp4(values: Any, blocks: Any) -> int:
    for i in range(values.shape[0]):
        row, block = values[i], blocks[i]
        for s in range(4):
            peak = peak_of(row, 16 * s, 16)
            if not peak <= _F(6 * 464):  # 448 is the largest E4M3, and the nearest up to there
                return i
            block[s] = _U8(to_ue4m3(peak / _F(6)))
            d = ue4m3(block[s])
            for j in range(8):
                low, high = row[16 * s + j], row[16 * s + j + 8]
                pair = e2m1(low, d) | (e2m1(high, d) << 4) if d > _ZERO else 0
                block[4 + 8 * s + j] = _U8(pair)
    return -1
