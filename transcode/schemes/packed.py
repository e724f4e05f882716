"""Codes of 4, 6 or 8 bits by rows: where their bytes lie, and how they come apart again."""

from __future__ import annotations

import numpy as np

from ..core.dtypes import BLOCKS
from ..core.scratch import Scratch
from ..core.spec import Spec
from ..numerics.packing import pack4, pack6, unpack4, unpack6
from .base import Array
from .grid import Grid

__all__ = ["apart", "code_bytes", "packed", "together", "unpacked"]


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


def apart(codes: Array, rows: int, grid: Grid) -> tuple[Array, Array | None]:
    """Stored codes of some rows as uint8 ``[rows, K]``, and the scales that lie among them, ``[rows,
    groups]``; None where these are a part of their own.
    """
    if not grid.stored:
        return unpacked(codes, rows, grid.bits), None
    from ..numerics.ggml.fields import apart

    blocks = np.ascontiguousarray(codes).view(np.uint8).reshape(-1, BLOCKS[grid.stored].bits // 8)
    values, scales = apart(grid.stored, blocks)
    return values.reshape(rows, -1), scales.reshape(rows, -1)


def together(codes: Array, scales: Array, grid: Grid, scratch: Scratch) -> Array:
    """Codes uint8 ``[rows, K]`` as they are stored, with the scales that are stored among them."""
    if not grid.stored:
        return packed(codes, grid.bits)
    from ..numerics.ggml.fields import together

    dtype = BLOCKS[grid.stored]
    blocks = scratch.take((codes.size // dtype.elements, dtype.bits // 8), np.uint8)
    together(grid.stored, codes.reshape(-1, dtype.elements), scales, blocks)
    return blocks.reshape(len(codes), -1)
