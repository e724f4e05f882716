"""Sixteen floats side by side: a search goes on in as many sub-blocks at once, in each as in a scalar one.

So sums are added in the order of the reference, and come out equal to the bit.
"""

from __future__ import annotations

from typing import Any

from ..deferred import cgutils, ir, types, vector_type
from ..jit import instruction, lane
from ..lanes import INTEGER
from ..vectors import alike, constant, get16, put16, words

__all__ = ["LANES", "above", "byte", "fill", "get16", "nearest", "put16", "root", "rounded"]

LANES = 16


@instruction
def above(context: Any, a: Any, b: Any, x: Any, y: Any) -> Any:
    """``x`` where ``a > b``, else ``y``; numbers among them stand for all lanes."""
    shape = next(kind for kind in (a, b, x, y) if isinstance(kind, vector_type.Vector))

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        a, b, x, y = alike(builder, args)
        return builder.select(builder.fcmp_ordered(">", a, b), x, y)

    scalar = types.float32
    return shape(
        *(kind if isinstance(kind, vector_type.Vector) else scalar for kind in (a, b, x, y))
    ), generate


@instruction
def root(context: Any, x: Any) -> Any:
    """Square root."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = args[0].type
        function = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(kind, [kind]), f"llvm.sqrt.v{kind.count}f32"
        )
        return builder.call(function, args)

    return x(x), generate


@lane
def nearest(x: Any) -> Any:
    """Rounded to an integer, ties to even, as ``nearest_int``; for magnitudes below 2**22."""
    return (x + INTEGER) - INTEGER


@instruction
def rounded(context: Any, x: Any) -> Any:
    """``nearest_int``, as a float: also what that makes of infinity and of magnitudes from 2**22 on."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        (x,) = args
        bits = builder.bitcast(builder.fadd(x, constant(x.type, float(INTEGER))), words(x.type))
        low = builder.and_(bits, constant(bits.type, 0x007FFFFF))
        return builder.sitofp(builder.sub(low, constant(bits.type, 0x00400000)), x.type)

    return x(x), generate


@instruction
def byte(context: Any, x: Any) -> Any:
    """Whole numbers as a byte holds them: those below 0 stand above 127."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        whole = builder.fptosi(args[0], words(args[0].type))
        return builder.sitofp(builder.and_(whole, constant(whole.type, 0xFF)), args[0].type)

    return x(x), generate


@lane
def fill(work: Any, rows: Any, first: Any, inner: Any, size: Any) -> Any:
    """Element ``j`` of sixteen sub-blocks side by side at ``16 * j``.

    Args:
        work: float32, written.
        rows: float32 ``[n, elements]``.
        first: the row of the first sub-block; where there are too few rows, the last stands for more.
        inner: sub-blocks of a row.
        size: elements of a sub-block.
    """
    for k in range(16):
        row = rows[min(first + k // inner, rows.shape[0] - 1)]
        start = (k % inner) * size
        for j in range(size):
            work[16 * j + k] = row[start + j]
