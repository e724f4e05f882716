"""Kernel of codes of any few bits under a scale and an offset, both floats."""

from __future__ import annotations

from typing import Any

import numpy as np

from .affine import stored_offset
from .backend import dispatched
from .jit import kernel, lane
from .lanes import rne, store, widen
from .starts import PHASES, ROUNDS, SHARES, TINY

__all__ = ["affine_widths"]

_ZERO = np.float32(0)
_ONE, _TWO = np.float32(1), np.float32(2)
_INF = np.float32(np.inf)
_ROUNDS, _MORE_ROUNDS = ROUNDS


@lane
def near(x: Any, scale: Any, offset: Any, top: Any, middle: Any) -> Any:
    """The code nearest to a value, less ``middle``."""
    return min(max(rne(min(max((x - offset) / scale, -top), top)), -middle), top - middle)


@dispatched
@kernel
def affine_widths(
    values: Any, size: int, width: int, middle: Any, stored: int, starts: int, weights: Any, line: Any,
    codes: Any, scales: Any, offsets: Any,
) -> bool:  # fmt: skip
    """``code = clamp(rne((x - offset) / scale) + middle, 0, top)``, a stream of bits, the lowest first.

    ``top`` is the largest code, ``2**width - 1``. From ``scale = (max - min) / top`` and ``offset = min +
    middle * scale`` on: codes, the line of least squares through them, and again; the pair with the least
    squared error is kept. A search begins at other scales and offsets as well. A group of equal values has
    that value for an offset.

    Args:
        values: bits ``[n * size]``, see :func:`.lanes.widen`; size a multiple of 8.
        size: values of a group.
        width: bits of a code, up to 8.
        middle: float32, the code that stands for the offset.
        stored: dtype of scales and offsets, :data:`.lanes.STORED`.
        starts: 1, or :data:`.starts.SEARCHED`.
        weights: what the squared error of each column counts, float32 ``[K]``, K a multiple of the size; or
            ``[1]`` for one weight for all.
        line: float32 ``[2 * size]``, overwritten.
        codes: uint8 ``[n * size * width / 8]``, written.
        scales, offsets: float32 ``[n]``, written; they hold values of the stored dtype.

    Returns:
        Whether all values were finite; otherwise the outputs are incomplete.
    """
    top = np.float32((1 << width) - 1)
    columns = weights.shape[0]
    rounds = _ROUNDS if starts == 1 else _MORE_ROUNDS
    for number in range(scales.shape[0]):
        at = number * size
        low, high, count = _INF, -_INF, _ZERO
        for j in range(size):
            x = widen(values[at + j])
            if not abs(x) < _INF:
                return False
            line[j] = x
            line[size + j] = weights[(at + j) % columns]
            count += line[size + j]
            low = x if x < low else low
            high = x if x > high else high
        widest = high / top - low / top
        best_scale, best_offset, least = _ONE, stored_offset(low, stored), _INF
        unit = _ONE / max(widest, TINY)
        for start in range(starts if widest >= TINY else 1):
            scale = widest * SHARES[start]
            offset = (low + (widest - scale) * top / _TWO) + (middle + PHASES[start]) * scale
            for _ in range(rounds if widest >= TINY else 1):
                own, shift = store(scale, stored), stored_offset(offset, stored)
                error, sums, squares, total, products = _ZERO, _ZERO, _ZERO, _ZERO, _ZERO
                for j in range(size):
                    weight = line[size + j]
                    q = near(line[j], own, shift, top, middle)
                    gap = (line[j] - (q * own + shift)) * unit
                    error += gap * gap * weight
                    x = (line[j] - shift) * unit * weight
                    sums += q * weight
                    squares += q * q * weight
                    total += x
                    products += q * x
                if error < least:
                    best_scale, best_offset, least = own, shift, error
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
