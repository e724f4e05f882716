"""Sixteen groups side by side, a group to a lane: no sum has to wait for lanes to be added to each other.

What is computed of a group, a scale above all, then takes one step for sixteen of them, divisions too. For
that the values of the groups are turned round: row j of a block of memory holds value j of each.
"""

from __future__ import annotations

from typing import Any

from .deferred import ir, types
from .jit import instruction, lane
from .vectors import address, get16, put16, widened

__all__ = ["LANES", "across16", "spread16", "total16"]

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
            held = builder.select(builder.icmp_signed("<", place, last), place, last)
            begin = address(context, builder, kind, values, held, source)
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


def _exchanged(builder: Any, upper: Any, lower: Any, width: int) -> tuple[Any, Any]:
    """Two rows, each ``width`` lanes of the upper one with those of the lower one to their left exchanged."""
    lanes = range(LANES)
    first = [k if not k & width else LANES + k - width for k in lanes]
    second = [k + width if not k & width else LANES + k for k in lanes]
    mask = ir.VectorType(ir.IntType(32), LANES)
    return tuple(
        builder.shuffle_vector(upper, lower, ir.Constant(mask, chosen)) for chosen in (first, second)
    )


@lane
def total16(rows: Any, at: Any) -> Any:
    """Sum of eight rows from ``at`` on: halves are added to halves, as :func:`.vectors.total` does."""
    first = get16(rows, at) + get16(rows, at + 64)
    second = get16(rows, at + 16) + get16(rows, at + 80)
    third = get16(rows, at + 32) + get16(rows, at + 96)
    fourth = get16(rows, at + 48) + get16(rows, at + 112)
    return (first + third) + (second + fourth)


@lane
def spread16(numbers: Any, like: Any, rows: Any) -> Any:
    """Write a row of 16 for each number: the same in all lanes."""
    nothing = like - like
    for k in range(numbers.shape[0]):
        put16(rows, LANES * k, nothing + numbers[k])
