"""Orders in which nunchaku's kernels want weights, scales and low-rank factors: index maps and inverses.

A warp of 32 lanes multiplies 128 rows by 64 columns at a time, and each lane loads what it needs with one
128-bit access; the orders follow from which lane holds what (DeepCompressor, ``backend/nunchaku/utils.py``
and ``backend/tinychat/utils.py``). ``N`` counts output channels (rows of the weight), ``K`` input channels,
``G`` groups of columns that share a scale, ``R`` the rank.

Rows come in blocks of 128 (of 4 for :func:`pack_w4x16`) that are packed independently of each other, one
after the other. So a weight can be packed some blocks at a time.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "WARP",
    "deinterleave",
    "interleave",
    "pack_lowrank",
    "pack_micro_scale",
    "pack_scale",
    "pack_vector",
    "pack_w4x4",
    "pack_w4x16",
    "unpack_lowrank",
    "unpack_micro_scale",
    "unpack_scale",
    "unpack_vector",
    "unpack_w4x4",
    "unpack_w4x16",
]

Array = NDArray[Any]
Codes = NDArray[np.uint8]

WARP = 128
"""Rows that are packed together; row counts are padded to a multiple of it."""


def pack_w4x4(codes: Codes) -> NDArray[np.int8]:
    """4-bit codes ``[N, K]`` of W4A4, one in each byte, to int8 ``[N, K/2]``; N in 128s, K in 64s.

    Eight neighbours of a row make a little-endian 32-bit word, the first in the lowest bits.
    """
    n, k = codes.shape
    words = _pairs(codes).view("<u4").reshape(n // WARP, 8, 2, 8, k // 64, 2, 4)
    return np.ascontiguousarray(words.transpose(0, 4, 1, 3, 6, 2, 5)).view(np.int8).reshape(n, k // 2)


def unpack_w4x4(packed: Array) -> Codes:
    """The inverse of :func:`pack_w4x4`."""
    n, k = packed.shape[0], packed.shape[1] * 2
    words = np.ascontiguousarray(packed).view("<u4").reshape(n // WARP, k // 64, 8, 8, 4, 2, 2)
    return _split(np.ascontiguousarray(words.transpose(0, 2, 5, 3, 1, 6, 4)).view(np.uint8)).reshape(n, k)


def pack_scale(scales: Array) -> Array:
    """Scales ``[N, G]`` of 16 bits to ``[G, N]``; N in 128s.

    A lane holds channels c, c+1, c+8 and c+9, as the accumulators of two ``mma`` instructions do.
    """
    n, groups = scales.shape
    parts = scales.reshape(n // WARP, 8, 2, 4, 2, groups)
    return np.ascontiguousarray(parts.transpose(0, 5, 1, 3, 2, 4)).reshape(groups, n)


def unpack_scale(packed: Array) -> Array:
    """The inverse of :func:`pack_scale`."""
    groups, n = packed.shape
    parts = packed.reshape(n // WARP, groups, 8, 4, 2, 2)
    return np.ascontiguousarray(parts.transpose(0, 2, 4, 3, 5, 1)).reshape(n, groups)


def pack_vector(values: Array) -> Array:
    """One value for each channel, ``[N]`` to ``[N]`` in the order of scales: bias, smooth, channel scales."""
    return pack_scale(values.reshape(-1, 1)).reshape(-1)


def unpack_vector(packed: Array) -> Array:
    """The inverse of :func:`pack_vector`."""
    return unpack_scale(packed.reshape(1, -1)).reshape(-1)


def pack_micro_scale(scales: Array) -> Array:
    """Scales ``[N, G]`` of 8 bits, one for 16 columns, to ``[G, N]``; N in 128s, G in 4s.

    Four neighbours of a row make the 32-bit register that a lane feeds to the block-scaled ``mma``.
    """
    n, groups = scales.shape
    parts = scales.reshape(n // WARP, 4, 4, 8, groups // 4, 4)
    return np.ascontiguousarray(parts.transpose(0, 4, 3, 2, 1, 5)).reshape(groups, n)


def unpack_micro_scale(packed: Array) -> Array:
    """The inverse of :func:`pack_micro_scale`."""
    groups, n = packed.shape
    parts = packed.reshape(n // WARP, groups // 4, 8, 4, 4, 4)
    return np.ascontiguousarray(parts.transpose(0, 4, 3, 2, 1, 5)).reshape(n, groups)


def pack_lowrank(factor: Array, *, down: bool) -> Array:
    """A low-rank factor ``[C, R]``, channels by ranks, 16 bits, to ``[C, R]``; both in 16s.

    Args:
        factor: ``lora_up`` as it is, ``lora_down`` transposed: channels always come first.
        down: whether it is ``lora_down``, whose tiles lie the other way round.
    """
    channels, rank = factor.shape
    if down:
        parts = factor.reshape(channels // 16, 2, 4, 2, rank // 16, 2, 8).transpose(0, 4, 6, 2, 5, 1, 3)
    else:
        parts = factor.reshape(channels // 16, 2, 8, rank // 16, 2, 4, 2).transpose(0, 3, 2, 5, 1, 4, 6)
    return np.ascontiguousarray(parts).reshape(channels, rank)


def unpack_lowrank(packed: Array, *, down: bool) -> Array:
    """The inverse of :func:`pack_lowrank`."""
    channels, rank = packed.shape
    parts = packed.reshape(channels // 16, rank // 16, 8, 4, 2, 2, 2)
    order = (0, 5, 3, 6, 1, 4, 2) if down else (0, 4, 2, 1, 5, 3, 6)
    return np.ascontiguousarray(parts.transpose(order)).reshape(channels, rank)


def pack_w4x16(codes: Codes) -> NDArray[np.int32]:
    """4-bit codes ``[N, K]`` of W4A16, one in each byte, to int32 ``[N/4, K/2]``; N in 4s, K in 64s.

    A 16-bit word takes four codes that are eight columns apart.
    """
    n, k = codes.shape
    parts = codes.reshape(n // 4, 4, k // 64, 2, 4, 8).transpose(0, 2, 1, 3, 5, 4)
    return _pairs(np.ascontiguousarray(parts)).reshape(-1).view("<i4").reshape(n // 4, k // 2)


def unpack_w4x16(packed: Array) -> Codes:
    """The inverse of :func:`pack_w4x16`."""
    n, k = packed.shape[0] * 4, packed.shape[1] * 2
    codes = _split(np.ascontiguousarray(packed).view(np.uint8)).reshape(n // 4, k // 64, 4, 2, 8, 4)
    return np.ascontiguousarray(codes.transpose(0, 2, 1, 3, 5, 4)).reshape(n, k)


def interleave(rows: Array, splits: int) -> Array:
    """Rows that stand as ``[splits, C]`` reordered to ``[C, splits]``, as AdaNorm wants them."""
    parts = rows.reshape(splits, rows.shape[0] // splits, *rows.shape[1:])
    return np.ascontiguousarray(parts.swapaxes(0, 1)).reshape(rows.shape)


def deinterleave(rows: Array, splits: int) -> Array:
    """The inverse of :func:`interleave`."""
    return interleave(rows, rows.shape[0] // splits)


def _pairs(codes: Codes) -> Codes:
    """Two codes in each byte, the even one in the lower half."""
    packed: Codes = codes[..., 1::2] << np.uint8(4)
    packed |= codes[..., 0::2]
    return packed


def _split(packed: Codes) -> Codes:
    """The inverse of :func:`_pairs`."""
    return np.stack((packed & 15, packed >> 4), axis=-1).reshape(*packed.shape[:-1], -1)
