"""How far values are from integers under 32 scales at once: what each scale loses at least.

What a quotient is from the nearest integer is no more than its error, whatever codes there are, and just that
where no code at an end cuts it off. Quotients are numbers of 4 bits and 12 of a fraction, the upper half of a
product of two of 16 bits: so one multiplication makes twice or four times as many as one of float32 does. Two
columns of a group share a word, as their squares are added in one step.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .deferred import cgutils, ir, types, vector_type
from .jit import instruction, lane
from .vectors import address, alike, chosen, constant, fused, joined, repeated, words

__all__ = ["NOISE", "REACH", "VALUES", "as_pairs", "put_pairs", "remainders32"]

VALUES, _FACTORS = np.float32(65535), np.float32(2.0**28 / 65535)
"""What the largest magnitude is as an integer, and how many times its quotient the factor of a scale is."""

REACH = np.float32(15.9)
"""Quotients of the largest magnitude must be below that: then factors are below 2**16."""

NOISE = np.float32(2.25 * 2.0**-12)
"""More than a remainder can be from the true one: rounding the factors changes the product, which is rounded
down, by no more than 0.46 and 0.5 of its last place, 2**-12; quotients may be off by a part in 2**16, as the
reciprocal of a scale that was rounded to BF16 is found in one step, which is 1 of it.
"""

_RUN = 128
"""Words whose sums cannot overflow."""

_UNIT = np.float32(2.0**-24)

_PAIRWISE = (
    ("+avx512bw", 32, "llvm.x86.avx512.pmaddw.d.512"),
    ("+avx2", 16, "llvm.x86.avx2.pmadd.wd"),
)
"""Instructions that multiply and add neighbours: LLVM does not find them here by itself."""


@instruction
def put_pairs(context: Any, even: Any, odd: Any, factor: Any, most: Any, out: Any, at: Any) -> Any:
    """Write the magnitudes of the even and odd columns of 32 times ``factor``, below 2**16, as integers, two
    in a word of ``out``; 0 in place of those above ``most``, an integer.

    Returns:
        Which are above it: a bit of a uint32 for each column.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        even, odd, factor, most, out, at = args
        word = words(even.type)
        rounded = []
        for side in (even, odd):
            size = builder.and_(builder.bitcast(side, word), constant(word, 0x7FFFFFFF))
            size, by = alike(builder, [builder.bitcast(size, side.type), factor])
            raised = fused(builder, size, by, constant(side.type, 2.0**23))
            rounded.append(builder.bitcast(raised, word))
        low = builder.and_(rounded[0], constant(word, 0xFFFF))
        both = builder.or_(low, builder.shl(rounded[1], constant(word, 16)))
        each = builder.bitcast(both, ir.VectorType(ir.IntType(16), 2 * word.count))
        limit = repeated(builder, builder.trunc(most, ir.IntType(16)), each.type.count)
        over = builder.icmp_unsigned(">", each, limit)
        kept = builder.select(over, constant(each.type, 0), each)
        builder.store(kept, address(context, builder, signature.args[4], out, at, each.type), align=4)
        return builder.bitcast(over, ir.IntType(32))

    return types.uint32(even, odd, types.float32, types.uint32, out, types.intp), generate


@instruction
def as_pairs(context: Any, x: Any) -> Any:
    """The integer nearest to each lane, below 2**16, in both halves of a word."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        (x,) = args
        word = builder.bitcast(builder.fadd(x, constant(x.type, 2.0**23)), words(x.type))
        word = builder.and_(word, constant(word.type, 0xFFFF))
        return builder.or_(word, builder.shl(word, constant(word.type, 16)))

    return vector_type.Vector(types.uint32, x.count)(x), generate


@instruction
def _nothing(context: Any, like: Any) -> Any:
    """Sums of nothing."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return constant(args[0].type, 0)

    return like(like), generate


@instruction
def _added(context: Any, sums: Any, factors: Any, pairs: Any, at: Any) -> Any:
    """Sums to which the squares of four remainders are added, those of two words, in units of 2**-24."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        sums, factors, pairs, at = args
        whole, half = ir.IntType(32), ir.VectorType(ir.IntType(16), 2 * sums.type.count)
        upper = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(half, [half, half, whole]), f"llvm.umul.fix.v{half.count}i16"
        )  # spelt as a product of 32 bits it would merge with the shift, and stay one
        factors = builder.bitcast(factors, half)
        start = address(context, builder, signature.args[2], pairs, at, whole)
        squares = []
        for number in range(2):
            word = builder.load(builder.gep(start, [ir.Constant(whole, number)]), align=4)
            values = builder.bitcast(repeated(builder, word, sums.type.count), half)
            share = builder.call(upper, [values, factors, ir.Constant(whole, 16)])
            left = builder.shl(share, constant(half, 4))  # of 16 bits, with its sign
            squares.append(_squares(context, builder, left))
        # No more than 2**32, and were it that, less would be no harm.
        four = builder.lshr(builder.add(*squares), constant(sums.type, 8))
        return builder.add(sums, four)

    return sums(sums, factors, pairs, types.intp), generate


def _squares(context: Any, builder: Any, x: Any) -> Any:
    """The squares of int16 lanes 2k and 2k + 1 added, as int32 lane k."""
    count = x.type.count
    has = context.codegen().magic_tuple()[2].split(",")
    for feature, width, name in _PAIRWISE:
        if feature in has and count % width == 0:
            half, whole = ir.VectorType(ir.IntType(16), width), ir.VectorType(ir.IntType(32), width // 2)
            add = cgutils.get_or_insert_function(builder.module, ir.FunctionType(whole, [half, half]), name)
            parts = [chosen(builder, x, range(first, first + width)) for first in range(0, count, width)]
            parts = [builder.call(add, [part, part]) for part in parts]
            return joined(builder, parts)
    both = builder.bitcast(x, ir.VectorType(ir.IntType(32), count // 2))
    sixteen = constant(both.type, 16)
    sides = builder.ashr(builder.shl(both, sixteen), sixteen), builder.ashr(both, sixteen)
    return builder.add(*(builder.mul(side, side) for side in sides))


@instruction
def _floats(context: Any, sums: Any) -> Any:
    """Int32 as float32."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        (sums,) = args
        return builder.sitofp(sums, ir.VectorType(ir.FloatType(), sums.type.count))

    return vector_type.Vector(types.float32, sums.count)(sums), generate


@lane
def remainders32(pairs: Any, count: Any, shares: Any) -> Any:
    """Sums of the squared remainders of a group under 32 scales, in units of each squared: float32 vector.

    Args:
        pairs: what :func:`put_pairs` wrote, ``count`` words, an even number.
        shares: quotients of the largest magnitude of the group by 32 scales.
    """
    factors = as_pairs(shares * _FACTORS)
    sums = _floats(_nothing(factors))
    for begin in range(0, count, _RUN):
        part = _nothing(factors)
        for j in range(begin, min(begin + _RUN, count), 2):
            part = _added(part, factors, pairs, j)
        sums = sums + _floats(part)
    return sums * _UNIT
