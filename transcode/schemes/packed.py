"""Codes of 4, 6 or 8 bits by rows: where their bytes lie, and how they come apart again."""

from __future__ import annotations

import numpy as np

from ..core.spec import Spec
from ..numerics.packing import pack4, pack6, unpack4, unpack6
from .base import Array

__all__ = ["code_bytes", "packed", "unpacked"]


def code_bytes(spec: Spec, bits: int) -> int:
    """Bytes of one row of codes."""
    return spec.columns * bits // 8


def packed(codes: Array, bits: int) -> Array:
    """Codes uint8 ``[rows, K]`` as they are stored; the inverse of :func:`unpacked`."""
    if bits == 4:
        return pack4(codes)
    return pack6(codes) if bits == 6 else codes


def unpacked(codes: Array, rows: int, bits: int) -> Array:
    """Stored codes of some rows as uint8 ``[rows, K]``."""
    stored = np.ascontiguousarray(codes).view(np.uint8).reshape(rows, -1)
    if bits == 4:
        return unpack4(stored)
    return unpack6(stored) if bits == 6 else stored
