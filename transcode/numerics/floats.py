"""Kernels of 8-bit floats, scaled by blocks of ``height`` rows by ``width`` columns (see :mod:`.integer`)."""

from __future__ import annotations

from typing import Any

import numpy as np

from .backend import dispatched
from .jit import kernel
from .lanes import bits, encode, fit, gentle, larger, quotient, real, shr, size_of, widen

__all__ = ["scaled", "scaled_under"]

_ZERO = np.float32(0)
_ONE = np.float32(1)
_INF = np.float32(np.inf)
_U = np.uint32
_SIGN = _U(0x80)


@dispatched
def scaled(
    rows: Any, height: int, width: int, stored: int, tensor_scale: Any,
    largest: Any, normal_bits: Any, mantissa_shift: Any, magic: Any, codes: Any, scales: Any,
) -> bool:  # fmt: skip
    """:func:`scaled_under` scales of its own."""
    return bool(
        scaled_under(
            rows, height, width, stored, tensor_scale, False,
            largest, normal_bits, mantissa_shift, magic, codes, scales,
        )
    )  # fmt: skip


@kernel
def scaled_under(
    rows: Any, height: int, width: int, stored: int, tensor_scale: Any, has_scales: bool,
    largest: Any, normal_bits: Any, mantissa_shift: Any, magic: Any, codes: Any, scales: Any,
) -> bool:  # fmt: skip
    """``scale = amax / largest``, ``code = rne(x / scale)`` saturating, from the scale as it is stored.

    Args:
        rows: bits ``[R, K]``, see :func:`.lanes.widen`.
        height, width: rows and columns of a block.
        stored: dtype of the stored scale, :data:`.lanes.STORED`.
        tensor_scale: a scale for all blocks, float32, or 0 to compute one for each.
        has_scales: whether ``scales`` hold the scales already.
        largest: largest finite value of the format.
        normal_bits, mantissa_shift, magic: the format, see :func:`.lanes.encode`.
        codes: uint8 ``[R, K]``, written.
        scales: float32 ``[cdiv(R, height), cdiv(K, width)]``, written; holds values of the stored dtype.

    Returns:
        Whether all values were finite; otherwise the outputs are incomplete.
    """
    half_step = _U(_U(1) << _U(mantissa_shift - _U(1)))
    limit = real(_U(bits(largest) + half_step))
    count, columns = rows.shape
    for head in range(0, count, height):
        foot = min(head + height, count)
        for left in range(0, columns, width):
            right = min(left + width, columns)
            if has_scales:
                scale = scales[head // height, left // width]
            elif tensor_scale > _ZERO:
                scale = tensor_scale
            else:
                peak_bits = rows.dtype.type(0)
                for i in range(head, foot):
                    row = rows[i, left:right]
                    for j in range(row.shape[0]):
                        peak_bits = larger(peak_bits, row[j])
                peak = widen(peak_bits)
                if not peak < _INF:
                    return False
                scale = fit(peak, largest, limit, stored)
            scales[head // height, left // width] = scale
            quick = gentle(scale, stored)
            inverse = _ONE / scale
            for i in range(head, foot):
                row = rows[i, left:right]
                out = codes[i, left:right]
                if quick:
                    for j in range(row.shape[0]):
                        x = widen(row[j])
                        code = encode(
                            size_of(quotient(x, scale, inverse)), normal_bits, mantissa_shift, magic
                        )
                        out[j] = np.uint8(code | _U(shr(bits(x), _U(24)) & _SIGN))
                else:
                    for j in range(row.shape[0]):
                        x = widen(row[j])
                        size = size_of(x / scale)
                        code = encode(size if size < largest else largest, normal_bits, mantissa_shift, magic)
                        out[j] = np.uint8(code | _U(shr(bits(x), _U(24)) & _SIGN))
    return True
