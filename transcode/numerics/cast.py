"""Casts between float dtypes, a tile at a time: one rounding, to nearest even."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.dtypes import FLOATS, DType
from .errors import Overflow
from .minifloat import FORMATS
from .rows import as_bits, as_float64

__all__ = ["CODED", "cast"]

Array = NDArray[Any]

CODED = {kind.dtype: kind for kind in FORMATS.values() if kind.bits == 8}
"""The 8-bit float dtypes."""


@dataclass(frozen=True, slots=True)
class _Target:
    """Where a dtype ends, as ``convert.narrow`` wants it.

    Attributes:
        top: largest finite value.
        least: smallest normal number.
        mantissa: bits of the fraction.
        limit: least float32 magnitude that rounds to more than ``top``. Half a step above ``top`` is a tie,
            which
            goes to the even code: above, where the code of ``top`` is odd; down to ``top``, where it is even.
        infinity: code of infinity, 0 where there is none.
        nan: code of NaN.
    """

    top: float
    least: float
    mantissa: int
    limit: float
    infinity: int
    nan: int


_TARGETS = {
    "F16": _Target(65504.0, 2.0**-14, 10, 65520.0, 0x7C00, 0x7E00),
    "F8_E5M2": _Target(57344.0, 2.0**-14, 2, 61440.0, 0x7C, 0x7F),
    "F8_E4M3": _Target(448.0, 2.0**-6, 3, float(np.nextafter(np.float32(464), np.float32(np.inf))), 0, 0x7F),
}
_BF16_LIMIT = float(np.uint32(0x7F7F8000).view(np.float32))
_F32_LIMIT = 2.0**128 - 2.0**103


def cast(rows: Array, source: DType, to: DType, out: Array, *, saturate: bool = False) -> None:
    """Cast rows ``[R, K]`` into ``out``, an array of that shape; both in their dtypes' carriers.

    F64, F32, F16, BF16, F8_E4M3 and F8_E5M2, in any pair. NaN becomes the quiet NaN of its sign, infinity
    stays infinity; F8_E4M3 has no infinity: there it counts as too large.

    Args:
        saturate: what is finite and too large for ``to`` becomes its largest value, as does infinity where
            there is none.

    Raises:
        Overflow: such a value, and ``saturate`` is false.
        KeyError: a dtype that is not a float of 8 bits or more.
    """
    for dtype in (source, to):
        if dtype.name not in FLOATS and dtype.name not in CODED:
            raise KeyError(dtype.name)
    if source == to:
        np.copyto(out, rows)
    elif to.name in ("F64", "F32"):
        _widen(rows, source, to, out, saturate)
    else:
        _narrow(rows, source, to, out, saturate)


def _widen(rows: Array, source: DType, to: DType, out: Array, saturate: bool) -> None:
    from .convert import expand

    if source.name in CODED:
        np.copyto(out, CODED[source.name].values()[rows])
    elif source.name == "F64":
        with np.errstate(over="ignore"):
            np.copyto(out, rows, casting="same_kind")
        over = np.isinf(out) & np.isfinite(rows)
        if over.any():
            if not saturate:
                raise _overflow(rows, source, _F32_LIMIT)
            out[over] = np.copysign(np.finfo(np.float32).max, out[over])
    elif to.name == "F32":
        expand(as_bits(rows, source), out)
    else:
        np.copyto(out, as_float64(rows, source))


def _narrow(rows: Array, source: DType, to: DType, out: Array, saturate: bool) -> None:
    from .convert import narrow, to_bf16, to_odd

    if source.name == "F64":
        bits = np.empty(rows.shape, np.uint32)
        to_odd(np.require(rows, requirements=("C", "A")), bits)
        bits.setflags(write=False)
    elif source.name in CODED:
        bits = CODED[source.name].values()[rows].view(np.uint32)
        bits.setflags(write=False)
    else:
        bits = as_bits(rows, source)
    if to.name == "BF16":
        if to_bf16(bits, saturate, out) and not saturate:
            raise _overflow(rows, source, _BF16_LIMIT)
        return
    target = _TARGETS[to.name]
    over = narrow(
        bits,
        np.float32(target.top),
        np.float32(target.least).view(np.uint32),
        np.uint32(23 - target.mantissa),
        np.float32(target.limit),
        np.uint32(target.infinity),
        np.uint32(target.nan),
        out.view(np.uint16 if to.itemsize == 2 else np.uint8),
    )
    if over and not saturate:
        raise _overflow(rows, source, target.limit, infinite=not target.infinity)


def _overflow(rows: Array, source: DType, limit: float, *, infinite: bool = False) -> Overflow:
    """The error that names the first value that is too large."""
    for index in range(rows.shape[0]):
        if source.name in CODED:
            exact = CODED[source.name].values()[rows[index]].astype(np.float64)
        else:
            exact = as_float64(rows[index], source)
        size = np.abs(exact)
        bad = (size >= limit) & (np.isfinite(size) | infinite)
        if bad.any():
            column = int(np.argmax(bad))
            return Overflow(index, column, float(exact[column]))
    raise AssertionError("all values fit")
