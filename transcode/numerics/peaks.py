"""The largest magnitude of some values, as bits: floats without their signs compare as integers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .deferred import cgutils, ir, types, vector_type
from .jit import instruction, lane
from .lanes import larger
from .vectors import constant, load

__all__ = ["greatest", "peak16", "peak32", "peak_between"]


def _sizes(context: Any, builder: Any, signature: Any, args: Any, count: int) -> Any:
    values = load(context, builder, signature, args, count)
    return builder.and_(values, constant(values.type, (1 << (values.type.element.width - 1)) - 1))


def _most(builder: Any, values: Any) -> Any:
    kind = values.type
    reduce = cgutils.get_or_insert_function(
        builder.module,
        ir.FunctionType(kind.element, [kind]),
        f"llvm.vector.reduce.umax.v{kind.count}i{kind.element.width}",
    )
    return builder.call(reduce, [values])


def _peak(count: int) -> Callable[..., Any]:
    def peak(context: Any, row: Any, index: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return _most(builder, _sizes(context, builder, signature, args, count))

        return row.dtype(row, types.intp), generate

    return instruction(peak)


peak16, peak32 = _peak(16), _peak(32)
"""Largest magnitude, as bits, of 16 or 32 elements of a 1-D array of bits from ``index`` on."""


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
