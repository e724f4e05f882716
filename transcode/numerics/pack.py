"""Kernel that packs 4-bit codes."""

from __future__ import annotations

from typing import Any

import numpy as np

from .jit import kernel

__all__ = ["pack_nibbles"]


@kernel
def pack_nibbles(pairs: Any, out: Any) -> None:
    """Codes two to a uint16, as they lie in memory one to a byte, to two in a byte; the first in the low
    nibble.

    What a code holds above its four bits, such as a sign, is dropped.
    """
    for k in range(out.shape[0]):
        pair = pairs[k]
        out[k] = np.uint8((pair & 15) | ((pair >> 4) & 0xF0))
