"""Rotations that orthogonal adapters are made of: Cayley's transform and butterflies, in float64.

They are written out, not left to LAPACK: every sum has one order, so the bits depend neither on the number of
threads nor on which library numpy was built with.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .jit import kernel

__all__ = ["butterfly_rows", "cayley", "neumann"]

F64Array = NDArray[np.float64]

_BLOCK = 64
_STEPS = 4


def cayley(skew: F64Array) -> F64Array:
    """``(I + Q) @ inverse(I - Q)`` for each skew-symmetric Q of ``[D, n, n]``: rotations, the same shape.

    That is ``2 * inverse(I - Q) - I``. The inverse exists whatever Q is: its eigenvalues are imaginary.
    """
    rotations = np.empty_like(skew)
    identity = np.eye(skew.shape[-1])
    for matrix, rotation in zip(skew, rotations, strict=True):
        rotation[...] = identity - matrix
        _invert_blocks(rotation)
        rotation *= 2
        rotation -= identity
    return rotations


def _invert_blocks(matrix: F64Array) -> None:
    """Replace ``I - Q`` by its inverse: Gauss and Jordan, some rows and columns at a time."""
    size = len(matrix)
    for first in range(0, size, _BLOCK):
        last = min(first + _BLOCK, size)
        count = last - first + -(last - first) % _STEPS
        left = np.zeros((size, count))
        left[:, : last - first] = matrix[:, first:last]
        inverse = np.eye(last - first)
        _invert(matrix[first:last, first:last].copy(), inverse)
        rows = matrix[first:last].copy()
        rows[:, first:last] = np.eye(last - first)
        right = np.zeros((count, size))
        _multiply(inverse, rows, right[: last - first])
        matrix[:, first:last] = 0
        _subtract(left[:first], right, matrix[:first])
        _subtract(left[last:], right, matrix[last:])
        matrix[first:last] = right[: last - first]


def neumann(skew: F64Array, terms: int) -> F64Array:
    """Cayley's transform of each Q of ``[D, n, n]`` as PEFT approximates it by a series of so many terms.

    ``I + 2 Q + 2 Q^2 + ... + Q^(terms - 1)``, the last once, and never less than the cube where there are
    three terms or more (``peft/tuners/oft/layer.py``, ``_cayley_batch``).
    """
    rotations = np.empty_like(skew)
    for matrix, rotation in zip(skew, rotations, strict=True):
        rotation[...] = np.eye(skew.shape[-1])
        if terms > 1:
            rotation += 2 * matrix
        if terms > 2:
            matrix_power = _product(matrix, matrix)
            rotation += 2 * matrix_power
            for _ in range(3, terms - 1):
                matrix_power = _product(matrix_power, matrix)
                rotation += 2 * matrix_power
            rotation += _product(matrix_power, matrix)
    return rotations


def _product(left: F64Array, right: F64Array) -> F64Array:
    rotations = np.zeros_like(left)
    _multiply(np.ascontiguousarray(left), np.ascontiguousarray(right), rotations)
    return rotations


@kernel
def _multiply(left: Any, right: Any, out: Any) -> None:
    """``out += left @ right``, float64."""
    for i in range(left.shape[0]):
        line = out[i]
        for r in range(left.shape[1]):
            factor = left[i, r]
            values = right[r]
            for j in range(line.shape[0]):
                line[j] += factor * values[j]


@kernel
def _subtract(left: Any, right: Any, out: Any) -> None:
    """``out -= left @ right``, float64, the terms one after the other; their number a multiple of 4."""
    columns = out.shape[1]
    for begin in range(0, columns, 256):
        end = min(begin + 256, columns)
        for i in range(out.shape[0]):
            line = out[i, begin:end]
            for r in range(0, left.shape[1], 4):
                a0, a1, a2, a3 = left[i, r], left[i, r + 1], left[i, r + 2], left[i, r + 3]
                x0 = right[r, begin:end]
                x1 = right[r + 1, begin:end]
                x2 = right[r + 2, begin:end]
                x3 = right[r + 3, begin:end]
                for j in range(line.shape[0]):
                    line[j] = (((line[j] - a0 * x0[j]) - a1 * x1[j]) - a2 * x2[j]) - a3 * x3[j]


@kernel
def _invert(matrix: Any, inverse: Any) -> None:
    """Solve for the inverse, which is the identity before; float64 ``[n, n]`` both, both changed.

    Gauss and Jordan without pivoting, which is stable here: the symmetric part of ``I - Q`` is the identity,
    and stays positive in what is left after each step.
    """
    size = matrix.shape[0]
    for p in range(size):
        row = matrix[p]
        solved = inverse[p]
        factor = 1.0 / row[p]
        for j in range(p, size):
            row[j] *= factor
        for j in range(p + 1):
            solved[j] *= factor
        for i in range(size):
            if i != p:
                factor = matrix[i, p]
                remaining = matrix[i]
                inverse_row = inverse[i]
                for j in range(p, size):
                    remaining[j] -= factor * row[j]
                for j in range(p + 1):
                    inverse_row[j] -= factor * solved[j]


def butterfly_rows(blocks: Any, first: int, rows: Any) -> None:
    """Rows of the matrix that a product of butterflies is.

    Stage i takes positions that lie ``2**i * b / 2`` apart together: position ``c * 2k + g * k + t`` goes to
    ``c * 2k + t * 2 + g``, each run of b positions is multiplied by its block, and positions go back. Stage 0
    comes first (``lycoris/functional/boft.py``, ``_diff_weight``).

    Args:
        blocks: float64 ``[m, N / b, b, b]``; b even, N a multiple of ``2**(m - 1) * b``.
        first: number of the first row wanted.
        rows: float64 ``[R, N]``, written.
    """
    width = blocks.shape[1] * blocks.shape[2]
    _butterfly_rows(blocks, first, np.empty(width), np.empty(width), rows)


@kernel
def _butterfly_rows(blocks: Any, first: int, moved: Any, turned: Any, rows: Any) -> None:
    """:func:`butterfly_rows`, with room for two rows, written."""
    stages, count, size, _ = blocks.shape
    width = count * size
    for n in range(rows.shape[0]):
        row = rows[n]
        for j in range(width):
            row[j] = 0.0
        row[first + n] = 1.0
        for stage in range(stages - 1, -1, -1):
            half = (size // 2) << stage
            for c in range(0, width, 2 * half):
                for g in range(2):
                    for t in range(half):
                        moved[c + t * 2 + g] = row[c + g * half + t]
            for x in range(count):
                block = blocks[stage, x]
                for j in range(size):
                    turned[x * size + j] = 0.0
                for r in range(size):
                    factor = moved[x * size + r]
                    if factor != 0.0:
                        for j in range(size):
                            turned[x * size + j] += factor * block[r, j]
            for c in range(0, width, 2 * half):
                for g in range(2):
                    for t in range(half):
                        row[c + g * half + t] = turned[c + t * 2 + g]
