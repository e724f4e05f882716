"""Codes of less than 8 bits to bytes and back. The canonical order is low nibble first, and a little-endian
stream.

All functions work on any whole rows, so on any tile of rows.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "AWQ",
    "AWQ_BACK",
    "pack4",
    "pack6",
    "pack_rows",
    "reorder_nibbles",
    "swap_nibbles",
    "unpack4",
    "unpack6",
    "unpack_rows",
]

Bytes = NDArray[np.uint8]


def pack4(codes: Bytes, *, high_first: bool = False) -> Bytes:
    """``[.., K]`` codes 0 to 15 to ``[.., K / 2]`` bytes: the even column in the low nibble, or in the high
    one.

    Raises:
        ValueError: K is odd.
    """
    if codes.shape[-1] % 2:
        raise ValueError(f"{codes.shape[-1]} columns do not fill whole bytes")
    even, odd = codes[..., 0::2], codes[..., 1::2]
    low, high = (odd, even) if high_first else (even, odd)
    packed: Bytes = high << np.uint8(4) | low
    return packed


def unpack4(packed: Bytes, *, high_first: bool = False) -> Bytes:
    """The inverse of :func:`pack4`."""
    codes = np.empty((*packed.shape[:-1], packed.shape[-1] * 2), np.uint8)
    first, second = (1, 0) if high_first else (0, 1)
    np.bitwise_and(packed, 15, out=codes[..., first::2])
    np.right_shift(packed, 4, out=codes[..., second::2])
    return codes


def swap_nibbles(packed: Bytes, out: Bytes | None = None) -> Bytes:
    """From one nibble order to the other; its own inverse. ``out`` may be ``packed``."""
    low = packed << 4
    out = np.right_shift(packed, 4, out=out)
    out |= low
    return out


AWQ = (0, 2, 4, 6, 1, 3, 5, 7)
"""Which of eight columns each nibble of a word holds, the lowest first (AutoAWQ, ``AWQ_ORDER``)."""

AWQ_BACK = (0, 4, 1, 5, 2, 6, 3, 7)
"""The inverse of :data:`AWQ`."""


def reorder_nibbles(words: NDArray[np.uint32], order: tuple[int, ...]) -> NDArray[np.uint32]:
    """Words whose nibble ``i``, the lowest being 0, is nibble ``order[i]`` of ``words``."""
    out = np.zeros_like(words)
    for place, source in enumerate(order):
        out |= (words >> np.uint32(4 * source) & np.uint32(15)) << np.uint32(4 * place)
    return out


def pack6(codes: Bytes) -> Bytes:
    """``[.., K]`` codes 0 to 63 to ``[.., 3 K / 4]`` bytes: a stream of 6-bit numbers, low bits first.

    Codes a, b, c, d fill three bytes: a and the low two bits of b above it; the high four of b, the low four
    of c; the high two of c, and d.

    Raises:
        ValueError: K is not a multiple of 4.
    """
    if codes.shape[-1] % 4:
        raise ValueError(f"{codes.shape[-1]} columns do not fill whole groups of three bytes")
    a, b, c, d = (codes[..., k::4] for k in range(4))
    packed = np.empty((*codes.shape[:-1], codes.shape[-1] // 4 * 3), np.uint8)
    packed[..., 0::3] = a | b << 6
    packed[..., 1::3] = b >> 2 | c << 4
    packed[..., 2::3] = c >> 4 | d << 2
    return packed


def unpack6(packed: Bytes) -> Bytes:
    """The inverse of :func:`pack6`."""
    if packed.shape[-1] % 3:
        raise ValueError(f"{packed.shape[-1]} bytes are not whole groups of three")
    x, y, z = (packed[..., k::3] for k in range(3))
    codes = np.empty((*packed.shape[:-1], packed.shape[-1] // 3 * 4), np.uint8)
    codes[..., 0::4] = x & 63
    codes[..., 1::4] = (x >> 6 | y << 2) & 63
    codes[..., 2::4] = (y >> 4 | z << 4) & 63
    codes[..., 3::4] = z >> 2
    return codes


_DOWN = np.arange(0, 32, 4, dtype=np.uint32)[:, None]
"""Where each of eight rows stands in a word."""


def pack_rows(numbers: NDArray[np.int8]) -> NDArray[np.int32]:
    """``[N, G]`` numbers -8 to 7 to ``[cdiv(N, 8), G]`` words: 8 is added, eight rows of a column in a word.

    Row ``n`` stands at bit ``4 * (n % 8)`` of word ``n // 8``; what is missing in the last word is zero
    (compressed-tensors, ``pack_to_int32`` along dimension 0).
    """
    rows, columns = numbers.shape
    nibbles = np.zeros((-(-rows // 8), 8, columns), np.uint32)
    nibbles.reshape(-1, columns)[:rows] = numbers.view(np.uint8) + np.uint8(8)
    words: NDArray[np.uint32] = np.bitwise_or.reduce(nibbles << _DOWN, axis=1)
    return words.view(np.int32)


def unpack_rows(words: NDArray[np.int32], rows: int) -> NDArray[np.int8]:
    """The inverse of :func:`pack_rows`, for the first ``rows`` rows."""
    nibbles = words.view(np.uint32)[:, None] >> _DOWN & np.uint32(15)
    return (nibbles.reshape(-1, words.shape[1])[:rows].astype(np.uint8) - np.uint8(8)).view(np.int8)
