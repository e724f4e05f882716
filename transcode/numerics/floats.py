"""Kernels of 8-bit floats, scaled by blocks of ``height`` rows by ``width`` columns (see :mod:`.integer`)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .backend import dispatched
from .edges import by_words
from .jit import kernel, lane
from .lanes import bits, encode, fit, gentle, larger, quotient, real, shr, size_of, widen
from .mantissas import AT_ONCE, codes64, first_code, lowest_word, mantissa_edges, words_below, worth

__all__ = ["scaled", "scaled_under", "work"]

_ZERO = np.float32(0)
_ONE = np.float32(1)
_INF = np.float32(np.inf)
_U = np.uint32
_SIGN = _U(0x80)


def work(columns: int, width: int) -> NDArray[np.uint64]:
    """What :func:`scaled_under` needs for itself."""
    return np.empty(3 * -(-columns // width), np.uint64)


@dispatched
def scaled(
    rows: Any, height: int, width: int, stored: int, tensor_scale: Any,
    largest: Any, normal_bits: Any, mantissa_shift: Any, magic: Any, codes: Any, scales: Any,
) -> bool:  # fmt: skip
    """:func:`scaled_under` scales of its own."""
    return bool(
        scaled_under(
            rows, height, width, stored, tensor_scale, False,
            largest, normal_bits, mantissa_shift, magic, work(rows.shape[1], width), codes, scales,
        )
    )  # fmt: skip


@lane
def code_plainly(
    row: Any,
    scale: Any,
    quick: Any,
    largest: Any,
    normal_bits: Any,
    mantissa_shift: Any,
    magic: Any,
    out: Any,
) -> Any:
    """Write the codes of some values, one by one; ``quick`` is what :func:`.lanes.gentle` says."""
    inverse = _ONE / scale
    if quick:
        for j in range(row.shape[0]):
            x = widen(row[j])
            code = encode(size_of(quotient(x, scale, inverse)), normal_bits, mantissa_shift, magic)
            out[j] = np.uint8(code | _U(shr(bits(x), _U(24)) & _SIGN))
    else:
        for j in range(row.shape[0]):
            x = widen(row[j])
            size = size_of(x / scale)
            code = encode(size if size < largest else largest, normal_bits, mantissa_shift, magic)
            out[j] = np.uint8(code | _U(shr(bits(x), _U(24)) & _SIGN))


@kernel
def scaled_under(
    rows: Any, height: int, width: int, stored: int, tensor_scale: Any, has_scales: bool,
    largest: Any, normal_bits: Any, mantissa_shift: Any, magic: Any, work: Any, codes: Any, scales: Any,
) -> bool:  # fmt: skip
    """``scale = amax / largest``, ``code = rne(x / scale)`` saturating, from the scale as it is stored.

    Blocks side by side are gone through row by row, as they lie in memory.

    Args:
        rows: bits ``[R, K]``, see :func:`.lanes.widen`.
        height, width: rows and columns of a block.
        stored: dtype of the stored scale, :data:`.lanes.STORED`.
        tensor_scale: a scale for all blocks, float32, or 0 to compute one for each.
        has_scales: whether ``scales`` hold the scales already.
        largest: largest finite value of the format.
        normal_bits, mantissa_shift, magic: the format, see :func:`.lanes.encode`.
        work: see :func:`work`.
        codes: uint8 ``[R, K]``, written.
        scales: float32 ``[cdiv(R, height), cdiv(K, width)]``, written; holds values of the stored dtype.

    Returns:
        Whether all values were finite; otherwise the outputs are incomplete.
    """
    half_step = _U(_U(1) << _U(mantissa_shift - _U(1)))
    limit = real(_U(bits(largest) + half_step))
    count, columns = rows.shape
    firsts, lowests, edges = (
        work[: scales.shape[1]],
        work[scales.shape[1] : 2 * scales.shape[1]],
        work[2 * scales.shape[1] :],
    )
    wordy = by_words(rows) and min(height, count) * min(width, columns) >= worth()
    for number in range(scales.shape[0]):
        head, foot = number * height, min(number * height + height, count)
        each = scales[number]
        if tensor_scale > _ZERO and not has_scales:
            for b in range(each.shape[0]):
                each[b] = tensor_scale
        elif not has_scales:
            for b in range(each.shape[0]):
                each[b] = _ZERO
            for i in range(head, foot):
                for b in range(each.shape[0]):
                    row = rows[i, b * width : min(b * width + width, columns)]
                    peak_bits = rows.dtype.type(0)
                    for j in range(row.shape[0]):
                        peak_bits = larger(peak_bits, row[j])
                    peak = widen(peak_bits)
                    if not peak < _INF:
                        return False
                    each[b] = max(each[b], peak)
            for b in range(each.shape[0]):
                each[b] = fit(each[b], largest, limit, stored)
        if wordy:
            for b in range(each.shape[0]):
                scale = each[b]
                inverse = _ONE / scale
                if gentle(scale, stored):
                    first = first_code(scale, inverse, normal_bits, mantissa_shift, magic)
                    edges[b] = mantissa_edges(scale, first, normal_bits, mantissa_shift)
                    firsts[b], lowests[b] = first, lowest_word(scale, normal_bits)
        for i in range(head, foot):
            for b in range(each.shape[0]):
                scale = each[b]
                left, right = b * width, min(b * width + width, columns)
                row, out = rows[i, left:right], codes[i, left:right]
                quick = gentle(scale, stored)
                if not (wordy and quick):
                    code_plainly(row, scale, quick, largest, normal_bits, mantissa_shift, magic, out)
                    continue
                first, lowest, limits = _U(firsts[b]), _U(lowests[b]), edges[b]
                for j in range(0, row.shape[0], AT_ONCE):
                    if j + AT_ONCE > row.shape[0] or words_below(row, j, lowest):
                        code_plainly(
                            row[j : j + AT_ONCE], scale, quick, largest, normal_bits, mantissa_shift, magic,
                            out[j : j + AT_ONCE],
                        )  # fmt: skip
                    else:
                        codes64(row, j, scale, first, limits, mantissa_shift, out)
    return True
