"""Kernels of bitsandbytes: codes that are places in a table, and rows of 8-bit integers."""

from __future__ import annotations

from typing import Any

import numpy as np

from .jit import kernel, lane
from .lanes import rne, widen

__all__ = ["peaks", "rowwise", "tabled"]

_ZERO = np.float32(0)
_ONE = np.float32(1)
_INF = np.float32(np.inf)
_LEAST = np.float32(1e-38)
_LARGEST = np.float32(127)


@lane
def peak_of(values: Any, start: Any, stop: Any) -> Any:
    """Largest magnitude of some values; infinite where one of them is not finite."""
    peak = _ZERO
    for j in range(start, stop):
        x = abs(widen(values[j]))
        if not x < _INF:
            return _INF
        peak = x if x > peak else peak
    return peak


@lane
def place(x: Any, bounds: Any) -> Any:
    """How many bounds are less than a number."""
    count = np.uint8(0)
    for k in range(15):
        count += np.uint8(bounds[k] < x)
    return count


@kernel
def peaks(values: Any, size: int, scales: Any) -> bool:
    """Largest magnitude of each ``size`` values; the last may be of fewer.

    Args:
        values: bits ``[n]``, see :func:`.lanes.widen`.
        size: values that share a scale.
        scales: float32 ``[cdiv(n, size)]``, written.

    Returns:
        Whether all values were finite.
    """
    for number in range(scales.shape[0]):
        at = number * size
        peak = peak_of(values, at, min(at + size, values.shape[0]))
        if not peak < _INF:
            return False
        scales[number] = peak
    return True


@kernel
def tabled(values: Any, size: int, bounds: Any, order: Any, codes: Any, scales: Any) -> bool:
    """The nearest number of a table to each value over the largest magnitude of its block.

    The quotient is ``x * (1 / max(peak, 1e-38))``, each step rounded to float32, and on a bound between two
    numbers the smaller is taken (``backends/default/ops.py`` of bitsandbytes).

    Args:
        values: bits ``[n]``, see :func:`.lanes.widen`; n and size even.
        size: values of a block; the last block may have fewer.
        bounds: float32 ``[15]``, between the 16 numbers of the table in ascending order.
        order: uint8 ``[16]``, the code of each of them.
        codes: uint8 ``[n / 2]``, written: two in a byte, the first in the high nibble.
        scales: float32 ``[cdiv(n, size)]``, written: the largest magnitudes.

    Returns:
        Whether all values were finite; otherwise the outputs are incomplete.
    """
    for number in range(scales.shape[0]):
        at = number * size
        stop = min(at + size, values.shape[0])
        peak = peak_of(values, at, stop)
        if not peak < _INF:
            return False
        scales[number] = peak
        inverse = _ONE / max(peak, _LEAST)
        for j in range(at, stop, 2):
            first = order[place(widen(values[j]) * inverse, bounds)]
            second = order[place(widen(values[j + 1]) * inverse, bounds)]
            codes[j // 2] = first << 4 | second
    return True


@kernel
def rowwise(values: Any, columns: int, codes: Any, scales: Any) -> bool:
    """``code = rne(x * (1 / peak * 127))`` of each row, each step rounded to float32; 0 in a row of zeros.

    Args:
        values: bits ``[n * columns]``, see :func:`.lanes.widen`.
        columns: values of a row.
        codes: int8 ``[n * columns]``, written.
        scales: float32 ``[n]``, written: the largest magnitudes.

    Returns:
        Whether all values were finite; otherwise the outputs are incomplete.
    """
    for number in range(scales.shape[0]):
        at = number * columns
        peak = peak_of(values, at, at + columns)
        if not peak < _INF:
            return False
        scales[number] = peak
        inverse = _ONE / peak * _LARGEST if peak > _ZERO else _ZERO
        if inverse < _INF:
            for j in range(at, at + columns):
                codes[j] = np.int8(rne(widen(values[j]) * inverse))
        else:  # the reciprocal of so small a peak is none
            for j in range(at, at + columns):
                codes[j] = np.int8(rne(widen(values[j]) / peak * _LARGEST))
    return True
