"""Codes of 8-bit floats of BF16 values without a division for each: by comparing mantissas.

Under a scale that stays the same, a value twice as large has the code of the next octave, as long as both are
normal numbers: how many codes a value is above the first of its octave is a question of its mantissa alone.
BF16 has 7 bits of it, so they are compared as bytes, of which a register holds four times as many as of
float32; the exponent counts as many codes as an octave has. Edges are those of what is right for all values:
the quotient, rounded to float32 and then to the format.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np

from .deferred import ir, types
from .jit import instruction, lane
from .lanes import bits, encode, quotient, real, shr
from .vectors import address, chosen, constant, fused, repeated

__all__ = ["AT_ONCE", "codes64", "first_code", "lowest_word", "mantissa_edges", "words_below", "worth"]

AT_ONCE = 64
"""Values that are encoded at once."""

_EDGES = 8
"""Codes of an octave of E4M3; E5M2 has fewer, which are compared all the same."""

_REGISTERS = (("+avx512bw", 32), ("+avx2", 16))
"""Lanes of 16 bits: two registers are packed 16 bytes of each at a time. In any other order that would take
several instructions, where putting the lanes in order takes one, once.
"""

_WORTH, _WORTH_WIDE = 128, 512
"""So many values pay for finding edges; and where registers have 512 bits, which divide twice as many."""

_U = np.uint32
_NEVER = 127
"""The largest mantissa: none is beyond it."""


@instruction
def worth(context: Any) -> Any:
    """How many values pay for finding the edges of their scale, int64."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        wide = "+avx512bw" in context.codegen().magic_tuple()[2].split(",")
        return ir.Constant(ir.IntType(64), _WORTH_WIDE if wide else _WORTH)

    return types.int64(), generate


@lane
def first_code(scale: Any, inverse: Any, normal_bits: Any, mantissa_shift: Any, magic: Any) -> Any:
    """Code of the power of two at or below a scale, a code of a normal number; uint32."""
    power = real(_U(bits(scale) & _U(0x7F800000)))
    return _U(encode(quotient(power, scale, inverse), normal_bits, mantissa_shift, magic) & _U(0xFF))


@instruction
def mantissa_edges(context: Any, scale: Any, first: Any, normal_bits: Any, mantissa_shift: Any) -> Any:
    """For each code after ``first`` the largest mantissa that lies below it, eight in the bytes of a uint64.

    A quotient by the scale, rounded to float32, is larger than what lies halfway between two codes where the
    value is beyond the product of both by more than half of the halfway point's last place; and not less than
    it from half a place below on: that is an edge where the code above is even. See :func:`.edges.edges16`.

    Args:
        scale: one of which :func:`.lanes.gentle` is true.
        first: see :func:`first_code`.
        normal_bits, mantissa_shift: the format, see :func:`.lanes.encode`.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        scale, first, normal_bits, mantissa_shift = (repeated(builder, arg, _EDGES) for arg in args)
        word, real = ir.VectorType(ir.IntType(32), _EDGES), ir.VectorType(ir.FloatType(), _EDGES)
        code = builder.add(first, ir.Constant(word, list(range(_EDGES))))
        half_step = builder.shl(constant(word, 1), builder.sub(mantissa_shift, constant(word, 1)))
        middle = builder.add(builder.shl(code, mantissa_shift), half_step)
        middle = builder.add(middle, builder.sub(normal_bits, constant(word, 1 << 23)))
        power = builder.and_(middle, constant(word, 0x7F800000))
        half_place = builder.bitcast(builder.sub(power, constant(word, 24 << 23)), real)
        reach = builder.fmul(scale, half_place)
        open_edge = builder.icmp_unsigned("==", builder.and_(code, constant(word, 1)), constant(word, 0))
        off = builder.select(open_edge, reach, builder.fneg(reach))
        middle = builder.bitcast(middle, real)
        # Rounded once, an edge lies on a word or between two: that one on a word was rounded to it, the rest
        # tells.
        near = fused(builder, scale, middle, off)
        rest = fused(builder, scale, middle, builder.fneg(near))
        less = builder.fneg(off)
        up = builder.or_(
            builder.fcmp_ordered(">", rest, less),
            builder.and_(builder.fcmp_ordered("==", rest, less), open_edge),
        )
        above = builder.add(builder.bitcast(near, word), constant(word, 0xFFFF))
        above = builder.lshr(builder.add(above, builder.zext(up, word)), constant(word, 16))
        octave = builder.and_(
            builder.lshr(builder.bitcast(scale, word), constant(word, 16)), constant(word, 0x7F80)
        )
        below = builder.sub(builder.sub(above, octave), constant(word, 1))
        never = constant(word, _NEVER)
        below = builder.select(builder.icmp_signed("<", below, never), below, never)
        return builder.bitcast(builder.trunc(below, ir.VectorType(ir.IntType(8), _EDGES)), ir.IntType(64))

    return types.uint64(types.float32, types.uint32, types.uint32, types.uint32), generate


@lane
def lowest_word(scale: Any, normal_bits: Any) -> Any:
    """A word from which on quotients are normal numbers of the format; uint32."""
    return _U(shr(bits(scale * real(normal_bits)), _U(16)) + _U(2))


def _values(context: Any, builder: Any, kind: Any, row: Any, index: Any) -> Any:
    vector = ir.VectorType(ir.IntType(16), AT_ONCE)
    return builder.load(address(context, builder, kind, row, index, vector), align=2)


def _packed_order(context: Any) -> list[int]:
    """The order in which the lanes of two registers of 16 bits are packed into one of 8 bits."""
    has = context.codegen().magic_tuple()[2].split(",")
    for feature, width in _REGISTERS:
        if feature in has:
            halves = range(0, AT_ONCE, 2 * width), range(0, width, 8), (0, width), range(8)
            return [sum(parts) for parts in product(*halves)]
    return list(range(AT_ONCE))


def _packed(builder: Any, x: Any, order: list[int]) -> Any:
    """The lower bytes of 16-bit lanes, in some order."""
    loose = builder.bitcast(x, ir.VectorType(ir.IntType(8), 2 * AT_ONCE))
    return chosen(builder, loose, [2 * lane for lane in order])


@instruction
def words_below(context: Any, row: Any, index: Any, lowest: Any) -> Any:
    """Whether a magnitude of the 64 elements of a 1-D array from ``index`` on is below a word."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        row, index, lowest = args
        if signature.args[0].dtype != types.uint16:  # not BF16: no word tells
            return ir.Constant(ir.IntType(1), 1)
        x = _values(context, builder, signature.args[0], row, index)
        size = builder.and_(x, constant(x.type, 0x7FFF))
        below = builder.icmp_signed(
            "<", size, repeated(builder, builder.trunc(lowest, x.type.element), AT_ONCE)
        )
        whole = ir.IntType(AT_ONCE)
        return builder.icmp_unsigned("!=", builder.bitcast(below, whole), ir.Constant(whole, 0))

    return types.boolean(row, types.intp, types.uint32), generate


@instruction
def codes64(
    context: Any, row: Any, index: Any, scale: Any, first: Any, edges: Any, mantissa_shift: Any, out: Any
) -> Any:
    """Write the codes, with their signs, of 64 elements of a 1-D array of BF16 from ``index`` on, of which
    :func:`words_below` is false, to the same places of a 1-D array of uint8.

    Args:
        scale, first, edges, mantissa_shift: see :func:`mantissa_edges`.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        row, index, scale, first, edges, mantissa_shift, out = args
        if signature.args[0].dtype != types.uint16:  # in a branch that is never taken
            return context.get_dummy_value()
        byte, whole = ir.IntType(8), ir.IntType(32)
        kind = ir.VectorType(byte, AT_ONCE)
        x = _values(context, builder, signature.args[0], row, index)

        def number(value: Any) -> Any:
            return repeated(builder, builder.trunc(value, byte), AT_ONCE)

        # Eight (or four) codes to an octave: the exponent so much higher up, modulo 256.
        bits_of_code = builder.sub(ir.Constant(whole, 23), mantissa_shift)
        octave = builder.lshr(builder.bitcast(scale, whole), ir.Constant(whole, 23))
        base = builder.sub(first, builder.shl(octave, bits_of_code))
        down = builder.sub(ir.Constant(whole, 7), bits_of_code)
        shift = repeated(
            builder, builder.trunc(builder.and_(down, ir.Constant(whole, 7)), x.type.element), AT_ONCE
        )
        upper = builder.shl(ir.Constant(whole, -1), bits_of_code)
        order = _packed_order(context)
        codes = builder.and_(_packed(builder, builder.lshr(x, shift), order), number(upper))
        mantissa = _packed(builder, builder.and_(x, constant(x.type, 0x7F)), order)
        limits = builder.bitcast(edges, ir.VectorType(byte, _EDGES))

        def edge(k: int) -> Any:
            return chosen(builder, limits, [k - 1] * AT_ONCE)

        def beyond(edge: Any) -> Any:
            return builder.icmp_signed(">", mantissa, edge)

        def bit(mask: Any, value: int) -> Any:
            return builder.select(mask, constant(kind, value), constant(kind, 0))

        # Three questions for the first seven edges: each halves what is left.
        four = beyond(edge(4))
        two = beyond(builder.select(four, edge(6), edge(2)))
        low = builder.select(four, edge(5), edge(1))
        one = beyond(builder.select(two, builder.select(four, edge(7), edge(3)), low))
        codes = builder.add(codes, builder.or_(builder.or_(bit(four, 4), bit(two, 2)), bit(one, 1)))
        codes = builder.add(codes, builder.add(number(base), bit(beyond(edge(_EDGES)), 1)))
        sign = _packed(builder, builder.lshr(x, constant(x.type, 8)), order)
        codes = builder.or_(codes, builder.and_(sign, constant(kind, 0x80)))
        codes = chosen(builder, codes, [order.index(place) for place in range(AT_ONCE)])
        builder.store(codes, address(context, builder, signature.args[6], out, index, kind), align=1)
        return context.get_dummy_value()

    size = types.float32
    return types.void(row, types.intp, size, types.uint32, types.uint64, types.uint32, out), generate
