"""Kernel that compares values with what was decoded of them."""

from __future__ import annotations

from typing import Any

import numpy as np

from .jit import kernel
from .lanes import widen

__all__ = ["losses"]


@kernel
def losses(values: Any, decoded: Any, sums: Any) -> None:
    """Add up what was lost of some rows.

    Args:
        values: bits ``[R, K]``, see :func:`.rows.as_bits`.
        decoded: float32 ``[R, K]``.
        sums: float64 ``[3]``: the sum of squared values, the sum of squared errors, the largest error;
            added to.
    """
    for i in range(values.shape[0]):
        row = values[i]
        line = decoded[i]
        signal, noise, largest = 0.0, 0.0, 0.0
        for j in range(row.shape[0]):
            x = np.float64(widen(row[j]))
            gap = x - np.float64(line[j])
            signal += x * x
            noise += gap * gap
            largest = max(largest, abs(gap))
        sums[0] += signal
        sums[1] += noise
        sums[2] = max(sums[2], largest)
