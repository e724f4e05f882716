"""The few operations that kernels are made of, on one element, so that the compiler can vectorise their
loops.

Source values travel as bits: BF16 as uint16, F16 as int16, F32 as uint32. :func:`widen` gives the float32
that such bits mean, so one kernel source serves all three. Integer steps are spelt as intrinsics where numba
would widen them to 64 bits, which would cost half of the vector.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.np.arrayobj import make_array

from .jit import instruction, lane

__all__ = [
    "INTEGER",
    "INTEGER_BITS",
    "STORED",
    "bits",
    "clamp",
    "disorder",
    "encode",
    "fill16",
    "fill32",
    "fit",
    "gentle",
    "larger",
    "order",
    "peak16",
    "peak32",
    "quotient",
    "real",
    "rne",
    "shr",
    "signed",
    "size_of",
    "store",
    "to_step",
    "total16",
    "total32",
    "widen",
]

_F32 = ir.FloatType()
_I32 = ir.IntType(32)
_U = np.uint32
_SIZE = _U(0x7FFFFFFF)


# Bits and numbers -----------------------------------------------------------------------------------------


@instruction
def widen(context: Any, value: Any) -> Any:
    """The float32 that the bits of a BF16 (uint16), F16 (int16) or F32 (uint32) mean; exact."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        (x,) = args
        if value == types.uint16:
            return builder.bitcast(builder.shl(builder.zext(x, _I32), ir.Constant(_I32, 16)), _F32)
        if value == types.int16:
            return builder.fpext(builder.bitcast(x, ir.HalfType()), _F32)
        return builder.bitcast(x, _F32)

    return types.float32(value), generate


@instruction
def bits(context: Any, x: Any) -> Any:
    """The bits of a float32 as uint32."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], _I32)

    return types.uint32(types.float32), generate


@instruction
def signed(context: Any, x: Any) -> Any:
    """The bits of a float32 as int32."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], _I32)

    return types.int32(types.float32), generate


@instruction
def real(context: Any, x: Any) -> Any:
    """The float32 of some bits."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], _F32)

    return types.float32(types.uint32), generate


@lane
def size_of(x: Any) -> Any:
    """A float32 without its sign."""
    return real(_U(bits(x) & _SIZE))


@instruction
def shr(context: Any, x: Any, count: Any) -> Any:
    """Logical shift of uint32 to the right by 0 to 31."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        x, count = args
        return builder.lshr(x, builder.and_(count, ir.Constant(_I32, 31)))

    return types.uint32(types.uint32, types.uint32), generate


@instruction
def larger(context: Any, best: Any, x: Any) -> Any:
    """The larger of ``best`` and the magnitude of ``x``: floats without their signs compare as integers.

    Infinity and NaN come out largest, so one look at the result tells of every non-finite value.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        best, x = args
        size = builder.and_(x, ir.Constant(x.type, (1 << (x.type.width - 1)) - 1))
        return builder.select(builder.icmp_unsigned(">", best, size), best, size)

    return x(x, x), generate


def _block(context: Any, builder: Any, kind: Any, array: Any, index: Any, count: int) -> tuple[Any, Any]:
    """Vector type of ``count`` elements of a contiguous 1-D array, and the address of those from ``index``
    on.
    """
    vector = ir.VectorType(context.get_data_type(kind.dtype), count)
    start = builder.gep(make_array(kind)(context, builder, array).data, [index])
    return vector, builder.bitcast(start, vector.as_pointer())


def _peak(count: int) -> Callable[..., Any]:
    def peak(context: Any, row: Any, index: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            row, index = args
            vector, start = _block(context, builder, signature.args[0], row, index, count)
            width = vector.element.width
            values = builder.load(start, align=width // 8)
            sizes = builder.and_(values, ir.Constant(vector, [(1 << (width - 1)) - 1] * count))
            reduce = cgutils.get_or_insert_function(
                builder.module,
                ir.FunctionType(vector.element, [vector]),
                f"llvm.vector.reduce.umax.v{count}i{width}",
            )
            return builder.call(reduce, [sizes])

        return row.dtype(row, types.intp), generate

    return instruction(peak)


def _fill(count: int) -> Callable[..., Any]:
    def fill(context: Any, out: Any, index: Any, value: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            out, index, value = args
            vector, start = _block(context, builder, signature.args[0], out, index, count)
            lanes = ir.VectorType(_I32, count)
            nothing = ir.Constant(vector, ir.Undefined)
            single = builder.insert_element(nothing, value, ir.Constant(_I32, 0))
            splat = builder.shuffle_vector(single, nothing, ir.Constant(lanes, [0] * count))
            builder.store(splat, start, align=4)
            return context.get_dummy_value()

        return types.void(out, types.intp, out.dtype), generate

    return instruction(fill)


def _total(count: int) -> Callable[..., Any]:
    def total(context: Any, row: Any, index: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            row, index = args
            _, start = _block(context, builder, signature.args[0], row, index, count)
            values = builder.load(start, align=4)
            width = count
            while width > 1:  # always in this order, whatever the processor: halves are added to halves
                width //= 2
                lanes = ir.VectorType(_I32, width)
                low, high = (
                    builder.shuffle_vector(values, values, ir.Constant(lanes, [*range(first, first + width)]))
                    for first in (0, width)
                )
                values = builder.fadd(low, high)
            return builder.extract_element(values, ir.Constant(_I32, 0))

        return types.float32(row, types.intp), generate

    return instruction(total)


# Blocks are too short for loops to vectorise, and known at compile time: these are written as vectors.
peak16, peak32 = _peak(16), _peak(32)
"""Largest magnitude, as bits, of 16 or 32 elements of a 1-D array of bits from ``index`` on."""
total16, total32 = _total(16), _total(32)
"""Sum of 16 or 32 float32 of a 1-D array from ``index`` on."""
fill16, fill32 = _fill(16), _fill(32)
"""Write a float32 to 16 or 32 elements of a 1-D array from ``index`` on."""


@instruction
def order(context: Any, x: Any) -> Any:
    """Bits of a float to a signed integer of their width that sorts as the float does."""
    return _SORTED[x](x), _flip


@instruction
def disorder(context: Any, key: Any, like: Any) -> Any:
    """The inverse of :func:`order`; ``like`` is any element of the source."""
    return like(key, like), _flip


_SORTED = {types.uint16: types.int16, types.int16: types.int16, types.uint32: types.int32}


def _flip(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    # Negative floats grow as their bits do: turning all bits but the sign makes them fall instead.
    x = args[0]
    last = x.type.width - 1
    sign = builder.ashr(x, ir.Constant(x.type, last))
    return builder.xor(x, builder.and_(sign, ir.Constant(x.type, (1 << last) - 1)))


@instruction
def clamp(context: Any, x: Any, low: Any, high: Any) -> Any:
    """``x`` held between two int32."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        x, low, high = args
        x = builder.select(builder.icmp_signed(">", x, low), x, low)
        return builder.select(builder.icmp_signed("<", x, high), x, high)

    return types.int32(types.int32, types.int32, types.int32), generate


@instruction
def fma(context: Any, a: Any, b: Any, c: Any) -> Any:
    """``a * b + c`` with one rounding."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.fma(*args)

    return types.float32(types.float32, types.float32, types.float32), generate


# Division -------------------------------------------------------------------------------------------------

_ONE = np.float32(1)


@lane
def quotient(x: Any, scale: Any, inverse: Any) -> Any:
    """``x / scale`` rounded to nearest even, without the divider, which is slower than all the rest.

    Two steps of Markstein's correction: the first product is within two units of the quotient, the first step
    makes it a faithful rounding, the second the correct one (Markstein, "Computation of elementary functions
    on the IBM RISC System/6000 processor", 1990; Handbook of Floating-Point Arithmetic, section 4.7).
    ``inverse`` must be ``1 / scale`` correctly rounded, and ``scale`` at least ``2**-60``: then only
    quotients far below half of any format's smallest step may be off, where a residual underflows. A negative
    zero comes out positive.
    """
    q = x * inverse
    q = fma(fma(-q, scale, x), inverse, q)
    return fma(fma(-q, scale, x), inverse, q)


# Rounding -------------------------------------------------------------------------------------------------

INTEGER = np.float32(1.5 * 2**23)
INTEGER_BITS = np.int32(0x4B400000)
"""Adding 1.5 * 2**23 leaves no bits for a fraction: the sum is rounded to an integer, nearest even."""

_EXPONENT = _U(0x7F800000)


@lane
def rne(x: Any) -> Any:
    """``x`` rounded to an integer, nearest even; for magnitudes below 2**22."""
    return (x + INTEGER) - INTEGER


@lane
def encode(size: Any, least: Any, drop: Any, ruler: Any) -> Any:
    """Code (without sign) of a magnitude in a small float format, whose largest value it must not exceed
    much.

    The magnitude is added to a power of two so large that of its fraction just the bits of the format are
    left, rounded to nearest even; below the smallest normal number that power stays put, which makes the
    subnormal numbers. What is left, and how far the exponent is above the smallest, make up the code.

    Args:
        size: float32, not negative.
        least: float32 bits of the format's smallest normal number.
        drop: uint32, 23 minus the format's number of mantissa bits.
        ruler: float32, ``2**drop`` plus an even number of its last places, by which the result grows: with
            ``Minifloat.ruler`` the low 8 bits of the result are the code.

    Returns:
        uint32, the code plus ``(least >> drop) + (drop << 23)`` and those places.
    """
    exponent = _U(bits(size) & _EXPONENT)
    exponent = exponent if exponent > least else least
    return _U(_U(bits(fma(real(exponent), ruler, size)) - exponent) + shr(exponent, drop))


@lane
def to_step(size: Any, least: Any, drop: Any) -> Any:
    """The value of the format nearest to a magnitude, as float32; arguments as for :func:`encode`."""
    exponent = _U(bits(size) & _EXPONENT)
    exponent = exponent if exponent > least else least
    ruler = real(_U(exponent + _U(drop << _U(23))))
    return (size + ruler) - ruler


# Scales ---------------------------------------------------------------------------------------------------

STORED = {"F32": 0, "BF16": 1, "F16": 2}
"""How :func:`store` is told the dtype in which a scale is kept."""

_TINY = np.float32(2.0**-60)
_F16_NORMAL = np.float32(2.0**-14)
_F16_TOP = np.float32(65504)
_F16_LEAST = _F16_NORMAL.view(_U)
_F16_DROP = _U(13)
_F16_TINY = np.float32(2.0**-24)
_BF16_TINY = np.float32(2.0**-133)
_F32_TINY = np.float32(2.0**-149)


@lane
def store(scale: Any, stored: Any) -> Any:
    """A scale (float32, not negative) as it will be stored: nearest even, never zero, never infinite."""
    if stored == 1:
        u = bits(scale)
        scale = real(_U(_U(u + _U(0x7FFF) + _U(_U(u >> _U(16)) & _U(1))) & _U(0xFFFF0000)))
        return scale if scale > _BF16_TINY else _BF16_TINY
    if stored == 2:
        scale = to_step(scale if scale < _F16_TOP else _F16_TOP, _F16_LEAST, _F16_DROP)
        return scale if scale > _F16_TINY else _F16_TINY
    return scale if scale > _F32_TINY else _F32_TINY


@lane
def gentle(scale: Any, stored: Any) -> Any:
    """Whether :func:`quotient` may be used with a stored scale, and no quotient needs to be held back.

    That is not so where the stored scale is much smaller than the one that was computed: among subnormal
    numbers, and at the end of F16.
    """
    return (scale >= (_F16_NORMAL if stored == 2 else _TINY)) and scale < _F16_TOP


@lane
def fit(peak: Any, top: Any, stored: Any) -> Any:
    """Scale that maps magnitudes up to ``peak`` onto codes up to ``top``; 1 where all values are zero."""
    return _ONE if peak == np.float32(0) else store(peak / top, stored)
