"""Source values as kernels want them, and what can be said of them before they are encoded."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.dtypes import DType
from ..core.scratch import Scratch
from .errors import NonFinite

__all__ = ["as_bits", "as_float32", "as_float64", "peak", "reject"]

_VIEWS = {"BF16": np.uint16, "F16": np.int16, "F32": np.uint32}


def as_bits(rows: NDArray[Any], dtype: DType, scratch: Scratch | None = None) -> NDArray[Any]:
    """Rows ``[R, K]`` of a plain float tensor as the read-only bits that kernels take.

    A view, but for F64, which is rounded to F32 first.
    """
    if dtype.name == "F64":
        narrow = np.empty(rows.shape, np.float32) if scratch is None else scratch.take(rows.shape, np.float32)
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            np.copyto(narrow, rows, casting="same_kind")
        rows = narrow
        view = rows.view(np.uint32)
    else:
        view = np.require(rows, requirements=("C", "A")).view(_VIEWS[dtype.name])
    # One type for all callers, or each kernel would be compiled for views of a file and again for arrays.
    view.setflags(write=False)
    return view


def as_float32(rows: NDArray[Any], dtype: DType, scratch: Scratch) -> NDArray[np.float32]:
    """Read-only values of rows ``[R, K]`` of any plain float dtype, F64 rounded; a view of F32."""
    from .convert import expand

    bits = as_bits(rows, dtype, scratch)
    if bits.dtype == np.uint32:
        return bits.view(np.float32)
    values = scratch.take(rows.shape, np.float32)
    expand(bits, values)
    values.setflags(write=False)
    return values


def as_float64(rows: NDArray[Any], dtype: DType) -> NDArray[np.float64]:
    """The exact values of rows of any plain float dtype."""
    if dtype.name == "BF16":
        rows = (rows.astype(np.uint32) << 16).view(np.float32)
    with np.errstate(invalid="ignore"):  # what numpy says of a signalling NaN
        return rows.astype(np.float64)


def reject(rows: NDArray[Any], dtype: DType) -> NonFinite:
    """The error that names the first value beyond float32 among some rows; its row is counted from theirs."""
    for index in range(rows.shape[0]):
        exact = as_float64(rows[index], dtype)
        with np.errstate(over="ignore", invalid="ignore"):
            bad = ~np.isfinite(exact.astype(np.float32))
        if bad.any():
            column = int(np.argmax(bad))
            return NonFinite(index, column, float(exact[column]))
    raise AssertionError("all values are finite")


def peak(rows: NDArray[Any], dtype: DType) -> float:
    """Largest magnitude among rows ``[R, K]``, in float32. Raises ``NonFinite``."""
    from .reduce import largest

    magnitude = float(largest(as_bits(rows, dtype)))
    if not np.isfinite(magnitude):
        raise reject(rows, dtype)
    return magnitude
