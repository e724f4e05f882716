"""Kernels that add a low-rank, Hadamard or Kronecker product, or a difference, to a matrix of float32.

Every output element is computed by one chain of fused multiply-adds in the order of the rank, whatever its
neighbours are. So its bits depend neither on how a tensor is cut into tiles, nor on the number of threads,
nor on the processor: a fused multiply-add has one right answer.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .jit import kernel
from .lanes import fma

__all__ = [
    "BAND",
    "RANKS",
    "add",
    "add_column_squares",
    "add_hadamard",
    "add_kronecker",
    "add_product",
    "padded",
    "row_squares",
]

BAND = 4
"""Rows that :func:`add_product` computes at a time; the rows it is given are a multiple."""

RANKS = 4
"""Steps of the rank that it takes at a time; the rank it is given is a multiple."""

_WIDTH = 512
_ZERO = np.float32(0)


def padded(count: int, multiple: int = BAND) -> int:
    """``count`` rounded up to a multiple."""
    return -(-count // multiple) * multiple


def add_product(up: Any, down: Any, scale: Any, out: Any) -> None:
    """``out += scale * (up @ down)`` in float32.

    For each element, with ``s = 0`` first: ``s = fma(up[i, r], down[r, j], s)`` for ``r`` from 0 up, then
    ``out[i, j] = fma(scale, s, out[i, j])``.

    Args:
        up: float32 ``[R, rank]``; R a multiple of :data:`BAND`, rank of :data:`RANKS` (pad with zeros).
        down: float32 ``[rank, K]``.
        scale: float32.
        out: float32 ``[R, K]``, changed.
    """
    _add_product(up, down, scale, np.empty((4, _WIDTH), np.float32), out)


@kernel
def _add_product(up: Any, down: Any, scale: Any, sums: Any, out: Any) -> None:
    """:func:`add_product`, with room for sums: float32 ``[4, _WIDTH]``, written."""
    # Four rows by four steps of the rank: each value of `down` that is loaded serves four rows, each partial
    # sum that is loaded takes four steps. The sums of 512 columns and their part of `down` stay in cache.
    count, rank = up.shape
    columns = out.shape[1]
    for left in range(0, columns, _WIDTH):
        width = min(_WIDTH, columns - left)
        s0 = sums[0, :width]
        s1 = sums[1, :width]
        s2 = sums[2, :width]
        s3 = sums[3, :width]
        for i in range(0, count, 4):
            for j in range(width):
                s0[j] = _ZERO
            for j in range(width):
                s1[j] = _ZERO
            for j in range(width):
                s2[j] = _ZERO
            for j in range(width):
                s3[j] = _ZERO
            for r in range(0, rank, 4):
                a0, a1, a2, a3 = up[i, r], up[i, r + 1], up[i, r + 2], up[i, r + 3]
                b0, b1, b2, b3 = up[i + 1, r], up[i + 1, r + 1], up[i + 1, r + 2], up[i + 1, r + 3]
                c0, c1, c2, c3 = up[i + 2, r], up[i + 2, r + 1], up[i + 2, r + 2], up[i + 2, r + 3]
                d0, d1, d2, d3 = up[i + 3, r], up[i + 3, r + 1], up[i + 3, r + 2], up[i + 3, r + 3]
                x0 = down[r, left : left + width]
                x1 = down[r + 1, left : left + width]
                x2 = down[r + 2, left : left + width]
                x3 = down[r + 3, left : left + width]
                for j in range(width):
                    y0, y1, y2, y3 = x0[j], x1[j], x2[j], x3[j]
                    s0[j] = fma(a3, y3, fma(a2, y2, fma(a1, y1, fma(a0, y0, s0[j]))))
                    s1[j] = fma(b3, y3, fma(b2, y2, fma(b1, y1, fma(b0, y0, s1[j]))))
                    s2[j] = fma(c3, y3, fma(c2, y2, fma(c1, y1, fma(c0, y0, s2[j]))))
                    s3[j] = fma(d3, y3, fma(d2, y2, fma(d1, y1, fma(d0, y0, s3[j]))))
            for k in range(4):
                total = sums[k, :width]
                line = out[i + k, left : left + width]
                for j in range(width):
                    line[j] = fma(scale, total[j], line[j])


@kernel
def add(values: Any, scale: Any, out: Any) -> None:
    """``out[i] = fma(scale, values[i], out[i])``; float32 ``[n]`` both."""
    for i in range(out.shape[0]):
        out[i] = fma(scale, values[i], out[i])


@kernel
def add_hadamard(left: Any, right: Any, scale: Any, out: Any) -> None:
    """``out[i] = fma(scale, left[i] * right[i], out[i])``; float32 ``[n]`` all."""
    for i in range(out.shape[0]):
        out[i] = fma(scale, left[i] * right[i], out[i])


@kernel
def add_kronecker(left: Any, right: Any, scale: Any, out: Any) -> None:
    """Add ``scale`` times some rows of a Kronecker product, those that belong to one row of its left side.

    ``out[i, a * K + k] = fma(scale, left[a] * right[i, k], out[i, a * K + k])``.

    Args:
        left: float32 ``[A]``, a row of the left side.
        right: float32 ``[R, K]``, rows of the right side.
        scale: float32.
        out: float32 ``[R, A * K]``, changed.
    """
    width = right.shape[1]
    for i in range(right.shape[0]):
        values = right[i]
        for a in range(left.shape[0]):
            factor = left[a]
            line = out[i, a * width : (a + 1) * width]
            for k in range(width):
                line[k] = fma(scale, factor * values[k], line[k])


@kernel
def add_column_squares(rows: Any, sums: Any) -> None:
    """``sums[j] += rows[i, j] ** 2`` for i from 0 up; float32 ``[R, K]`` and float64 ``[K]``."""
    for i in range(rows.shape[0]):
        line = rows[i]
        for j in range(line.shape[0]):
            value = np.float64(line[j])
            sums[j] += value * value


@kernel
def row_squares(rows: Any, sums: Any) -> None:
    """``sums[i]``: sum of ``rows[i, j] ** 2`` for j from 0 up; float32 ``[R, K]`` and float64 ``[R]``."""
    for i in range(rows.shape[0]):
        line = rows[i]
        total = 0.0
        for j in range(line.shape[0]):
            value = np.float64(line[j])
            total += value * value
        sums[i] = total
