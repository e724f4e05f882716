"""Kernels of plain casts: float32 to anything smaller, and back."""

from __future__ import annotations

from typing import Any

import numpy as np

from .jit import kernel
from .lanes import bits, encode, shr, size_of, widen

__all__ = ["expand", "narrow", "to_bf16", "to_odd"]

_U = np.uint32
_SIZE = _U(0x7FFFFFFF)
_INF = np.float32(np.inf)
_F32_MAX = np.finfo(np.float32).max
_INF_BITS = _U(0x7F800000)
_BF16_MAX = _U(0x7F7F)
_BF16_NAN = _U(0x7FC0)


@kernel
def expand(rows: Any, out: Any) -> None:
    """Bits ``[R, K]`` of F32, F16 or BF16 as float32; exact."""
    for i in range(rows.shape[0]):
        row = rows[i]
        line = out[i]
        for j in range(row.shape[0]):
            line[j] = widen(row[j])


@kernel
def narrow(
    rows: Any, largest: Any, normal_bits: Any, mantissa_shift: Any, limit: Any, infinity: Any, nan: Any,
    out: Any,
) -> bool:  # fmt: skip
    """Cast to a format that :func:`.lanes.encode` knows.

    Args:
        rows: bits ``[R, K]``, see :func:`.lanes.widen`.
        largest: largest finite value of the format.
        normal_bits, mantissa_shift: the format, see :func:`.lanes.encode`.
        limit: float32; magnitudes from here on are beyond ``largest`` even after rounding, and get its code.
        infinity: code (uint32, without sign) for infinity, or 0 where the format has none.
        nan: code for NaN.
        out: codes, unsigned integers ``[R, K]``, written.

    Returns:
        Whether any value without a code of its own was beyond the limit.
    """
    sign_shift = _U(32 - 8 * out.itemsize)
    sign = _U(_U(0x80000000) >> sign_shift)
    over = _U(0)
    magic = np.float32(_U(1) << mantissa_shift)
    base = _U(shr(normal_bits, mantissa_shift) + _U(mantissa_shift << _U(23)))
    largest_checked = _INF if infinity == _U(0) else _F32_MAX
    for i in range(rows.shape[0]):
        row = rows[i]
        line = out[i]
        for j in range(row.shape[0]):
            x = widen(row[j])
            size = size_of(x)
            code = _U(encode(size if size < largest else largest, normal_bits, mantissa_shift, magic) - base)
            over |= _U(size >= limit) & _U(size <= largest_checked)
            code = infinity if size > largest_checked else code
            code = nan if size != size else code
            line[j] = out.dtype.type(code | _U(shr(bits(x), sign_shift) & sign))
    return bool(over)


@kernel
def to_bf16(rows: Any, saturate: bool, out: Any) -> bool:
    """Bits ``[R, K]`` to those of BF16 (uint16); tells whether any finite value became infinite, or would
    have.
    """
    over = _U(0)
    for i in range(rows.shape[0]):
        row = rows[i]
        line = out[i]
        for j in range(row.shape[0]):
            x = bits(widen(row[j]))
            size = _U(x & _SIZE)
            code = _U(_U(_U(size + _U(0x7FFF)) + _U(_U(size >> _U(16)) & _U(1))) >> _U(16))
            large = code > _BF16_MAX and size < _INF_BITS
            over |= _U(large)
            code = _BF16_MAX if large and saturate else code
            code = _BF16_NAN if size > _INF_BITS else code
            line[j] = np.uint16(code | _U(_U(x >> _U(16)) & _U(0x8000)))
    return bool(over)


@kernel
def to_odd(rows: Any, out: Any) -> None:
    """Float64 ``[R, K]`` to float32 bits, rounded to odd.

    What is inexact gets an odd last bit, so that rounding once more, to a format at least two bits shorter,
    gives what rounding the float64 would have given (Boldo and Melquiond, "Emulation of FMA and correctly
    rounded sums", 2008). Finite values beyond float32 become its largest.
    """
    for i in range(rows.shape[0]):
        for j in range(rows.shape[1]):
            exact = rows[i, j]
            near = np.float32(exact)
            back = np.float64(near)
            u = bits(near)
            if back != exact and exact == exact:
                u = _U((u - _U(1) if abs(back) > abs(exact) else u) | _U(1))
            out[i, j] = u
