"""Codes of 8-bit floats of BF16 values without a division for each: by comparing mantissas.

Under a scale that stays the same, a value twice as large has the code of the next octave, as long as both are
normal numbers: how many codes a value is above the first of its octave is a question of its mantissa alone.
BF16 has 7 bits of it, so they are compared as bytes, of which a register holds four times as many as of
float32; the exponent counts as many codes as an octave has. Each edge is found by what is right for all
values: the quotient, rounded to float32 and then to the format.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np

from .deferred import ir, types
from .jit import instruction, lane
from .lanes import bits, encode, quotient, real, shr
from .vectors import address, chosen, constant, repeated

__all__ = ["AT_ONCE", "codes64", "first_code", "lowest_word", "mantissa_edges", "words_below"]

AT_ONCE = 64
"""Values that are encoded at once."""

_EDGES = 8
"""Codes of an octave of E4M3; E5M2 has fewer, which are compared all the same."""

_REGISTERS = (("+avx512bw", 32), ("+avx2", 16))
"""Lanes of 16 bits: two registers are packed 16 bytes of each at a time. In any other order that would take
several instructions, where putting the lanes in order takes one, once.
"""

_U, _W = np.uint32, np.uint64
_NEVER = np.int64(127)
"""The largest mantissa: none is beyond it."""


@lane
def first_code(scale: Any, inverse: Any, normal_bits: Any, mantissa_shift: Any, magic: Any) -> Any:
    """Code of the power of two at or below a scale, a code of a normal number; uint32."""
    return _code(_octave(scale), scale, inverse, normal_bits, mantissa_shift, magic)


@lane
def _octave(scale: Any) -> Any:
    """Upper half of the bits of the power of two at or below a scale."""
    return _U(shr(bits(scale), _U(16)) & _U(0x7F80))


@lane
def _code(word: Any, scale: Any, inverse: Any, normal_bits: Any, mantissa_shift: Any, magic: Any) -> Any:
    x = real(_U(word << _U(16)))
    return _U(encode(quotient(x, scale, inverse), normal_bits, mantissa_shift, magic) & _U(0xFF))


@lane
def mantissa_edges(
    scale: Any, inverse: Any, first: Any, normal_bits: Any, mantissa_shift: Any, magic: Any
) -> Any:
    """For each code after ``first`` the largest mantissa that lies below it, eight in the bytes of a uint64.

    An edge is about where the product of the scale and what lies halfway between two codes is; the codes of
    three words there tell which of them is the last below it.

    Args:
        scale, inverse: one of which :func:`.lanes.gentle` is true, and its reciprocal.
        first: see :func:`first_code`.
        normal_bits, mantissa_shift, magic: the format, see :func:`.lanes.encode`.
    """
    octave = _octave(scale)
    step = _U(_U(1) << mantissa_shift)
    middle = _U(_U(normal_bits - _U(1 << 23)) + _U(_U(first << mantissa_shift) + shr(step, _U(1))))
    edges = _W(0)
    for k in range(_EDGES):
        word = shr(bits(real(middle) * scale), _U(16))
        below = np.int64(word) - np.int64(octave) - 2
        for near in range(3):
            at = _U(_U(word - _U(1)) + _U(near))
            code = _code(at, scale, inverse, normal_bits, mantissa_shift, magic)
            below += np.int64(code <= _U(first + _U(k)))
        edges |= _W(min(below, _NEVER)) << _W(8 * k)
        middle = _U(middle + step)
    return edges


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
