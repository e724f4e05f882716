"""Blocks of the IQ types of code books, of what :mod:`.book_search` found (``ggml-quants.c``), to the bit.

All take blocks, uint8 ``[n, bytes]``, which are written; ``scales``, float32 ``[n, groups]``, of groups of
32 or 16 values; ``numbers``, int16 ``[n, 32]`` or ``[n, 64]``, of the book; and ``signs``, uint8 ``[n, 32]``,
of eight values each. They return -1, or the number of the first block that needs a larger scale than F16 has.

Where 32 values of a block of IQ3_S are 0, the reference puts numbers and signs of those behind into the place
of others, so that the block decodes to other values; here they stand in their own.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..jit import kernel, lane
from .lanes import fits, put_half
from .wide import rounded

__all__ = ["iq2_s", "iq2_xs", "iq2_xxs", "iq3_s", "iq3_xxs"]

_F = np.float32
_I = np.int32
_U = np.uint32
_U8 = np.uint8
_ZERO = np.float32(0)
_ONE = np.float32(1)
_HALF = np.float32(0.5)


@lane
def top_of(scales: Any) -> Any:
    """The largest scale of a block."""
    top = _ZERO
    for j in range(scales.shape[0]):
        top = scales[j] if scales[j] > top else top
    return top


@lane
def begun(block: Any, scales: Any, fudge: Any) -> Any:
    """A block of zeros with its scale; returns whether F16 has it.

    Args:
        fudge: by what the reference multiplies the scale that it stores.
    """
    for j in range(block.shape[0]):
        block[j] = _U8(0)
    d = top_of(scales) / _F(31) * fudge
    put_half(block, 0, d)
    return fits(d)


@lane
def part(scales: Any, j: Any, top: Any) -> Any:
    """The scale of a group as a part of the block's, 0 to 15."""
    code = rounded(_HALF * (_ONE / (top / _F(31)) * scales[j] - _ONE))
    return _I(min(max(code, _ZERO), _F(15)))


@lane
def put_parts(block: Any, at: Any, scales: Any) -> Any:
    """Write the scales of groups, two to a byte."""
    top = top_of(scales)
    for j in range(scales.shape[0] if top > _ZERO else 0):
        block[at + j // 2] |= _U8(part(scales, j, top) << (4 * (j % 2)))


@lane
def put_signs_and_part(block: Any, at: Any, signs: Any, j: Any, scales: Any) -> Any:
    """Write four times seven signs, and the scale of a group."""
    word = _U(part(scales, j, top_of(scales))) << _U(28)
    for k in range(4):
        word |= _U(signs[4 * j + k]) << _U(7 * k)
    for k in range(4):
        block[at + k] = _U8(word >> _U(8 * k))


@kernel
def iq2_xxs(blocks: Any, scales: Any, numbers: Any, signs: Any) -> Any:
    for i in range(blocks.shape[0]):
        block = blocks[i]
        if not begun(block, scales[i], _ONE):
            return i
        for j in range(8 if top_of(scales[i]) > _ZERO else 0):
            for k in range(4):
                block[2 + 8 * j + k] = _U8(numbers[i, 4 * j + k])
            put_signs_and_part(block, 6 + 8 * j, signs[i], j, scales[i])
    return -1


@kernel
def iq2_xs(blocks: Any, scales: Any, numbers: Any, signs: Any) -> Any:
    for i in range(blocks.shape[0]):
        block = blocks[i]
        if not begun(block, scales[i], _ONE):
            return i
        for k in range(32 if top_of(scales[i]) > _ZERO else 0):
            word = _I(numbers[i, k]) | (_I(signs[i, k]) << 9)
            block[2 + 2 * k], block[3 + 2 * k] = _U8(word), _U8(word >> 8)
        put_parts(block, 66, scales[i])
    return -1


@kernel
def iq2_s(blocks: Any, scales: Any, numbers: Any, signs: Any) -> Any:
    for i in range(blocks.shape[0]):
        block = blocks[i]
        if not begun(block, scales[i], _F(0.9875)):
            return i
        for k in range(32):
            block[2 + k] = _U8(numbers[i, k])
            block[34 + k] = signs[i, k]
            block[66 + k // 4] |= _U8((numbers[i, k] >> 8) << (2 * (k % 4)))
        put_parts(block, 74, scales[i])
    return -1


@kernel
def iq3_xxs(blocks: Any, scales: Any, numbers: Any, signs: Any) -> Any:
    for i in range(blocks.shape[0]):
        block = blocks[i]
        if not begun(block, scales[i], _F(1.0125)):
            return i
        for j in range(8 if top_of(scales[i]) > _ZERO else 0):
            for k in range(8):
                block[2 + 8 * j + k] = _U8(numbers[i, 8 * j + k])
            put_signs_and_part(block, 66 + 4 * j, signs[i], j, scales[i])
    return -1


@kernel
def iq3_s(blocks: Any, scales: Any, numbers: Any, signs: Any) -> Any:
    for i in range(blocks.shape[0]):
        block = blocks[i]
        if not begun(block, scales[i], _F(1.033)):
            return i
        for k in range(64):
            block[2 + k] = _U8(numbers[i, k])
            block[66 + k // 8] |= _U8((numbers[i, k] >> 8) << (k % 8))
        for k in range(32):
            block[74 + k] = signs[i, k]
        put_parts(block, 106, scales[i])
    return -1
