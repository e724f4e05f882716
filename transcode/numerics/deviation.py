"""Variances of columns whose sums are exact: the same in whatever order rows are added."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .jit import kernel
from .lanes import bits

__all__ = ["sums", "variances"]

_BINS = 16
"""Sixteen exponents to each: 24 bits of a float32 moved by up to 15 leave room for ``2**24`` rows."""

_I = np.int64
_U = np.uint32


@kernel
def add(values: Any, summed: Any) -> bool:
    """Add numbers, and their squares rounded to float32, to integers of the bins of their exponents.

    Args:
        values: float32 ``[r, K]``.
        summed: int64 ``[2, 16, K]``, added to.

    Returns:
        Whether all are finite.
    """
    bad = _U(0)
    for i in range(values.shape[0]):
        for j in range(values.shape[1]):
            x = values[i, j]
            for power in range(2):
                word = bits(x * x if power else x)
                field = _U(_U(word >> _U(23)) & _U(255))
                if field == _U(255):  # a square may be beyond float32: the largest stands for it
                    bad |= _U(power == 0)
                    word, field = _U(0x7F7FFFFF), _U(254)
                number = _I(_U(word & _U(0x7FFFFF)) | _U(_U(field > _U(0)) << _U(23)))
                place = _I(field) - _I(field > _U(0))
                number = -number if word >> _U(31) else number
                summed[power, place >> 4, j] += number << (place & 15)
    return bool(bad == _U(0))


def sums(values: NDArray[np.float32]) -> NDArray[np.int64] | None:
    """Sums of columns and of their squares, see :func:`add`; None where a value is not finite."""
    summed = np.zeros((2, _BINS, values.shape[1]), np.int64)
    return summed if add(values, summed) else None


def variances(summed: NDArray[np.int64], rows: int) -> NDArray[np.float64]:
    """Of columns, not negative.

    Args:
        summed: see :func:`sums`.
        rows: how many were added.
    """
    units = np.ldexp(1.0, 16 * np.arange(_BINS) - 149).reshape(-1, 1)
    first, second = (part.astype(np.float64) * units for part in summed)
    mean = first.sum(0) / rows
    return np.asarray(np.maximum(second.sum(0) / rows - mean * mean, 0))
