"""Sixteen groups side by side, a group to a lane: no sum has to wait for lanes to be added to each other.

What is computed of a group, a scale above all, then takes one step for sixteen of them, divisions too. For
that the values of the groups are turned round: row j of a block of memory holds value j of each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .deferred import ir, types
from .jit import instruction, lane
from .lanes import bits, larger, size_of
from .vectors import address, constant, get16, widened

__all__ = ["LANES", "across16", "back_nibbles", "back_uppers", "padded", "peaks16", "total16"]

LANES = 16


@instruction
def across16(context: Any, values: Any, start: Any, stride: Any, last: Any, out: Any, at: Any) -> Any:
    """Write 16 values of each of 16 groups as 16 rows of 16, value by value.

    Args:
        values: bits, 1-D, see :func:`.lanes.widen`.
        start, stride: where the first group's values are, and how far the next group's lie behind them.
        last: where those of the last group are, which stands for those that would be behind it.
        out: float32, 1-D, written from ``at`` on.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        values, place, stride, last, out, at = args
        kind, dtype = signature.args[0], signature.args[0].dtype
        source = ir.VectorType(context.get_data_type(dtype), LANES)
        rows = []
        for _ in range(LANES):
            begin = address(context, builder, kind, values, _at_most(builder, place, last), source)
            rows.append(widened(builder, builder.load(begin, align=dtype.bitwidth // 8), dtype))
            place = builder.add(place, stride)
        width = LANES // 2
        while width:  # of each square of twice that width, the quarters beside the diagonal change places
            for upper in range(LANES):
                if not upper & width:
                    pair = rows[upper], rows[upper + width]
                    rows[upper], rows[upper + width] = _exchanged(builder, *pair, width)
            width //= 2
        begin = address(context, builder, signature.args[4], out, at, rows[0].type)
        for number, row in enumerate(rows):
            target = builder.gep(begin, [ir.Constant(ir.IntType(32), number)])
            builder.store(row, target, align=4)
        return context.get_dummy_value()

    return types.void(values, types.intp, types.intp, types.intp, out, types.intp), generate


def _at_most(builder: Any, place: Any, last: Any) -> Any:
    """Of groups behind the last one, that of the last one."""
    return builder.select(builder.icmp_signed("<", place, last), place, last)


def _exchanged(builder: Any, upper: Any, lower: Any, width: int) -> tuple[Any, Any]:
    """Two rows, each ``width`` lanes of the upper one with those of the lower one to their left exchanged."""
    lanes = range(LANES)
    first = [k if not k & width else LANES + k - width for k in lanes]
    second = [k + width if not k & width else LANES + k for k in lanes]
    mask = ir.VectorType(ir.IntType(32), LANES)
    return tuple(
        builder.shuffle_vector(upper, lower, ir.Constant(mask, chosen)) for chosen in (first, second)
    )


def _back(width: int, lowest: int) -> Callable[..., Any]:
    def back(context: Any, rows: Any, at: Any, out: Any, start: Any, stride: Any, last: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            rows, at, out, place, stride, last = args
            word = ir.VectorType(ir.IntType(32), LANES)
            first = address(
                context, builder, signature.args[0], rows, at, ir.VectorType(ir.FloatType(), LANES)
            )
            packed: list[Any] = []
            for row in range(LANES):
                loaded = builder.load(builder.gep(first, [ir.Constant(ir.IntType(32), row)]), align=4)
                field = builder.lshr(builder.fptosi(loaded, word), constant(word, lowest))
                field = builder.and_(field, constant(word, (1 << width) - 1))
                field = builder.shl(field, constant(word, row * width % 32))
                if row * width % 32:
                    packed[-1] = builder.or_(packed[-1], field)
                else:
                    packed.append(field)
            for group in range(LANES):
                held = _at_most(builder, place, last)
                for number, words in enumerate(packed):
                    begin = builder.add(held, constant(held.type, 4 * number))
                    target = address(context, builder, signature.args[2], out, begin, word.element)
                    lane = ir.Constant(ir.IntType(32), group)
                    builder.store(builder.extract_element(words, lane), target, align=1)
                place = builder.add(place, stride)
            return context.get_dummy_value()

        return types.void(rows, types.intp, out, types.intp, types.intp, types.intp), generate

    return instruction(back)


back_nibbles, back_uppers = _back(4, 0), _back(2, 4)
"""``back(rows, at, out, start, stride, last)``: the way back of :func:`across16` for codes: of 16 rows of
codes (integers in float32) from ``at`` on, bits 0 to 3, or bits 4 and 5, are packed, the first lowest, and
written to a 1-D array of uint8, for the first group from ``start`` on.
"""


def padded(groups: int) -> int:
    """So many groups, and those beside the last ones."""
    return -(-groups // LANES) * LANES


@lane
def peaks16(rows: Any, count: Any) -> Any:
    """Largest magnitudes, as bits, of 16 groups that lie across so many rows from the first on."""
    highest = bits(size_of(get16(rows, 0)))
    for j in range(LANES, LANES * count, LANES):
        highest = larger(highest, bits(get16(rows, j)))
    return highest


@lane
def total16(rows: Any, at: Any) -> Any:
    """Sum of eight rows from ``at`` on: halves are added to halves, as :func:`.vectors.total` does."""
    first = get16(rows, at) + get16(rows, at + 64)
    second = get16(rows, at + 16) + get16(rows, at + 80)
    third = get16(rows, at + 32) + get16(rows, at + 96)
    fourth = get16(rows, at + 48) + get16(rows, at + 112)
    return (first + third) + (second + fourth)
