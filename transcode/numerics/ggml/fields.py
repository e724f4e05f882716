"""Blocks taken apart into codes and scales, and put together: the types with one code to a value.

Layouts: ``ggml-common.h``. A byte holds the codes of two values that lie half a block apart (NVFP4: half a
group of 16), the first in its low half.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["FIELDS", "apart", "together"]

Array = NDArray[Any]

FIELDS = ("Q4_0", "Q5_0", "Q8_0", "IQ4_NL", "MXFP4", "NVFP4")
"""The types that this knows."""


def apart(kind: str, blocks: Array) -> tuple[Array, Array]:
    """Codes uint8 ``[n, elements]`` and scales ``[n, groups]`` of blocks, uint8 ``[n, bytes]``.

    Scales are float16, those of MXFP4 and NVFP4 the bytes of E8M0 and of E4M3. Codes of Q8_0 are the bytes of
    int8, the others count from 0.
    """
    if kind == "NVFP4":
        codes = _halves(blocks[:, 4:].reshape(-1, 8)).reshape(-1, 64)
        return codes, np.ascontiguousarray(blocks[:, :4])
    if kind == "MXFP4":
        return _halves(blocks[:, 1:]), np.ascontiguousarray(blocks[:, :1])
    scales = np.ascontiguousarray(blocks[:, :2]).view(np.float16)
    if kind == "Q8_0":
        return np.ascontiguousarray(blocks[:, 2:]), scales
    if kind == "Q5_0":
        high = np.unpackbits(blocks[:, 2:6], axis=1, bitorder="little")
        return _halves(blocks[:, 6:]) | high << 4, scales
    return _halves(blocks[:, 2:]), scales


def together(kind: str, codes: Array, scales: Array, out: Array) -> None:
    """The inverse of :func:`apart`: write ``out``, uint8 ``[n, bytes]``."""
    if kind == "NVFP4":
        out[:, :4] = scales.view(np.uint8).reshape(-1, 4)
        out[:, 4:] = _bytes(codes.reshape(-1, 16)).reshape(-1, 32)
        return
    if kind == "MXFP4":
        out[:, :1] = scales.view(np.uint8).reshape(-1, 1)
        out[:, 1:] = _bytes(codes)
        return
    out[:, :2] = np.ascontiguousarray(scales, np.float16).reshape(-1, 1).view(np.uint8)
    if kind == "Q8_0":
        out[:, 2:] = codes
    elif kind == "Q5_0":
        out[:, 2:6] = np.packbits(codes >> 4, axis=1, bitorder="little")
        out[:, 6:] = _bytes(codes & 15)
    else:
        out[:, 2:] = _bytes(codes)


def _halves(packed: Array) -> Array:
    """The low halves of bytes, then the high ones: ``[n, k]`` -> ``[n, 2 * k]``."""
    return np.concatenate((packed & 15, packed >> 4), axis=1)


def _bytes(codes: Array) -> Array:
    half = codes.shape[1] // 2
    joined: Array = codes[:, :half] | codes[:, half:] << 4
    return joined
