"""How blocks of the K types are laid out, whatever search found their scales (``ggml-quants.c``).

All take the results of a search from :data:`.searches.S` on, and ``codes``, uint8 ``[256]``, written.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..jit import lane
from .lanes import between, fits, half, min_k, put_half, scale_k, whole
from .searches import LEAST, L, S

__all__ = ["put_affine", "put_fives", "put_fours", "put_q2", "put_q3", "put_q6", "put_scales"]

_F = np.float32
_I = np.int32
_U8 = np.uint8
_ZERO = np.float32(0)
_ONE = np.float32(1)


@lane
def put_scales(block: Any, at: Any, d: Any, dmin: Any) -> Any:
    """Write the two scales of a block, if F16 has them; returns whether."""
    if not (fits(d) and fits(dmin)):
        return False
    put_half(block, at, d)
    put_half(block, at + 2, dmin)
    return True


@lane
def put_affine(row: Any, block: Any, work: Any, first: Any, largest: Any, scales: Any, codes: Any) -> Any:
    """Pack the 6-bit scales and minima of Q4_K and Q5_K behind the two of the block, and make codes.

    Args:
        first: of the eight results in ``work``.
        largest: code, int32.
        scales: uint8, eight scales, and from 16 on eight minima.
        codes: written.
    """
    for j in range(8):
        scale, low = scales[j], scales[16 + j]
        if j < 4:
            block[4 + j] = scale
            block[8 + j] = low
        else:
            block[8 + j] = _U8((scale & 15) | ((low & 15) << 4))
            block[j] |= _U8((scale >> 4) << 6)
            block[4 + j] |= _U8((low >> 4) << 6)
    d, dmin = half(block, 0), half(block, 2)
    for j in range(8):
        scale, low = d * _F(_I(scale_k(block, 4, j))), dmin * _F(_I(min_k(block, 4, j)))
        if scale != _ZERO:
            for i in range(32):
                codes[32 * j + i] = _U8(between(whole((row[32 * j + i] + low) / scale), _I(0), largest))
        else:
            factor, base = work[S + 32 + first + j], work[S + 48 + first + j]
            for i in range(32):
                codes[32 * j + i] = _U8(between(whole(factor * (row[32 * j + i] - base)), _I(0), largest))


@lane
def put_fours(block: Any, codes: Any) -> Any:
    """Write 256 codes of four bits as Q4_K has them."""
    for part in range(4):
        for j in range(32):
            block[16 + 32 * part + j] = _U8(codes[64 * part + j] | (codes[64 * part + 32 + j] << 4))


@lane
def put_fives(block: Any, codes: Any) -> Any:
    """Write 256 codes of five bits as Q5_K has them."""
    for j in range(32):
        fifth = 0
        for part in range(4):
            low, high = codes[64 * part + j], codes[64 * part + 32 + j]
            fifth |= ((low >> 4) << (2 * part)) | ((high >> 4) << (2 * part + 1))
            block[48 + 32 * part + j] = _U8((low & 15) | ((high & 15) << 4))
        block[16 + j] = _U8(fifth)


@lane
def _put_twos(block: Any, at: Any, codes: Any) -> Any:
    """Write 256 codes of two bits as Q2_K and Q3_K have them."""
    for part in range(2):
        for j in range(32):
            four = codes[128 * part + j] | (codes[128 * part + 32 + j] << 2)
            four |= (codes[128 * part + 64 + j] << 4) | (codes[128 * part + 96 + j] << 6)
            block[at + 32 * part + j] = _U8(four)


@lane
def put_q2(row: Any, block: Any, work: Any, codes: Any) -> Any:
    """The codes of Q2_K under the scales and minima that the block holds."""
    d, dmin = half(block, 80), half(block, 82)
    for j in range(16):
        scale, low = d * _F(_I(block[j] & 15)), dmin * _F(_I(block[j] >> 4))
        factor, base = work[S + 32 + j], work[S + 48 + j]
        for k in range(16):
            x = row[16 * j + k]
            code = whole((x + low) / scale) if scale != _ZERO else whole(factor * (x - base))
            codes[16 * j + k] = _U8(between(code, _I(0), _I(3)))
    _put_twos(block, 16, codes)


@lane
def put_q6(row: Any, block: Any, work: Any, codes: Any) -> Any:
    """All of a block of Q6_K; returns whether F16 has its scale."""
    largest, size = _ZERO, _ZERO
    for j in range(16):
        if abs(work[S + j]) > size:
            largest, size = work[S + j], abs(work[S + j])
    if size < LEAST:
        for j in range(210):
            block[j] = _U8(0)
        return True
    inverse = _F(-128) / largest
    d = _ONE / inverse
    if not fits(d):
        return False
    put_half(block, 208, d)
    d = half(block, 208)
    for j in range(16):
        code = whole(inverse * work[S + j])
        code = code if code < 127 else _I(127)
        block[192 + j] = _U8(code)
        unit = d * _F(_I(np.int8(code)))
        factor, silent = work[S + 32 + j], work[S + 16 + j] < LEAST
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
            block[128 + 32 * part + j] = _U8((a >> 4) | ((b >> 4) << 2) | ((c >> 4) << 4) | ((e >> 4) << 6))
    return True


@lane
def put_q3(row: Any, block: Any, work: Any, scales: Any, codes: Any) -> Any:
    """The scales of Q3_K, uint8 ``[16]`` with 32 added, and the codes under them; its ``d`` stands there.

    Codes of sub-blocks without a scale are those that the search left, in ``work``.
    """
    d = half(block, 108)
    for j in range(12):
        block[96 + j] = _U8(0)
    for j in range(16):
        scale = _I(scales[j])
        block[96 + j % 8] |= _U8((scale & 15) << (4 * (j // 8)))
        block[104 + j % 4] |= _U8((scale >> 4) << (2 * (j // 4)))
        unit = d * _F(_I(scale - 32))
        silent = work[S + 16 + j] < LEAST
        for k in range(16):
            if unit != _ZERO:
                code = between(whole(row[16 * j + k] / unit), _I(-4), _I(3)) + _I(4)
            else:
                code = _I(0) if silent else _I(work[L + 16 * k + j]) + _I(4)
            codes[16 * j + k] = _U8(code)
    for j in range(32):
        high = 0
        for part in range(8):
            high |= (codes[32 * part + j] >> 2) << part
        block[j] = _U8(high)
    for j in range(256):
        codes[j] &= _U8(3)
    _put_twos(block, 32, codes)
