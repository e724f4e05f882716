"""Powers of two and their E8M0 codes."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

__all__ = ["exponents", "powers_of_two"]


@cache
def powers_of_two() -> NDArray[np.float32]:
    """Value of each E8M0 code, float32 ``[256]``: byte 0 is 2**-127, as for CUDA; 255 is NaN."""
    powers = np.ldexp(np.ones(256), np.arange(256) - 127)
    powers[255] = np.nan
    return powers.astype(np.float32)


def exponents(numbers: NDArray[np.float32]) -> NDArray[np.uint8]:
    """E8M0 codes of powers of two, the inverse of :func:`powers_of_two`; NaN is 255.

    Of any other number the code of some power is returned.
    """
    _, exponent = np.frexp(numbers)  # numbers are 0.5 * 2**exponent
    codes: NDArray[np.uint8] = np.clip(exponent + 126, 0, 254).astype(np.uint8)
    codes[np.isnan(numbers)] = 255
    return codes
