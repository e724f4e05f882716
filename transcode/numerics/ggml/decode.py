"""Blocks of 32 elements, ternary blocks and the 4-bit floats back to float32.

All take blocks, uint8 ``[n, bytes]``, and write values, float32 ``[n, elements]``. Products are rounded one
after the other, as the reference rounds them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..jit import kernel
from .lanes import half, power, ue4m3, word

__all__ = ["mxfp4", "nvfp4", "q1_0", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "table4", "tq1_0", "tq2_0"]

_F = np.float32
_I = np.int32


@kernel
def q1_0(blocks: Any, out: Any) -> None:
    for i in range(blocks.shape[0]):
        block, values = blocks[i], out[i]
        d = half(block, 0)
        for j in range(128):
            values[j] = d if (block[2 + j // 8] >> (j % 8)) & 1 else -d


@kernel
def q4_0(blocks: Any, out: Any) -> None:
    for i in range(blocks.shape[0]):
        block, values = blocks[i], out[i]
        d = half(block, 0)
        for j in range(16):
            code = _I(block[2 + j])
            values[j] = d * _F(_I((code & 15) - 8))
            values[j + 16] = d * _F(_I((code >> 4) - 8))


@kernel
def q4_1(blocks: Any, out: Any) -> None:
    for i in range(blocks.shape[0]):
        block, values = blocks[i], out[i]
        d, m = half(block, 0), half(block, 2)
        for j in range(16):
            code = _I(block[4 + j])
            values[j] = d * _F(_I(code & 15)) + m
            values[j + 16] = d * _F(_I(code >> 4)) + m


@kernel
def q5_0(blocks: Any, out: Any) -> None:
    for i in range(blocks.shape[0]):
        block, values = blocks[i], out[i]
        d, high = half(block, 0), word(block, 2)
        for j in range(16):
            code = _I(block[6 + j])
            first, second = _I((high >> np.uint32(j)) & 1), _I((high >> np.uint32(j + 16)) & 1)
            values[j] = d * _F(_I(((code & 15) | (first << 4)) - 16))
            values[j + 16] = d * _F(_I(((code >> 4) | (second << 4)) - 16))


@kernel
def q5_1(blocks: Any, out: Any) -> None:
    for i in range(blocks.shape[0]):
        block, values = blocks[i], out[i]
        d, m, high = half(block, 0), half(block, 2), word(block, 4)
        for j in range(16):
            code = _I(block[8 + j])
            first, second = _I((high >> np.uint32(j)) & 1), _I((high >> np.uint32(j + 16)) & 1)
            values[j] = d * _F(_I((code & 15) | (first << 4))) + m
            values[j + 16] = d * _F(_I((code >> 4) | (second << 4))) + m


@kernel
def q8_0(blocks: Any, out: Any) -> None:
    for i in range(blocks.shape[0]):
        block, values = blocks[i], out[i]
        d = half(block, 0)
        for j in range(32):
            values[j] = _F(np.int8(block[2 + j])) * d


@kernel
def tq1_0(blocks: Any, out: Any) -> None:
    """Five digits of base 3 to a byte: 32 bytes, 16 bytes, and four digits in each of the last 4."""
    for i in range(blocks.shape[0]):
        block, values = blocks[i], out[i]
        d = half(block, 52)
        power3 = 1
        for n in range(5):
            for j in range(32):
                digit = (((block[j] * power3) & 255) * 3) >> 8
                values[n * 32 + j] = d * _F(_I(digit - 1))
            for j in range(16):
                digit = (((block[32 + j] * power3) & 255) * 3) >> 8
                values[160 + n * 16 + j] = d * _F(_I(digit - 1))
            if n < 4:
                for j in range(4):
                    digit = (((block[48 + j] * power3) & 255) * 3) >> 8
                    values[240 + n * 4 + j] = d * _F(_I(digit - 1))
            power3 *= 3


@kernel
def tq2_0(blocks: Any, out: Any) -> None:
    for i in range(blocks.shape[0]):
        block, values = blocks[i], out[i]
        d = half(block, 64)
        for n in range(2):
            for k in range(4):
                for j in range(32):
                    digit = (block[n * 32 + j] >> (2 * k)) & 3
                    values[n * 128 + k * 32 + j] = d * _F(_I(digit - 1))


@kernel
def mxfp4(blocks: Any, table: Any, out: Any) -> None:
    """``table``: float32 ``[16]``, values of E2M1, doubled."""
    for i in range(blocks.shape[0]):
        block, values = blocks[i], out[i]
        d = power(block[0])
        for j in range(16):
            values[j] = d * table[block[1 + j] & 15]
            values[j + 16] = d * table[block[1 + j] >> 4]


@kernel
def nvfp4(blocks: Any, table: Any, out: Any) -> None:
    """``table``: as for :func:`mxfp4`."""
    for i in range(blocks.shape[0]):
        block, values = blocks[i], out[i]
        for s in range(4):
            d = ue4m3(block[s])
            for j in range(8):
                code = block[4 + s * 8 + j]
                values[s * 16 + j] = d * table[code & 15]
                values[s * 16 + j + 8] = d * table[code >> 4]


@kernel
def table4(blocks: Any, table: Any, out: Any) -> None:
    """IQ4_NL; ``table``: float32 ``[16]``."""
    for i in range(blocks.shape[0]):
        block, values = blocks[i], out[i]
        d = half(block, 0)
        for j in range(16):
            values[j] = d * table[block[2 + j] & 15]
            values[j + 16] = d * table[block[2 + j] >> 4]
