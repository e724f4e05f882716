"""The few operations that kernels are made of, on one element, so that the compiler can vectorise their
loops.

Source values travel as bits: BF16 as uint16, F16 as int16, F32 as uint32. :func:`widen` gives the float32
that such bits mean, so one kernel source serves all three. Integer steps are spelt as intrinsics where numba
would widen them to 64 bits, which would cost half of the vector.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .deferred import ir, types
from .jit import instruction, kernel, lane
from .minifloat import PLAIN
from .vectors import alike, constant, floats, fused, shaped, widened, words

__all__ = [
    "INTEGER",
    "INTEGER_BITS",
    "STORED",
    "above",
    "at_least",
    "at_most",
    "beyond",
    "bits",
    "clamp",
    "coarse",
    "disorder",
    "encode",
    "fit",
    "fitted",
    "fma",
    "gentle",
    "larger",
    "order",
    "quotient",
    "real",
    "rne",
    "shr",
    "signed",
    "size_of",
    "store",
    "to_step",
    "widen",
    "with_sign",
]

_U = np.uint32


# Bits and numbers -----------------------------------------------------------------------------------------


@instruction
def widen(context: Any, value: Any) -> Any:
    """The float32 that the bits of a BF16 (uint16), F16 (int16) or F32 (uint32) mean, or those of each lane;
    exact.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return widened(builder, args[0], getattr(value, "dtype", value))

    return shaped(types.float32, value)(value), generate


@instruction
def bits(context: Any, x: Any) -> Any:
    """The bits of a float32 as uint32."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], words(args[0].type))

    return shaped(types.uint32, x)(shaped(types.float32, x)), generate


@instruction
def signed(context: Any, x: Any) -> Any:
    """The bits of a float32 as int32."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.IntType(32))

    return types.int32(types.float32), generate


@instruction
def real(context: Any, x: Any) -> Any:
    """The float32 of some bits."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], floats(args[0].type))

    return shaped(types.float32, x)(shaped(types.uint32, x)), generate


@instruction
def size_of(context: Any, x: Any) -> Any:
    """A float32 without its sign."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        (x,) = args
        word = builder.bitcast(x, words(x.type))
        return builder.bitcast(builder.and_(word, constant(word.type, 0x7FFFFFFF)), x.type)

    return x(x), generate


@instruction
def at_most(context: Any, x: Any, limit: Any) -> Any:
    """The smaller of two float32."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        x, limit = alike(builder, args)
        return builder.select(builder.fcmp_ordered("<", x, limit), x, limit)

    kind = shaped(types.float32, x, limit)
    return kind(*(shaped(types.float32, side) for side in (x, limit))), generate


@instruction
def at_least(context: Any, x: Any, low: Any) -> Any:
    """The larger of two float32."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        x, low = alike(builder, args)
        return builder.select(builder.fcmp_ordered(">", x, low), x, low)

    kind = shaped(types.float32, x, low)
    return kind(*(shaped(types.float32, side) for side in (x, low))), generate


@instruction
def above(context: Any, x: Any, limit: Any, yes: Any, no: Any) -> Any:
    """``yes`` where ``x > limit``, else ``no``; all float32, or vectors of them."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        x, limit, yes, no = alike(builder, args)
        return builder.select(builder.fcmp_ordered(">", x, limit), yes, no)

    kind = shaped(types.float32, x)
    sides = (shaped(types.float32, side) for side in (limit, yes, no))
    return kind(kind, *sides), generate


@instruction
def with_sign(context: Any, code: Any, x: Any, width: Any) -> Any:
    """A code with the sign of ``x`` as the highest of its ``width`` bits; what is above does not count."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        code, x, width = alike(builder, args)
        last = builder.and_(builder.sub(width, constant(width.type, 1)), constant(width.type, 31))
        sign = builder.lshr(builder.bitcast(x, code.type), constant(code.type, 31))
        return builder.or_(code, builder.shl(sign, last))

    code, size = (shaped(dtype, x) for dtype in (types.uint32, types.float32))
    return code(code, size, types.uint32), generate


@instruction
def shr(context: Any, x: Any, count: Any) -> Any:
    """Logical shift of uint32 to the right by 0 to 31."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        x, count = args
        return builder.lshr(x, builder.and_(count, ir.Constant(ir.IntType(32), 31)))

    return types.uint32(types.uint32, types.uint32), generate


@instruction
def larger(context: Any, highest: Any, x: Any) -> Any:
    """The larger of ``highest`` and the magnitude of ``x``, or of their lanes: floats without their signs
    compare as integers.

    Infinity and NaN come out largest, so one look at the result tells of every non-finite value.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        highest, x = args
        width = getattr(x.type, "element", x.type).width
        size = builder.and_(x, constant(x.type, (1 << (width - 1)) - 1))
        return builder.select(builder.icmp_unsigned(">", highest, size), highest, size)

    return x(x, x), generate


@instruction
def order(context: Any, x: Any) -> Any:
    """Bits of a float to a signed integer of their width that sorts as the float does."""
    return getattr(types, f"int{x.bitwidth}")(x), _flip


@instruction
def disorder(context: Any, key: Any, like: Any) -> Any:
    """The inverse of :func:`order`; ``like`` is any element of the source."""
    return like(key, like), _flip


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
        return fused(builder, *alike(builder, args))

    kinds = [shaped(types.float32, operand) for operand in (a, b, c)]
    return shaped(types.float32, a, b, c)(*kinds), generate


# Division -------------------------------------------------------------------------------------------------

_ONE = np.float32(1)


@instruction
def quotient(context: Any, x: Any, scale: Any, inverse: Any) -> Any:
    """``x / scale`` rounded to nearest even, without the divider, which is slower than all the rest.

    Two steps of Markstein's correction: the first product is within two units of the quotient, the first step
    makes it a faithful rounding, the second the correct one (Markstein, "Computation of elementary functions
    on the IBM RISC System/6000 processor", 1990; Handbook of Floating-Point Arithmetic, section 4.7).
    ``inverse`` must be ``1 / scale`` correctly rounded, and ``scale`` at least ``2**-60``: then only
    quotients far below half of any format's smallest step may be off, where a residual underflows. A negative
    zero comes out positive.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        x, scale, inverse = alike(builder, args)
        q = builder.fmul(x, inverse)
        for _ in range(2):
            rest = fused(builder, builder.fneg(q), scale, x)
            q = fused(builder, rest, inverse, q)
        return q

    kinds = [shaped(types.float32, operand) for operand in (x, scale, inverse)]
    return shaped(types.float32, x, scale, inverse)(*kinds), generate


# Rounding -------------------------------------------------------------------------------------------------

INTEGER = np.float32(1.5 * 2**23)
INTEGER_BITS = np.int32(0x4B400000)
"""Adding 1.5 * 2**23 leaves no bits for a fraction: the sum is rounded to an integer, nearest even."""


@lane
def rne(x: Any) -> Any:
    """``x`` rounded to an integer, nearest even; for magnitudes below 2**22."""
    return (x + INTEGER) - INTEGER


def _exponent(builder: Any, size: Any, normal_bits: Any) -> Any:
    """Bits of the power of two at or below a magnitude, but no less than ``normal_bits``."""
    word = builder.bitcast(size, words(size.type))
    binade = builder.and_(word, constant(word.type, 0x7F800000))
    return builder.select(builder.icmp_unsigned(">", binade, normal_bits), binade, normal_bits)


@instruction
def encode(context: Any, size: Any, normal_bits: Any, mantissa_shift: Any, magic: Any) -> Any:
    """Code (without sign) of a magnitude in a small float format, whose largest value it must not exceed
    much.

    The magnitude is added to a power of two so large that of its fraction just the bits of the format are
    left, rounded to nearest even; below the smallest normal number that power stays put, which makes the
    subnormal numbers. What is left, and how far the exponent is above the smallest, make up the code.

    Args:
        size: float32, or a vector of them, not negative.
        normal_bits: float32 bits of the format's smallest normal number.
        mantissa_shift: uint32, 23 minus the format's number of mantissa bits.
        magic: float32, ``2**mantissa_shift`` plus an even number of its last places, by which the result
            grows: with ``Minifloat.magic`` the low 8 bits of the result are the code.

    Returns:
        uint32, the code plus ``(normal_bits >> mantissa_shift) + (mantissa_shift << 23)`` and those places.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        size, normal_bits, mantissa_shift, magic = alike(builder, args)
        binade = _exponent(builder, size, normal_bits)
        rounded = fused(builder, builder.bitcast(binade, size.type), magic, size)
        steps = builder.sub(builder.bitcast(rounded, binade.type), binade)
        return builder.add(
            steps, builder.lshr(binade, builder.and_(mantissa_shift, constant(mantissa_shift.type, 31)))
        )

    code, size = (shaped(dtype, size) for dtype in (types.uint32, types.float32))
    return code(size, types.uint32, types.uint32, types.float32), generate


@instruction
def to_step(context: Any, size: Any, normal_bits: Any, mantissa_shift: Any) -> Any:
    """The value of the format nearest to a magnitude, as float32; arguments as for :func:`encode`."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        size, normal_bits, mantissa_shift = alike(builder, args)
        binade = _exponent(builder, size, normal_bits)
        magic = builder.add(binade, builder.shl(mantissa_shift, constant(mantissa_shift.type, 23)))
        magic = builder.bitcast(magic, size.type)
        return builder.fsub(builder.fadd(size, magic), magic)

    kind = shaped(types.float32, size)
    return kind(kind, types.uint32, types.uint32), generate


# Scales ---------------------------------------------------------------------------------------------------

STORED = {"F32": 0, "BF16": 1, "F16": 2, "F8_E8M0": 3}
"""How :func:`store` is told the dtype in which a scale is kept."""

_TINY = np.float32(2.0**-60)
_NORMAL = np.float32(PLAIN["F32"].smallest_normal)
_F16 = PLAIN["F16"]
_F16_MAX = np.float32(_F16.max)
_F16_NORMAL = np.float32(_F16.smallest_normal)
_F16_NORMAL_BITS, _F16_SHIFT = _F16.normal_bits, _F16.mantissa_shift
_F16_SUBNORMAL = np.float32(_F16.smallest_subnormal)
_BF16_SUBNORMAL = np.float32(PLAIN["BF16"].smallest_subnormal)
_F32_SUBNORMAL = np.float32(PLAIN["F32"].smallest_subnormal)
_E8M0_BITS = 0x00400000
"""The bits of 2**-127, the smallest number of E8M0."""


@instruction
def _nearest_bf16(context: Any, x: Any) -> Any:
    """A float32, not negative, rounded to BF16."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        word = builder.bitcast(args[0], words(args[0].type))
        sixteen = constant(word.type, 16)
        odd = builder.and_(builder.lshr(word, sixteen), constant(word.type, 1))
        word = builder.add(builder.add(word, constant(word.type, 0x7FFF)), odd)
        return builder.bitcast(builder.and_(word, constant(word.type, 0xFFFF0000)), args[0].type)

    return x(x), generate


@instruction
def _power_above(context: Any, x: Any) -> Any:
    """The power of two at or above a float32 that is not negative, of those of E8M0."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        word = builder.bitcast(args[0], words(args[0].type))
        least = constant(word.type, _E8M0_BITS)
        up = builder.and_(builder.add(word, constant(word.type, 0x7FFFFF)), constant(word.type, 0xFF800000))
        up = builder.select(builder.icmp_unsigned(">", word, least), up, least)
        return builder.bitcast(up, args[0].type)

    return x(x), generate


@lane
def store(scale: Any, stored: Any) -> Any:
    """A scale (float32, not negative; or a vector of them) as it will be stored: nearest even, never zero,
    never infinite.

    Where only powers of two are stored (E8M0) it is the next one up, so that nothing saturates.
    """
    if stored == 1:
        return at_least(_nearest_bf16(scale), _BF16_SUBNORMAL)
    if stored == 2:
        return at_least(to_step(at_most(scale, _F16_MAX), _F16_NORMAL_BITS, _F16_SHIFT), _F16_SUBNORMAL)
    if stored == 3:
        return _power_above(scale)
    return at_least(scale, _F32_SUBNORMAL)


@lane
def coarse(scale: Any, stored: Any) -> Any:
    """Whether a scale is one of the subnormal numbers of its stored dtype."""
    return scale < (_F16_NORMAL if stored == 2 else _NORMAL)


@lane
def beyond(scale: Any, stored: Any) -> Any:
    """The next larger number of the stored dtype, of a scale among its subnormal numbers."""
    if stored == 1:
        return scale + _BF16_SUBNORMAL
    if stored == 3:
        return scale + scale
    return scale + (_F16_SUBNORMAL if stored == 2 else _F32_SUBNORMAL)


@lane
def gentle(scale: Any, stored: Any) -> Any:
    """Whether :func:`quotient` may be used with a stored scale, and no quotient needs to be held back.

    That is not so where the stored scale is much smaller than the one that was computed: among subnormal
    numbers, and at the end of F16.
    """
    return (scale >= (_F16_NORMAL if stored == 2 else _TINY)) and scale < _F16_MAX


@lane
def fit(peak: Any, largest: Any, limit: Any, stored: Any) -> Any:
    """Scale that maps magnitudes up to ``peak`` onto codes up to ``largest``; 1 where all values are zero.

    It is the next one up where rounding it has made quotients reach beyond ``limit``, half a step above
    ``largest``. That happens where the stored dtype has few bits left, among its subnormal numbers: there the
    largest values would lose up to a third.
    """
    if peak == np.float32(0):
        return _ONE
    scale = store(peak / largest, stored)
    return beyond(scale, stored) if coarse(scale, stored) and peak / scale > limit else scale


@kernel
def fitted(peak: Any, largest: Any, limit: Any, stored: Any) -> Any:
    """:func:`fit` for Python, which would compile a lane in every process; kernels are kept on disk."""
    return fit(peak, largest, limit, stored)
