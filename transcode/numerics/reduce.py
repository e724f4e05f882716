"""Kernels that look at values without converting them."""

from __future__ import annotations

from typing import Any

from .jit import kernel
from .lanes import larger, widen

__all__ = ["largest"]


@kernel
def largest(rows: Any) -> Any:
    """Largest magnitude of bits ``[R, K]`` as float32; infinite or NaN if any value is."""
    peak_bits = rows.dtype.type(0)
    for i in range(rows.shape[0]):
        row = rows[i]
        for j in range(row.shape[0]):
            peak_bits = larger(peak_bits, row[j])
    return widen(peak_bits)
