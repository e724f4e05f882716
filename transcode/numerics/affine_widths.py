"""Kernel of codes of any few bits under a scale and an offset, both floats."""

from __future__ import annotations

from typing import Any

import numpy as np

from .affine import stored_offset
from .jit import kernel, lane
from .lanes import rne, store, widen

__all__ = ["affine_widths"]

_ZERO = np.float32(0)
_ONE = np.float32(1)
_INF = np.float32(np.inf)
_TINY = np.float32(2.0**-100)
_ROUNDS = 4


@lane
def near(x: Any, scale: Any, offset: Any, top: Any, middle: Any) -> Any:
    """The code nearest to a value, less ``middle``."""
    return min(max(rne(min(max((x - offset) / scale, -top), top)), -middle), top - middle)


@kernel
def affine_widths(
    values: Any, size: int, width: int, middle: Any, stored: int, line: Any, codes: Any, scales: Any,
    offsets: Any,
) -> bool:  # fmt: skip
    """``code = clamp(rne((x - offset) / scale) + middle, 0, top)``, a stream of bits, the lowest first.

    ``top`` is the largest code, ``2**width - 1``. From ``scale = (max - min) / top`` and ``offset = min +
    middle * scale`` on: codes, the line of least squares through them, and again; the pair with the least
    squared error is kept. A group of equal values has that value for an offset.

    Args:
        values: bits ``[n * size]``, see :func:`.lanes.widen`; size a multiple of 8.
        size: values of a group.
        width: bits of a code, up to 8.
        middle: float32, the code that stands for the offset.
        stored: dtype of scales and offsets, :data:`.lanes.STORED`.
        line: float32 ``[size]``, overwritten.
        codes: uint8 ``[n * size * width / 8]``, written.
        scales, offsets: float32 ``[n]``, written; they hold values of the stored dtype.

    Returns:
        Whether all values were finite; otherwise the outputs are incomplete.
    """
    top = np.float32((1 << width) - 1)
    for number in range(scales.shape[0]):
        at = number * size
        low, high = _INF, -_INF
        for j in range(size):
            x = widen(values[at + j])
            if not abs(x) < _INF:
                return False
            line[j] = x
            low = x if x < low else low
            high = x if x > high else high
        scale = high / top - low / top
        offset = low + middle * scale
        best_scale, best_offset, least = _ONE, stored_offset(low, stored), _INF
        unit = _ONE / max(scale, _TINY)
        for _ in range(_ROUNDS if scale >= _TINY else 1):
            own, shift = store(scale, stored), stored_offset(offset, stored)
            error, sums, squares, total, products = _ZERO, _ZERO, _ZERO, _ZERO, _ZERO
            for j in range(size):
                q = near(line[j], own, shift, top, middle)
                gap = (line[j] - (q * own + shift)) * unit
                error += gap * gap
                x = (line[j] - shift) * unit
                sums += q
                squares += q * q
                total += x
                products += q * x
            if error < least:
                best_scale, best_offset, least = own, shift, error
            count = np.float32(size)
            spread = count * squares - sums * sums
            if not spread > _ZERO:
                break
            slope = (count * products - sums * total) / spread
            if not slope > _ZERO:
                break
            offset = shift + ((total - slope * sums) / count) / unit
            scale = slope / unit
        scales[number], offsets[number] = best_scale, best_offset
        for j in range(0, size, 8):
            word = np.uint64(0)
            for k in range(8):
                q = np.uint8(near(line[j + k], best_scale, best_offset, top, middle) + middle)
                word |= np.uint64(q) << np.uint64(width * k)
            first = (at + j) // 8 * width
            for k in range(width):
                codes[first + k] = np.uint8(word >> np.uint64(8 * k) & np.uint64(255))
    return True
