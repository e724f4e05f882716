"""What the kernels of several types of blocks are made of."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..deferred import ir, types, vector_type
from ..jit import instruction, lane
from ..lanes import INTEGER, bits, larger, real, widen
from ..vectors import chosen

__all__ = [
    "MOST",
    "away",
    "between",
    "cut",
    "first_peak",
    "fits",
    "float16",
    "half",
    "largest",
    "min_k",
    "narrow",
    "peak_of",
    "power",
    "put_half",
    "scale_k",
    "smallest",
    "ue4m3",
    "unfit",
    "whole",
    "word",
]

_U = np.uint32


_INF = np.float32(np.inf)
_HALF = np.float32(0.5)
_BEYOND = np.float32(65520)
"""The least value that F16 has no number for."""

MOST = np.float32(2.0**29)
"""No block of any type holds a value as large: its scales, which are F16, times 127 times 32 are less."""


@instruction
def narrow(context: Any, x: Any) -> Any:
    """The bits of the F16 nearest to a float32, ties to even, as int16."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(builder.fptrunc(args[0], ir.HalfType()), ir.IntType(16))

    return types.int16(types.float32), generate


@instruction
def cut(context: Any, x: Any) -> Any:
    """Float32 lanes from 0 on, below 2**31, without their fractions, as uint32."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.fptosi(args[0], ir.VectorType(ir.IntType(32), args[0].type.count))

    return vector_type.Vector(types.uint32, x.count)(x), generate


def _end(order: str) -> Any:
    def end(context: Any, x: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            (values,) = args
            width = values.type.count
            while width > 1:
                width //= 2
                low, high = (chosen(builder, values, range(first, first + width)) for first in (0, width))
                values = builder.select(builder.fcmp_ordered(order, high, low), high, low)
            return builder.extract_element(values, ir.Constant(ir.IntType(32), 0))

        return types.float32(x), generate

    return instruction(end)


smallest, largest = _end("<"), _end(">")
"""That of the lanes of a vector of float32, none of which is NaN."""


@lane
def fits(x: Any) -> Any:
    """Whether F16 has a finite number for a float32."""
    return -_BEYOND < x < _BEYOND


@lane
def put_half(block: Any, at: Any, x: Any) -> Any:
    """Write a float32 as F16."""
    code = np.uint16(narrow(x))
    block[at] = np.uint8(code)
    block[at + 1] = np.uint8(code >> np.uint16(8))


@lane
def peak_of(row: Any, start: Any, count: Any) -> Any:
    """Largest magnitude of some values; infinity or NaN where one of them is."""
    peak = _U(0)
    for j in range(count):
        peak = larger(peak, bits(row[start + j]))
    return real(peak)


@lane
def first_peak(row: Any, start: Any, count: Any, peak: Any) -> Any:
    """The first value of some that has the largest magnitude of them; 0 where all are."""
    if peak > np.float32(0):
        for j in range(count):
            if abs(row[start + j]) == peak:
                return row[start + j]
    return np.float32(0)


@lane
def away(x: Any) -> Any:
    """A float32 rounded to an integer, halves away from zero, as int32."""
    whole = np.int32(x)
    rest = x - np.float32(whole)
    return np.int32(whole + np.int32(rest >= _HALF) - np.int32(rest <= -_HALF))


@lane
def half(block: Any, at: Any) -> Any:
    """The float32 of the F16 at some byte of a block."""
    return widen(np.int16(np.uint16(block[at]) | np.uint16(np.uint16(block[at + 1]) << np.uint16(8))))


@lane
def float16(number: Any) -> Any:
    """The float32 of the F16 whose bits are a number."""
    return widen(np.int16(np.uint16(number)))


@lane
def word(block: Any, at: Any) -> Any:
    """The uint32 at some byte of a block."""
    low = _U(block[at]) | _U(_U(block[at + 1]) << _U(8))
    return _U(low | _U(_U(block[at + 2]) << _U(16)) | _U(_U(block[at + 3]) << _U(24)))


@lane
def scale_k(block: Any, at: Any, j: Any) -> Any:
    """The 6-bit scale of sub-block ``j`` of Q4_K and Q5_K, whose twelve bytes of scales begin at ``at``."""
    if j < 4:
        return block[at + j] & 63
    return (block[at + j + 4] & 15) | ((block[at + j - 4] >> 6) << 4)


@lane
def min_k(block: Any, at: Any, j: Any) -> Any:
    """As :func:`scale_k`, the 6-bit minimum."""
    if j < 4:
        return block[at + j + 4] & 63
    return (block[at + j + 4] >> 4) | ((block[at + j] >> 6) << 4)


@lane
def power(code: Any) -> Any:
    """Half of what an E8M0 code stands for, as E2M1 values are doubled; code 0 is 2**-128."""
    return real(_U(_U(0x00200000) << _U(code)) if code < 2 else _U(_U(_U(code) - _U(1)) << _U(23)))


@lane
def ue4m3(code: Any) -> Any:
    """Half of what an E4M3 code without sign stands for; 0 for NaN."""
    if code == 0 or code == 127:
        return np.float32(0)
    exponent, fraction = (code >> 3) & 15, code & 7
    if exponent == 0:
        return np.float32(np.float32(fraction) * np.float32(2.0**-10))
    return real(_U(_U(_U(exponent) + _U(119)) << _U(23)) | _U(_U(fraction) << _U(20)))


@lane
def whole(x: Any) -> Any:
    """``nearest_int`` of one number, as int32."""
    return np.int32((x + INTEGER) - INTEGER)


@lane
def between(code: Any, low: Any, high: Any) -> Any:
    """An int32 held between two others."""
    code = high if code > high else code
    return low if code < low else code


@lane
def unfit(values: Any, first: Any, count: Any) -> Any:
    """The first of some rows that holds what no block does (:data:`MOST`, or not finite), or -1."""
    for i in range(first, min(first + count, values.shape[0])):
        if not peak_of(values[i], 0, values.shape[1]) < MOST:
            return i
    return -1
