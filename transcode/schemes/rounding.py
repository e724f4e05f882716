"""Steps of a computation in float32, each rounded to the dtype that torch computes it in."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from .base import Array

__all__ = ["ROUNDED"]


def _bf16(values: Array) -> Array:
    """To the nearest BF16, ties to even."""
    bits = values.view(np.uint32)
    bits += np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))
    bits &= np.uint32(0xFFFF0000)
    return values


def _f16(values: Array) -> Array:
    with np.errstate(over="ignore"):
        return values.astype(np.float16).astype(np.float32)


ROUNDED: Mapping[str, Callable[[Array], Array]] = {"F32": lambda values: values, "F16": _f16, "BF16": _bf16}
"""Name of a dtype -> float32 values rounded to it; BF16 in place."""
