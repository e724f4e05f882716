"""The largest magnitude of some values, as bits: floats without their signs compare as integers."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

import numpy as np

from .deferred import cgutils, ir, types, vector_type
from .jit import instruction, lane
from .lanes import bits, larger, real, widen
from .vectors import constant, load, put16

__all__ = [
    "all_finite",
    "greatest",
    "peak16",
    "peak32",
    "peak_between",
    "peaks16",
    "peaks32",
    "put_peaks16",
    "put_peaks32",
]

_U = np.uint32
_INF = np.float32(np.inf)


def _sizes(context: Any, builder: Any, signature: Any, args: Any, count: int) -> Any:
    values = load(context, builder, signature, args, count)
    return builder.and_(values, constant(values.type, (1 << (values.type.element.width - 1)) - 1))


def _most(builder: Any, values: Any) -> Any:
    kind = values.type
    most = cgutils.get_or_insert_function(
        builder.module,
        ir.FunctionType(kind.element, [kind]),
        f"llvm.vector.reduce.umax.v{kind.count}i{kind.element.width}",
    )
    return builder.call(most, [values])


def _peak(count: int) -> Callable[..., Any]:
    def peak(context: Any, row: Any, index: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return _most(builder, _sizes(context, builder, signature, args, count))

        return row.dtype(row, types.intp), generate

    return instruction(peak)


peak16, peak32 = _peak(16), _peak(32)
"""Largest magnitude, as bits, of 16 or 32 elements of a 1-D array of bits from ``index`` on."""


def _peaks(size: int) -> Callable[..., Any]:
    def peaks(context: Any, row: Any, index: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            row, index = args
            blocks = []
            for block in range(16):
                parts = []
                for first in range(block * size, block * size + size, 16):
                    place = builder.add(index, ir.Constant(index.type, first))
                    parts.append(_sizes(context, builder, signature, (row, place), 16))
                blocks.append(reduce(lambda low, high: _larger(builder, low, high), parts))
            width = 1
            while len(blocks) > 1:
                blocks = [_merged(builder, blocks[k], blocks[k + 1], width) for k in range(0, len(blocks), 2)]
                width *= 2
            return blocks[0]

        return vector_type.Vector(row.dtype, 16)(row, types.intp), generate

    return instruction(peaks)


def _larger(builder: Any, low: Any, high: Any) -> Any:
    return builder.select(builder.icmp_unsigned(">", low, high), low, high)


def _merged(builder: Any, low: Any, high: Any, width: int) -> Any:
    """Two vectors of 16 lanes made one: of either, each run of ``width`` lanes holds the largest of as many
    blocks so far; of the result, each run of twice as many those of both.

    Half of the runs are set beside the other half; both lie in one piece of 128 bits, where they can.
    """
    piece = max(128 // low.type.element.width, 2 * width)
    halves = [
        [
            side + first + lane
            for begin in range(start, 16, piece)
            for first in range(begin, begin + piece // 2, width)
            for side in (0, 16)
            for lane in range(width)
        ]
        for start in (0, piece // 2)
    ]
    kind = ir.VectorType(ir.IntType(32), 16)
    return _larger(
        builder, *(builder.shuffle_vector(low, high, ir.Constant(kind, lanes)) for lanes in halves)
    )


peaks16, peaks32 = _peaks(16), _peaks(32)
"""Largest magnitudes, as bits, of 16 blocks of 16 or 32 elements each, which follow each other in a 1-D array
of bits from ``index`` on. A vector: to reduce one block after the other would take twice as long.
"""


@instruction
def _sizes16(context: Any, row: Any, index: Any) -> Any:
    """The magnitudes of 16 elements, as bits."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _sizes(context, builder, signature, args, 16)

    return vector_type.Vector(row.dtype, 16)(row, types.intp), generate


@instruction
def greatest(context: Any, x: Any) -> Any:
    """The greatest lane of a vector of unsigned integers."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _most(builder, args[0])

    return x.dtype(x), generate


@lane
def peak_between(values: Any, start: Any, stop: Any) -> Any:
    """Largest magnitude, as bits, of a 1-D array of bits from ``start`` to ``stop``, a multiple of 16 and not
    none.
    """
    highest = _sizes16(values, start)
    for j in range(start + 16, stop, 16):
        highest = larger(highest, _sizes16(values, j))
    return greatest(highest)


@lane
def put_peaks16(part: Any, count: Any, peaks: Any) -> Any:
    """Write the largest magnitude of each of ``count`` blocks of 16; returns whether all are finite."""
    whole = count & ~15
    for b in range(0, whole, 16):
        put16(peaks, b, widen(peaks16(part, b * 16)))
    for b in range(whole, count):
        peaks[b] = widen(peak16(part, b * 16))
    return all_finite(peaks, count)


@lane
def put_peaks32(part: Any, count: Any, peaks: Any) -> Any:
    """The same of blocks of 32."""
    whole = count & ~15
    for b in range(0, whole, 16):
        put16(peaks, b, widen(peaks32(part, b * 32)))
    for b in range(whole, count):
        peaks[b] = widen(peak32(part, b * 32))
    return all_finite(peaks, count)


@lane
def all_finite(sizes: Any, count: Any) -> Any:
    """Whether so many magnitudes are finite: as bits, that none is as large as infinity."""
    highest = _U(0)
    for b in range(count):
        highest = max(highest, bits(sizes[b]))
    return real(highest) < _INF
