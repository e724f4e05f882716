"""Quotients by one number, for what is rounded to integers: two steps instead of a division."""

from __future__ import annotations

from typing import Any

import numpy as np

from .jit import lane
from .lanes import bits, fma

__all__ = ["distinct", "ratio", "remainder"]

_U = np.uint32
_ONE = np.float32(1)


@lane
def distinct(scale: Any) -> Any:
    """Whether :func:`ratio` may stand for a quotient that is rounded to an integer of up to 8 bits.

    Both are ``x / scale`` rounded, one of them after an error of at most 2**-46. They differ where the
    quotient is that near to the middle of two floats, and the integers do where one of these is halfway
    between two integers: it has at most 8 significant bits, and the middle is half a step beside it. With the
    significand S of the scale, of 24 bits, x is then a multiple of 2**17 and S (or half of it, below a power
    of two), up to 8 parts of 2**49. As x has 24 bits itself, S is within 16 of a multiple of 2**17; if it is
    one, x is too far off.
    """
    low = _U(bits(scale) & _U(0x1FFFF))
    return low == _U(0) or (low > _U(64) and low < _U(0x20000 - 64))


@lane
def ratio(x: Any, inverse: Any, rest: Any) -> Any:
    """``x / scale`` where ``inverse`` and ``rest``, :func:`remainder`, are one over it, rounded once."""
    return fma(x, inverse, x * rest)


@lane
def remainder(scale: Any, inverse: Any) -> Any:
    """What ``1 / scale`` has beside ``inverse``, which is that rounded; float32."""
    return fma(-inverse, scale, _ONE) * inverse
