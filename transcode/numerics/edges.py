"""Codes of E2M1 of BF16 values without a division for each: by comparing words.

Which code a value has is a question of seven edges, which are those of E2M1 times the unit of its block.
BF16 values sort as their 16-bit words do, so an edge is the first word that lies beyond it, and the code of a
value how many of them its word has reached: a comparison and an addition of 16-bit lanes each, of which a
register holds twice as many as of float32. Four edges come of a multiplication; the others are octaves of
those.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.scratch import Scratch
from .deferred import arrayobj, ir, types
from .jit import instruction
from .vectors import address, constant, fused, joined, repeated

__all__ = ["EDGES", "HIGHEST", "LOWEST", "by_words", "codes16", "codes32", "codes_pair", "edges16", "room"]

EDGES = 4
"""Words that are kept for a block, each twice: 32 bits are repeated in all lanes by the load itself."""

LOWEST, HIGHEST = np.float32(2.0**-117), np.float32(2.0**110)
"""Units whose edges are all normal numbers, and are not beyond the largest words."""

_STEPS = ((0.25, 2.0**-26, False), (0.75, 2.0**-25, True), (1.25, 2.0**-24, False), (1.75, 2.0**-24, True))
"""Halfway between two codes, under a unit of 1: where it is, half of its last place in float32, and whether
it belongs to the code above it. 2.5, 3.5 and 5 are octaves of the last two, and belong as those do.
"""

_NEVER = 0x7EFF
"""Two octaves above it is the largest word of 15 bits."""


def room(blocks: int, scratch: Scratch) -> NDArray[np.uint32]:
    """What :func:`edges16` writes to, for so many blocks."""
    return scratch.take((EDGES * blocks,), np.uint32)


@instruction
def by_words(context: Any, values: Any) -> Any:
    """Whether an array of bits holds BF16; known when a kernel is compiled."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return ir.Constant(ir.IntType(1), int(signature.args[0].dtype == types.uint16))

    return types.boolean(values), generate


@instruction
def edges16(context: Any, units: Any, words: Any, b: Any) -> Any:
    """Write the edges of 16 blocks from ``b`` on: ties go to the even code.

    A quotient by the unit, rounded to float32, is larger than a step of E2M1 where the value is beyond unit
    times step by more than half of the step's last place, as the step itself has an even one; and not less
    than it from half a place below on. Each edge is rounded once, and lies on a word or between two: that one
    on a word was rounded to it, the rest tells.

    Args:
        units: float32, from :data:`LOWEST` to :data:`HIGHEST`; or 0, under which all codes are 0.
        words: see :func:`room`.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        units, words, b = args
        kind = ir.VectorType(ir.FloatType(), 16)
        whole = ir.VectorType(ir.IntType(32), 16)
        unit = builder.load(address(context, builder, signature.args[0], units, b, kind), align=4)
        some = builder.fcmp_ordered(">", unit, constant(kind, 0.0))
        table, blocks = _table(context, builder, signature.args[1], words)
        for number, (step, half_place, closed) in enumerate(_STEPS):
            reach = builder.fmul(unit, constant(kind, half_place))
            less = builder.fneg(reach)
            step = constant(kind, step)
            near = fused(builder, unit, step, less if closed else reach)
            rest = fused(builder, unit, step, builder.fneg(near))
            up = builder.fcmp_ordered(">", rest, reach) if closed else builder.fcmp_ordered(">=", rest, less)
            word = builder.add(builder.bitcast(near, whole), constant(whole, 0xFFFF))
            word = builder.add(word, builder.zext(up, whole))
            word = builder.select(some, word, constant(whole, _NEVER << 16))
            sixteen = constant(whole, 16)
            upper = builder.and_(word, constant(whole, 0xFFFF0000))
            twice = builder.or_(upper, builder.lshr(word, sixteen))
            place = builder.add(b, builder.mul(blocks, ir.Constant(blocks.type, number)))
            start = builder.gep(table, [place])
            builder.store(twice, builder.bitcast(start, whole.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(units, words, types.intp), generate


def _table(context: Any, builder: Any, kind: Any, words: Any) -> tuple[Any, Any]:
    """Address of the edges, and how many blocks there is room for."""
    table = arrayobj.make_array(kind)(context, builder, words)
    length = builder.extract_value(table.shape, 0)
    return table.data, builder.udiv(length, ir.Constant(length.type, EDGES))


def _codes(count: int, each: int) -> Callable[..., Any]:
    def codes(context: Any, values: Any, index: Any, words: Any, b: Any, out: Any, at: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            values, index, words, b, out, at = args
            kind = ir.VectorType(ir.IntType(16), count)
            if signature.args[0].dtype != types.uint16:  # in a branch that is never taken
                return context.get_dummy_value()
            x = builder.load(address(context, builder, signature.args[0], values, index, kind), align=2)
            size = builder.and_(x, constant(kind, 0x7FFF))
            table, blocks = _table(context, builder, signature.args[2], words)

            def edge(number: int) -> Any:
                place = builder.add(b, builder.mul(blocks, ir.Constant(blocks.type, number)))
                parts = []
                for block in range(count // each):
                    at = builder.add(place, ir.Constant(place.type, block))
                    parts.append(repeated(builder, builder.load(builder.gep(table, [at])), each // 2))
                return builder.bitcast(joined(builder, parts), kind)

            def octaves(edge: Any, count: int) -> Any:
                return builder.add(edge, constant(kind, count << 7))

            def reached(edge: Any) -> Any:
                return builder.icmp_signed(">=", size, edge)

            def bit(mask: Any, value: int) -> Any:
                return builder.select(mask, constant(kind, value), constant(kind, 0))

            # Three questions instead of seven: each halves what is left.
            first, second, third, fourth = (edge(number) for number in range(EDGES))
            four = reached(fourth)
            two = reached(builder.select(four, octaves(fourth, 1), second))
            low = builder.select(four, octaves(third, 1), first)
            high = builder.select(four, octaves(third, 2), third)
            one = reached(builder.select(two, high, low))
            code = builder.or_(builder.or_(bit(four, 4), bit(two, 2)), bit(one, 1))
            sign = builder.and_(builder.lshr(x, constant(kind, 12)), constant(kind, 8))
            pairs = ir.VectorType(ir.IntType(32), count // 2)
            both = builder.bitcast(builder.or_(code, sign), pairs)
            both = builder.or_(both, builder.lshr(both, constant(pairs, 12)))
            packed = builder.trunc(both, ir.VectorType(ir.IntType(8), count // 2))
            target = address(context, builder, signature.args[4], out, at, packed.type)
            builder.store(packed, target, align=1)
            return context.get_dummy_value()

        return types.void(values, types.intp, words, types.intp, out, types.intp), generate

    return instruction(codes)


codes16, codes32, codes_pair = _codes(16, 16), _codes(32, 32), _codes(32, 16)
"""Write the packed codes, the even column in the low nibble, of 16 or 32 BF16 values from ``index`` on, under
the edges of block ``b``; of a pair, the second 16 under those of the next one.
"""
