"""The IQ types of code books, back to float32.

Arguments as in :mod:`.decode`; ``grid`` is the book of the type, see :mod:`.grids`. Signs of eight values are
seven bits of which the eighth follows, or eight bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..jit import kernel, lane
from .lanes import float16, half, word

__all__ = ["iq1_m", "iq1_s", "iq2_s", "iq2_xs", "iq2_xxs", "iq3_s", "iq3_xxs"]

_F = np.float32
_I = np.int32
_HALF, _QUARTER, _EIGHTH = np.float32(0.5), np.float32(0.25), np.float32(0.125)


@lane
def even(seven: Any) -> Any:
    """Eight signs of which an even number is negative, by the first seven."""
    folded = seven ^ (seven >> 4)
    folded ^= folded >> 2
    folded ^= folded >> 1
    return seven | ((folded & 1) << 7)


@lane
def put(values: Any, at: Any, scale: Any, grid: Any, number: Any, signs: Any, first: Any) -> Any:
    """The values that a number stands for, with the signs from the ``first`` bit of ``signs`` on."""
    for j in range(grid.shape[1]):
        value = scale * grid[number, j]
        values[at + j] = -value if (signs >> (first + j)) & 1 else value
    return 0


@kernel
def iq2_xxs(blocks: Any, grid: Any, out: Any) -> None:
    for i in range(blocks.shape[0]):
        block, values = blocks[i], out[i]
        d = half(block, 0)
        for s in range(8):
            rest = np.int64(word(block, 2 + 8 * s + 4))
            scale = d * (_HALF + _F(_I(rest >> 28))) * _QUARTER
            for k in range(4):
                put(
                    values,
                    s * 32 + k * 8,
                    scale,
                    grid,
                    block[2 + 8 * s + k],
                    even((rest >> (7 * k)) & 127),
                    0,
                )


@kernel
def iq2_xs(blocks: Any, grid: Any, out: Any) -> None:
    for i in range(blocks.shape[0]):
        block, values = blocks[i], out[i]
        d = half(block, 0)
        for k in range(32):
            number = block[2 + 2 * k] | (block[3 + 2 * k] << 8)
            scale = d * (_HALF + _F(_I((block[66 + k // 4] >> (4 * ((k // 2) % 2))) & 15))) * _QUARTER
            put(values, k * 8, scale, grid, number & 511, even(number >> 9), 0)


@kernel
def iq2_s(blocks: Any, grid: Any, out: Any) -> None:
    for i in range(blocks.shape[0]):
        block, values = blocks[i], out[i]
        d = half(block, 0)
        for k in range(32):
            number = block[2 + k] | (((block[66 + k // 4] >> (2 * (k % 4))) & 3) << 8)
            scale = d * (_HALF + _F(_I((block[74 + k // 4] >> (4 * ((k // 2) % 2))) & 15))) * _QUARTER
            put(values, k * 8, scale, grid, number, block[34 + k], 0)


@kernel
def iq3_xxs(blocks: Any, grid: Any, out: Any) -> None:
    for i in range(blocks.shape[0]):
        block, values = blocks[i], out[i]
        d = half(block, 0)
        for s in range(8):
            rest = np.int64(word(block, 66 + 4 * s))
            scale = d * (_HALF + _F(_I(rest >> 28))) * _HALF
            for k in range(8):
                signs = even((rest >> (7 * (k // 2))) & 127)
                put(values, s * 32 + k * 4, scale, grid, block[2 + 8 * s + k], signs, 4 * (k % 2))


@kernel
def iq3_s(blocks: Any, grid: Any, out: Any) -> None:
    for i in range(blocks.shape[0]):
        block, values = blocks[i], out[i]
        d = half(block, 0)
        for k in range(64):
            number = block[2 + k] | (((block[66 + k // 8] >> (k % 8)) & 1) << 8)
            scale = d * _F(_I(1 + 2 * ((block[106 + k // 16] >> (4 * ((k // 8) % 2))) & 15)))
            put(values, k * 4, scale, grid, number, block[74 + k // 2], 4 * (k % 2))


@kernel
def iq1_s(blocks: Any, grid: Any, out: Any) -> None:
    for i in range(blocks.shape[0]):
        block, values = blocks[i], out[i]
        d = half(block, 0)
        for s in range(8):
            high = block[34 + 2 * s] | (block[35 + 2 * s] << 8)
            scale = d * _F(_I(2 * ((high >> 12) & 7) + 1))
            delta = -_EIGHTH if high & 0x8000 else _EIGHTH
            for k in range(4):
                number = block[2 + 4 * s + k] | (((high >> (3 * k)) & 7) << 8)
                for j in range(8):
                    values[s * 32 + k * 8 + j] = scale * (grid[number, j] + delta)


@kernel
def iq1_m(blocks: Any, grid: Any, out: Any) -> None:
    """The scale of a block lies in the highest four bits of each of four 16-bit numbers."""
    for i in range(blocks.shape[0]):
        block, values = blocks[i], out[i]
        low, high = (block[49] >> 4) | (block[51] & 0xF0), (block[53] >> 4) | (block[55] & 0xF0)
        d = float16(low | (high << 8))
        for s in range(16):
            packed = block[48 + 2 * (s // 4)] | (block[49 + 2 * (s // 4)] << 8)
            scale = d * _F(_I(2 * ((packed >> (3 * (s % 4))) & 7) + 1))
            for k in range(2):
                high = (block[32 + s] >> (4 * k)) & 15
                number = block[2 * s + k] | ((high & 7) << 8)
                delta = -_EIGHTH if high & 8 else _EIGHTH
                for j in range(8):
                    values[s * 16 + k * 8 + j] = scale * (grid[number, j] + delta)
