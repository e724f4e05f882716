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
from .vectors import address, chosen, constant, fused, repeated, split, widened

__all__ = ["mix16", "spin4", "spin16", "spin64"]

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
            start = address(context, builder, signature.args[0], row, index, _bits(context, signature, count))
            loaded = builder.load(start, align=signature.args[0].dtype.bitwidth // 8)
            vector = widened(builder, loaded, signature.args[0].dtype)
            vector = builder.fmul(vector, repeated(builder, unit, count))
            for stride in (1, 4):
                if stride < count:
                    vector = _within(builder, vector, stride)
            target = address(context, builder, signature.args[3], line, index, vector.type)
            builder.store(vector, target, align=4)
            return context.get_dummy_value()

        return types.void(row, types.intp, types.float32, line), generate

    return instruction(spin)


def _bits(context: Any, signature: Any, count: int) -> Any:
    return ir.VectorType(context.get_data_type(signature.args[0].dtype), count)


spin4, spin16 = _spin(4), _spin(16)
"""``spin(row, index, unit, line)``: the first stages of 4 or 16 values of a 1-D array of bits from ``index``
on, times ``unit`` (float32), written to the same places of a float32 array, which may be the same memory.
"""


def _crossed(builder: Any, both: Any, less: Any, width: int) -> list[Any]:
    """The second half of a stage of two vectors, from p, q and m, n.

    Of fours of runs of ``width`` lanes one has a and c, the other b and d.
    """
    crossed = chosen(builder, less, [lane ^ width for lane in range(less.type.count)])  # n, m
    return [builder.fadd(both, crossed), builder.fsub(both, crossed)]


def _stage(builder: Any, pair: Sequence[Any], width: int) -> list[Any]:
    even, odd = pair
    return _crossed(builder, builder.fadd(even, odd), builder.fsub(even, odd), width)


def _paired(builder: Any, pair: Sequence[Any], runs: Sequence[Sequence[int]]) -> list[Any]:
    """Two vectors, of runs of lanes of two: those of the second are counted on behind the first's."""
    mask = ir.VectorType(ir.IntType(32), _LANES)
    width = _LANES // len(runs[0])
    return [
        builder.shuffle_vector(*pair, ir.Constant(mask, [first + k for first in each for k in range(width)]))
        for each in runs
    ]


@instruction
def spin64(context: Any, row: Any, index: Any, unit: Any, line: Any) -> Any:
    """The same of 64 values.

    Even and odd columns are read as two vectors, so that the first sums are of whole vectors; for each
    further stage lanes are dealt anew.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        row, index, unit, line = args
        kind, dtype = signature.args[0], signature.args[0].dtype
        unit = repeated(builder, unit, _LANES)
        dealt = []
        for first in (0, 32):
            place = builder.add(index, constant(index.type, first))
            start = address(context, builder, kind, row, place, _bits(context, signature, 32))
            loaded = builder.load(start, align=dtype.bitwidth // 8)
            even, odd = split(builder, loaded, dtype)
            odd = builder.fmul(odd, unit)
            if dtype == types.uint32:
                even = builder.fmul(even, unit)
                both, less = builder.fadd(even, odd), builder.fsub(even, odd)
            else:  # the product is exact: these have few bits, and float32 has their exponents
                both, less = fused(builder, even, unit, odd), fused(builder, even, unit, builder.fneg(odd))
            pair = _crossed(builder, both, less, 1)
            runs = [
                [k + j for k in range(0, _LANES, 4) for j in (at, at + _LANES, at + 1, at + _LANES + 1)]
                for at in (0, 2)
            ]
            dealt.append(_stage(builder, _paired(builder, pair, runs), 4))  # 0-3, 8-11; 4-7, 12-15
        turned = []
        for two in zip(*dealt, strict=True):
            turned.append(_stage(builder, _paired(builder, two, [(0, 16), (8, 24)]), 8))
        for first, two in zip((0, 16), zip(*turned, strict=True), strict=True):
            for at, vector in zip(
                (0, 32), _paired(builder, two, [(0, 16, 4, 20), (8, 24, 12, 28)]), strict=True
            ):
                place = builder.add(index, constant(index.type, first + at))
                start = address(context, builder, signature.args[3], line, place, vector.type)
                builder.store(vector, start, align=4)
        return context.get_dummy_value()

    return types.void(row, types.intp, types.float32, line), generate


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
