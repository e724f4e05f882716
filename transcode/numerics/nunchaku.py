"""Kernels that turn weights into 4-bit codes by scales from a calibration (see :mod:`.integer`).

The scales are given, so codes must fit: a value that does not is reported, never clamped. Divisions are those
of DeepCompressor (``backend/nunchaku/utils.py``): float32, by the outer scale first, then by the inner one.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .jit import kernel
from .lanes import rne, widen
from .minifloat import FORMATS

__all__ = ["fp4", "int4", "with_offset"]

_ZERO = np.float32(0)
_INF = np.float32(np.inf)
_LOW = np.float32(-8)
_HIGH = np.float32(7)
_OFFSET = np.float32(7)
_LARGEST = np.float32(15)

_MAGNITUDES = FORMATS["e2m1"].values()[:8]
# Half-way points between them.
_T1, _T2, _T3, _T4, _T5, _T6, _T7 = (_MAGNITUDES[1:] + _MAGNITUDES[:-1]) / np.float32(2)


@kernel
def int4(rows: Any, outer: Any, inner: Any, codes: Any, first: int, step: int) -> int:
    """``code = rne(x / outer / inner) & 15``, which must lie in -8..7.

    Where a value is 0 its code is 0, whatever the scale: groups of zeros may have the scale 0.

    Args:
        rows: bits ``[R, K]``, see :func:`.lanes.widen`.
        outer: float32 ``[R, G]``, G divides K.
        inner: likewise, G is a multiple of that of ``outer``.
        codes: uint8, at least K columns; row i is written to ``first + i * step``.

    Returns:
        The first row with a value that does not fit, or -1.
    """
    count, columns = rows.shape
    wide = columns // outer.shape[1]
    narrow = columns // inner.shape[1]
    for i in range(count):
        fits: Any = True
        for left in range(0, columns, narrow):
            row = rows[i, left : left + narrow]
            out = codes[first + i * step, left : left + narrow]
            a = outer[i, left // wide]
            b = inner[i, left // narrow]
            for j in range(row.shape[0]):
                x = widen(row[j])
                y = rne(x / a / b) if x != _ZERO else _ZERO
                fits &= (y >= _LOW) & (y <= _HIGH)
                out[j] = np.uint8(np.int32(y) & 15)
        if not fits:
            return i
    return -1


@kernel
def fp4(rows: Any, outer: Any, inner: Any, codes: Any, first: int, step: int) -> int:
    """``code = e2m1(x / outer / inner)``: the nearest of the sixteen values, ties to the smaller magnitude.

    Quotients beyond 6 become 6; what becomes zero loses its sign. Arguments and result as for
    :func:`int4`; only quotients that are not finite do not fit.
    """
    count, columns = rows.shape
    wide = columns // outer.shape[1]
    narrow = columns // inner.shape[1]
    for i in range(count):
        fits: Any = True
        for left in range(0, columns, narrow):
            row = rows[i, left : left + narrow]
            out = codes[first + i * step, left : left + narrow]
            a = outer[i, left // wide]
            b = inner[i, left // narrow]
            for j in range(row.shape[0]):
                x = widen(row[j])
                y = x / a / b if x != _ZERO else _ZERO
                size = abs(y)
                fits &= size < _INF
                code = (
                    np.int32(size > _T1) + np.int32(size > _T2) + np.int32(size > _T3) + np.int32(size > _T4)
                )
                code += np.int32(size > _T5) + np.int32(size > _T6) + np.int32(size > _T7)
                out[j] = np.uint8(code | (np.int32(y < -_T1) << np.int32(3)))
        if not fits:
            return i
    return -1


@kernel
def with_offset(rows: Any, outer: Any, inner: Any, codes: Any, first: int, step: int) -> int:
    """``code = rne((x + 7 * inner) / inner)``, which must lie in 0..15; ``outer`` is not used.

    Arguments and result as for :func:`int4` (DeepCompressor, ``backend/tinychat/utils.py``).
    """
    count, columns = rows.shape
    narrow = columns // inner.shape[1]
    for i in range(count):
        fits: Any = True
        for left in range(0, columns, narrow):
            row = rows[i, left : left + narrow]
            out = codes[first + i * step, left : left + narrow]
            scale = inner[i, left // narrow]
            zero = _OFFSET * scale
            for j in range(row.shape[0]):
                x = widen(row[j])
                y = rne((x + zero) / scale) if (x != _ZERO) | (scale != _ZERO) else _OFFSET
                fits &= (y >= _ZERO) & (y <= _LARGEST)
                out[j] = np.uint8(np.int32(y))
        if not fits:
            return i
    return -1
