"""Groups of values turned by a regular Hadamard matrix in registers: operations for kernels.

The matrix of size 4 has -1 on its antidiagonal and 1 elsewhere, over 2; that of size ``4**p`` is its p-th
Kronecker power (Li and others, "ConvRot", arXiv:2512.03673). All are symmetric and their own inverse. A
product with one is p stages of butterflies: in stage s each four values that lie ``4**s`` apart become ::

    p, m, q, n = a + b, a - b, c + d, c - d
    a, b, c, d = p + n, p - n, q + m, q - m

in this order everywhere, so that the bits do not depend on the processor; the factor comes first, exact as it
is a power of two.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from .deferred import ir, types
from .jit import instruction
from .vectors import address, chosen, constant, fused, widened

__all__ = ["mix16", "spin4", "spin16", "spin64", "spin256"]

_LANES = 16
"""Values in a vector; stages that reach further take whole vectors apart and together."""


def _butterfly(builder: Any, four: Sequence[Any]) -> list[Any]:
    a, b, c, d = four
    p, m = builder.fadd(a, b), builder.fsub(a, b)
    q, n = builder.fadd(c, d), builder.fsub(c, d)
    return [builder.fadd(p, n), builder.fsub(p, n), builder.fadd(q, m), builder.fsub(q, m)]


def _within(builder: Any, vector: Any, stride: int) -> Any:
    """A stage inside of one vector: the same sums, in each lane of its own value and one that it fetches.

    Lanes are taken as a, d, c, b: so each of them has a part in the sum that belongs there.
    """
    lanes = range(vector.type.count)
    digits = [lane // stride % 4 for lane in lanes]

    def fetched(x: Any, places: Sequence[int]) -> Any:
        return chosen(
            builder, x, [lane + (places[d] - d) * stride for lane, d in zip(lanes, digits, strict=True)]
        )

    signs = ir.Constant(vector.type, [-1.0 if d % 2 else 1.0 for d in digits])
    turned = fetched(vector, (0, 3, 2, 1))
    halves = fused(builder, turned, signs, fetched(vector, (1, 2, 3, 0)))  # a + b, c - d, c + d, a - b
    return fused(builder, halves, signs, fetched(halves, (1, 0, 3, 2)))  # p + n, p - n, q + m, q - m


def _spin(count: int) -> Callable[..., Any]:
    def spin(context: Any, row: Any, index: Any, unit: Any, line: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            row, index, unit, line = args
            lanes = min(count, _LANES)
            source = context.get_data_type(signature.args[0].dtype)
            floats = ir.VectorType(ir.FloatType(), lanes)
            factor = ir.Constant(floats, ir.Undefined)
            for lane in range(lanes):
                factor = builder.insert_element(factor, unit, ir.Constant(ir.IntType(32), lane))
            vectors = []
            for first in range(0, count, lanes):
                place = builder.add(index, constant(index.type, first))
                start = address(context, builder, signature.args[0], row, place, ir.VectorType(source, lanes))
                loaded = builder.load(start, align=source.width // 8)
                vectors.append(builder.fmul(widened(builder, loaded, signature.args[0].dtype), factor))
            for stride in (1, 4):
                if stride < count:
                    vectors = [_within(builder, vector, stride) for vector in vectors]
            apart = 1
            while apart * _LANES < count:
                for first in range(len(vectors)):
                    if first // apart % 4 == 0:
                        four = slice(first, first + 4 * apart, apart)
                        vectors[four] = _butterfly(builder, vectors[four])
                apart *= 4
            for number, vector in enumerate(vectors):
                place = builder.add(index, constant(index.type, number * lanes))
                start = address(context, builder, signature.args[3], line, place, floats)
                builder.store(vector, start, align=4)
            return context.get_dummy_value()

        return types.void(row, types.intp, types.float32, line), generate

    return instruction(spin)


spin4, spin16, spin64, spin256 = _spin(4), _spin(16), _spin(64), _spin(256)
"""``spin(row, index, unit, line)``: the first stages of 4, 16, 64 or 256 values of a 1-D array of bits from
``index`` on, times ``unit`` (float32), written to the same places of a float32 array, which may be the same
memory.
"""


@instruction
def mix16(context: Any, line: Any, index: Any, stride: Any) -> Any:
    """A later stage of four times 16 float32 that lie ``stride`` apart, from ``index`` on, in place."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        line, index, stride = args
        floats = ir.VectorType(ir.FloatType(), _LANES)
        starts = []
        for _ in range(4):
            starts.append(address(context, builder, signature.args[0], line, index, floats))
            index = builder.add(index, stride)
        mixed = _butterfly(builder, [builder.load(start, align=4) for start in starts])
        for vector, start in zip(mixed, starts, strict=True):
            builder.store(vector, start, align=4)
        return context.get_dummy_value()

    return types.void(line, types.intp, types.intp), generate
