"""Kernels that turn rows by a regular Hadamard matrix, alone or on their way into integers.

Groups of ``size`` columns are multiplied by the matrix, see :mod:`.turning`, in float32. A row is turned into
a line that stays in the nearest cache, and encoded from there.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.dtypes import DTYPES, DType
from .backend import dispatched
from .errors import NonFinite
from .integer import symmetric, with_zero
from .jit import kernel, lane
from .lanes import fit, gentle, larger, quotient, widen
from .nibble_search import AT_ONCE, nibble_scales
from .nibbles import nibble_codes, nibbles
from .peaks import peak_between
from .ratio import distinct, ratio, remainder
from .rows import as_bits, as_float64, reject
from .turning import mix16, spin4, spin16, spin64
from .vectors import get16
from .whole import put_integers32

__all__ = [
    "reject_turned",
    "rotate",
    "rotated_largest",
    "rotated_nibbles",
    "rotated_symmetric",
    "rotated_with_zero",
    "unit_of",
]

_ZERO, _HALF, _ONE = np.float32(0), np.float32(0.5), np.float32(1)
_INF = np.float32(np.inf)
_symmetric, _with_zero = symmetric.__wrapped__, with_zero.__wrapped__  # type: ignore[attr-defined]


def unit_of(size: int) -> np.float32:
    """What values are multiplied by before they are added and subtracted: one over the root of the size."""
    return np.float32(size**-0.5)


@lane
def turn(row: Any, size: Any, unit: Any, line: Any) -> Any:
    """Bits ``[K]`` turned into float32 ``[K]``, which may be the same memory."""
    columns = row.shape[0]
    if size == 4:
        for j in range(0, columns, 4):
            spin4(row, j, unit, line)
    elif size == 16:
        for j in range(0, columns, 16):
            spin16(row, j, unit, line)
    else:
        for j in range(0, columns, 64):
            spin64(row, j, unit, line)
    stride = 64
    while stride < size:
        for left in range(0, columns, 4 * stride):
            for j in range(left, left + stride, 16):
                mix16(line, j, stride)
        stride *= 4


@kernel
def rotate(rows: Any, size: int, unit: Any, out: Any) -> None:
    """Rows times the matrix.

    Args:
        rows: bits ``[R, K]``, see :func:`.lanes.widen`; K a multiple of the size.
        size: columns that are turned together: a power of 4.
        unit: see :func:`unit_of`.
        out: float32 ``[R, K]``, written; may be the memory of ``rows``.
    """
    for i in range(rows.shape[0]):
        turn(rows[i], size, unit, out[i])


@kernel
def rotated_largest(rows: Any, size: int, unit: Any, line: Any, bits: Any) -> Any:
    """Largest magnitude of the turned rows, float32; infinite or NaN if any value is.

    Args:
        rows, size, unit: see :func:`rotate`.
        line: float32 ``[1, K]``, overwritten.
        bits: the same memory as uint32.
    """
    highest = np.uint32(0)
    for i in range(rows.shape[0]):
        turn(rows[i], size, unit, line[0])
        turned = bits[0]
        for j in range(turned.shape[0]):
            highest = larger(highest, turned[j])
    return widen(highest)


@lane
def symmetric_row(
    line: Any, words: Any, stored: Any, tensor_scale: Any, largest: Any, codes: Any, scales: Any
) -> Any:
    """:func:`.integer.symmetric` of a row of a multiple of 32 columns as one block, in vectors.

    Args:
        line, words: float32 ``[K]``, and the same memory as bits.
        stored, tensor_scale, largest: see :func:`.integer.symmetric`.
        codes: int8 ``[K]``, written.
        scales: float32 ``[1]``, written.

    Returns:
        Whether that could be done: not where a value is not finite, nor where quotients need the divider.
    """
    columns = line.shape[0]
    scale = tensor_scale
    if not tensor_scale > _ZERO:
        peak = widen(peak_between(words, 0, columns))
        if not peak < _INF:
            return False
        scale = fit(peak, largest, largest + _HALF, stored)
    scales[0] = scale
    inverse = _ONE / scale
    if distinct(scale):
        rest = remainder(scale, inverse)
        for j in range(0, columns, 32):
            first, second = get16(line, j), get16(line, j + 16)
            put_integers32(codes, j, ratio(first, inverse, rest), ratio(second, inverse, rest))
    else:
        for j in range(0, columns, 32):
            first, second = get16(line, j), get16(line, j + 16)
            put_integers32(codes, j, quotient(first, scale, inverse), quotient(second, scale, inverse))
    return gentle(scale, stored)


@dispatched
@kernel
def rotated_symmetric(
    rows: Any, size: int, unit: Any, line: Any, bits: Any,
    width: int, stored: int, tensor_scale: Any, largest: Any, codes: Any, scales: Any,
) -> bool:  # fmt: skip
    """:func:`.integer.symmetric` of the turned rows, blocks of one row.

    Args:
        rows, size, unit, line, bits: see :func:`rotated_largest`.
        width, stored, tensor_scale, largest, codes, scales: see :func:`.integer.symmetric`.

    Returns:
        Whether all turned values were finite; otherwise the outputs are incomplete.
    """
    whole = width >= rows.shape[1] and rows.shape[1] % 32 == 0
    last = scales.shape[0] - 1
    for i in range(rows.shape[0]):
        turn(rows[i], size, unit, line[0])
        own, out = scales[min(i, last) :], codes[i : i + 1]  # one scale for all, where it is given
        if whole and symmetric_row(line[0], bits[0], stored, tensor_scale, largest, out[0], own[0]):
            continue
        if not _symmetric(bits, 1, width, stored, tensor_scale, largest, out, own):
            return False
    return True


@dispatched
@kernel
def rotated_with_zero(
    rows: Any, size: int, unit: Any, line: Any, bits: Any,
    width: int, stored: int, span: Any, codes: Any, scales: Any, zeros: Any,
) -> bool:  # fmt: skip
    """:func:`.integer.with_zero` of the turned rows; arguments and result as :func:`rotated_symmetric`'s."""
    for i in range(rows.shape[0]):
        turn(rows[i], size, unit, line[0])
        if not _with_zero(bits, width, stored, span, codes[i : i + 1], scales[i : i + 1], zeros[i : i + 1]):
            return False
    return True


@kernel
def rotated_nibbles(
    rows: Any, size: int, unit: Any, line: Any, bits: Any,
    divisors: Any, work: Any, codes: Any, scales: Any,
) -> bool:  # fmt: skip
    """:func:`.nibbles.nibbles` of the turned rows, each a group with a float32 scale; with 32 divisors or
    more, under the scales of :func:`.nibble_search.nibble_scales`.

    Args:
        rows, size, unit, line, bits: see :func:`rotated_largest`; K a multiple of 32.
        divisors, work: see :func:`.nibble_search.nibble_scales`.
        codes: uint8 ``[R, K / 2]``, written.
        scales: float32 ``[R]``, written.
    """
    for i in range(rows.shape[0]):
        turn(rows[i], size, unit, line[0])
        values, width, scale = bits[0], bits.shape[1], scales[i : i + 1]
        if divisors.shape[0] < AT_ONCE:
            if not nibbles(values, width, 0, divisors, codes[i], scale):
                return False
        else:
            if not nibble_scales(values, width, 0, divisors, work, scale):
                return False
            nibble_codes(values, width, 0, codes[i], scale)
    return True


def reject_turned(rows: NDArray[Any], dtype: DType, size: int) -> NonFinite:
    """The error that names the first value that is not finite, or that is too large to be turned.

    Args:
        rows: ``[R, K]``, in the carrier of their dtype.
        size: columns that are turned together.
    """
    exact = as_float64(rows, dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        narrow = exact.astype(np.float32)
    if not np.isfinite(narrow).all():
        return reject(rows, dtype)
    over = np.empty_like(narrow)
    rotate(as_bits(narrow, DTYPES["F32"]), size, unit_of(size), over)
    row, column = np.argwhere(~np.isfinite(over))[0]
    group = slice(column // size * size, column // size * size + size)
    column = group.start + int(np.argmax(np.abs(exact[row, group])))
    return NonFinite(int(row), int(column), float(exact[row, column]))
