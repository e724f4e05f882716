"""Casts between float dtypes, a tile at a time: one rounding, to nearest even."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.dtypes import FLOATS, DType
from ..core.records import dataclass
from .errors import Overflow
from .minifloat import FORMATS, PLAIN, FloatFormat
from .rows import as_bits, as_float64

__all__ = ["CODED", "cast"]

Array = NDArray[Any]

CODED = {kind.dtype: kind for kind in FORMATS.values() if kind.bits == 8 and kind.signed}
"""The 8-bit float dtypes."""


@dataclass(frozen=True, slots=True)
class _Target:
    """Where a dtype ends, as ``convert.narrow`` wants it.

    Attributes:
        kind: the format.
        nan: code of NaN, of those that the format has the one that torch writes.
    """

    kind: FloatFormat
    nan: int

    @property
    def limit(self) -> float:
        """Smallest float32 magnitude that rounds to more than the format's ``max``.

        Half a step above ``max`` is a tie, which goes to the even code: above, where the code of ``max`` is
        odd; down to ``max``, where it is even.
        """
        kind = self.kind
        steps = int(kind.max / 2.0 ** (kind.emax - kind.nmant))
        return kind.limit if steps % 2 else float(np.nextafter(np.float32(kind.limit), np.float32(np.inf)))

    @property
    def infinity(self) -> int:
        """Code of infinity, 0 where there is none."""
        return ((1 << self.kind.nexp) - 1) << self.kind.nmant if self.kind.infinite else 0


_TARGETS = {
    "F16": _Target(PLAIN["F16"], 0x7E00),
    "F8_E5M2": _Target(FORMATS["e5m2"], 0x7F),
    "F8_E4M3": _Target(FORMATS["e4m3fn"], 0x7F),
}
_BF16_LIMIT = PLAIN["BF16"].limit
_F32_LIMIT = PLAIN["F32"].limit


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
        np.float32(target.kind.max),
        target.kind.normal_bits,
        target.kind.mantissa_shift,
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
