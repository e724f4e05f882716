"""The K types, and IQ4_XS: blocks of 256 elements with scales of their own for 16 or 32, back to float32.

Arguments as in :mod:`.decode`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..jit import kernel
from .lanes import half, min_k, scale_k

__all__ = ["iq4_xs", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k"]

_F = np.float32
_I = np.int32


@kernel
def q2_k(blocks: Any, out: Any) -> None:
    for i in range(blocks.shape[0]):
        block, values = blocks[i], out[i]
        d, dmin = half(block, 80), half(block, 82)
        for s in range(16):
            scale, low = d * _F(_I(block[s] & 15)), dmin * _F(_I(block[s] >> 4))
            at, shift = 16 + (s // 8) * 32 + (s % 2) * 16, 2 * ((s % 8) // 2)
            for j in range(16):
                values[s * 16 + j] = scale * _F(_I((block[at + j] >> shift) & 3)) - low


@kernel
def q3_k(blocks: Any, out: Any) -> None:
    for i in range(blocks.shape[0]):
        block, values = blocks[i], out[i]
        d = half(block, 108)
        for s in range(16):
            low = (block[96 + s % 8] >> (4 * (s // 8))) & 15
            high = (block[104 + s % 4] >> (2 * (s // 4))) & 3
            scale = d * _F(_I((low | (high << 4)) - 32))
            half_of, shift = s // 8, 2 * ((s % 8) // 2)
            at, bit = (s % 2) * 16, half_of * 4 + (s % 8) // 2
            for j in range(16):
                code = (block[32 + half_of * 32 + at + j] >> shift) & 3
                missing = ((block[at + j] >> bit) & 1) ^ 1
                values[s * 16 + j] = scale * _F(_I(code - (missing << 2)))


@kernel
def q4_k(blocks: Any, out: Any) -> None:
    for i in range(blocks.shape[0]):
        block, values = blocks[i], out[i]
        d, dmin = half(block, 0), half(block, 2)
        for s in range(8):
            scale, low = d * _F(_I(scale_k(block, 4, s))), dmin * _F(_I(min_k(block, 4, s)))
            at, shift = 16 + (s // 2) * 32, 4 * (s % 2)
            for j in range(32):
                values[s * 32 + j] = scale * _F(_I((block[at + j] >> shift) & 15)) - low


@kernel
def q5_k(blocks: Any, out: Any) -> None:
    for i in range(blocks.shape[0]):
        block, values = blocks[i], out[i]
        d, dmin = half(block, 0), half(block, 2)
        for s in range(8):
            scale, low = d * _F(_I(scale_k(block, 4, s))), dmin * _F(_I(min_k(block, 4, s)))
            at, shift = 48 + (s // 2) * 32, 4 * (s % 2)
            for j in range(32):
                code = ((block[at + j] >> shift) & 15) | (((block[16 + j] >> s) & 1) << 4)
                values[s * 32 + j] = scale * _F(_I(code)) - low


@kernel
def q6_k(blocks: Any, out: Any) -> None:
    for i in range(blocks.shape[0]):
        block, values = blocks[i], out[i]
        d = half(block, 208)
        for s in range(16):
            scale = d * _F(np.int8(block[192 + s]))
            part = (s % 8) // 2
            low, high = (s // 8) * 64 + (part % 2) * 32 + (s % 2) * 16, 128 + (s // 8) * 32 + (s % 2) * 16
            for j in range(16):
                code = ((block[low + j] >> (4 * (part // 2))) & 15) | (
                    ((block[high + j] >> (2 * part)) & 3) << 4
                )
                values[s * 16 + j] = scale * _F(_I(code - 32))


@kernel
def iq4_xs(blocks: Any, table: Any, out: Any) -> None:
    """``table``: float32 ``[16]``."""
    for i in range(blocks.shape[0]):
        block, values = blocks[i], out[i]
        d = half(block, 0)
        for s in range(8):
            low = (block[4 + s // 2] >> (4 * (s % 2))) & 15
            high = (block[2 + s // 4] >> (2 * (s % 4))) & 3
            scale = d * _F(_I((low | (high << 4)) - 32))
            for j in range(16):
                code = block[8 + s * 16 + j]
                values[s * 32 + j] = scale * table[code & 15]
                values[s * 32 + j + 16] = scale * table[code >> 4]
