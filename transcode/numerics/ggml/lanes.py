"""What the kernels of several types of blocks are made of."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..jit import lane
from ..lanes import real, widen

__all__ = ["float16", "half", "min_k", "power", "scale_k", "ue4m3", "word"]

_U = np.uint32


@lane
def half(block: Any, at: Any) -> Any:
    """The float32 of the F16 at some byte of a block."""
    return widen(np.int16(np.uint16(block[at]) | np.uint16(np.uint16(block[at + 1]) << np.uint16(8))))


@lane
def float16(number: Any) -> Any:
    """The float32 of the F16 whose bits are a number."""
    return widen(np.int16(np.uint16(number)))


@lane
def word(block: Any, at: Any) -> Any:
    """The uint32 at some byte of a block."""
    low = _U(block[at]) | _U(_U(block[at + 1]) << _U(8))
    return _U(low | _U(_U(block[at + 2]) << _U(16)) | _U(_U(block[at + 3]) << _U(24)))


@lane
def scale_k(block: Any, at: Any, j: Any) -> Any:
    """The 6-bit scale of sub-block ``j`` of Q4_K and Q5_K, whose twelve bytes of scales begin at ``at``."""
    if j < 4:
        return block[at + j] & 63
    return (block[at + j + 4] & 15) | ((block[at + j - 4] >> 6) << 4)


@lane
def min_k(block: Any, at: Any, j: Any) -> Any:
    """As :func:`scale_k`, the 6-bit minimum."""
    if j < 4:
        return block[at + j + 4] & 63
    return (block[at + j + 4] >> 4) | ((block[at + j] >> 6) << 4)


@lane
def power(code: Any) -> Any:
    """Half of what an E8M0 code stands for, as E2M1 values are doubled; code 0 is 2**-128."""
    return real(_U(_U(0x00200000) << _U(code)) if code < 2 else _U(_U(_U(code) - _U(1)) << _U(23)))


@lane
def ue4m3(code: Any) -> Any:
    """Half of what an E4M3 code without sign stands for; 0 for NaN."""
    if code == 0 or code == 127:
        return np.float32(0)
    exponent, fraction = (code >> 3) & 15, code & 7
    if exponent == 0:
        return np.float32(np.float32(fraction) * np.float32(2.0**-10))
    return real(_U(_U(_U(exponent) + _U(119)) << _U(23)) | _U(_U(fraction) << _U(20)))
