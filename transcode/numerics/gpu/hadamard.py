"""Rows turned by a regular Hadamard matrix on their way into integers, see :mod:`..hadamard`."""

from __future__ import annotations

from typing import Any

import torch

from .integer import symmetric, with_zero
from .worker import Array, Worker

__all__ = ["rotated_symmetric", "rotated_with_zero", "turned"]


def turned(values: torch.Tensor, size: int, unit: float) -> torch.Tensor:
    """Values ``[r, K]`` of any plain dtype times the matrix, float32: the sums of :mod:`..turning`, in their
    order.
    """
    rows, columns = values.shape
    values = values.float() * unit
    stride = 1
    while stride < size:
        a, b, c, d = values.view(rows, -1, 4, stride).unbind(2)
        p, m, q, n = a + b, a - b, c + d, c - d
        values = torch.stack((p + n, p - n, q + m, q - m), 2).view(rows, columns)
        stride *= 4
    return values


def rotated_symmetric(
    worker: Worker, rows: Array, size: int, unit: Any, line: Array, bits: Array,
    width: int, stored: int, tensor_scale: Any, largest: Any, codes: Array, scales: Array,
) -> bool:  # fmt: skip
    """See :func:`..hadamard.rotated_symmetric`; ``line`` and ``bits`` are not looked at."""
    return symmetric(
        worker, rows, 1, width, stored, tensor_scale, largest, codes, scales,
        before=lambda values: turned(values, size, float(unit)),
    )  # fmt: skip


def rotated_with_zero(
    worker: Worker, rows: Array, size: int, unit: Any, line: Array, bits: Array,
    width: int, stored: int, span: Any, codes: Array, scales: Array, zeros: Array,
) -> bool:  # fmt: skip
    """See :func:`..hadamard.rotated_with_zero`; ``line`` and ``bits`` are not looked at."""
    return with_zero(
        worker, rows, width, stored, span, codes, scales, zeros,
        before=lambda values: turned(values, size, float(unit)),
    )  # fmt: skip
