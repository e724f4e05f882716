"""Vectors of whole numbers: rounded to them, narrowed, taken from bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .deferred import cgutils, ir, types, vector_type
from .jit import instruction
from .vectors import address, constant, floats, load, repeated, words

__all__ = ["byte16", "ceil", "floor", "nearest_integer", "put_integers32", "put_numbers16"]


def _rounded(name: str) -> Callable[..., Any]:
    def rounded(context: Any, x: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            kind = args[0].type
            function = cgutils.get_or_insert_function(
                builder.module, ir.FunctionType(kind, [kind]), f"llvm.{name}.v{kind.count}f32"
            )
            return builder.call(function, args)

        return x(x), generate

    return instruction(rounded)


ceil, floor, nearest_integer = _rounded("ceil"), _rounded("floor"), _rounded("roundeven")
"""Vectors rounded to integers: up, down, to nearest even; zeros keep their sign."""


@instruction
def byte16(context: Any, row: Any, index: Any, which: Any) -> Any:
    """A byte, with a sign, of each of 16 uint32 of a 1-D array from ``index`` on: float32; 0 is lowest."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        row, index, which = args
        loaded = load(context, builder, signature, (row, index), 16)
        up = builder.shl(builder.sub(constant(which.type, 3), which), constant(which.type, 3))
        up = repeated(builder, builder.trunc(up, ir.IntType(32)), 16)
        number = builder.ashr(builder.shl(loaded, up), constant(loaded.type, 24))
        return builder.sitofp(number, floats(number.type))

    return vector_type.Vector(types.float32, 16)(row, types.intp, types.intp), generate


@instruction
def put_numbers16(context: Any, out: Any, index: Any, x: Any) -> Any:
    """Write 16 float32 that are integers to a 1-D array of int32 from ``index`` on."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        out, index, x = args
        number = builder.fptosi(x, words(x.type))
        start = address(context, builder, signature.args[0], out, index, number.type)
        builder.store(number, start, align=4)
        return context.get_dummy_value()

    return types.void(out, types.intp, x), generate


@instruction
def put_integers32(context: Any, out: Any, index: Any, first: Any, second: Any) -> Any:
    """Write twice 16 float32 of magnitudes below 2**22, rounded to nearest even and held from -128 to 127, to
    a 1-D array of int8 from ``index`` on.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        out, index, *sides = args
        numbers = []
        for side in sides:
            shifted = builder.fadd(side, constant(side.type, 1.5 * 2**23))
            number = builder.bitcast(shifted, words(side.type))
            numbers.append(builder.sub(number, constant(number.type, 0x4B400000)))
        both = builder.shuffle_vector(
            *numbers, ir.Constant(ir.VectorType(ir.IntType(32), 32), list(range(32)))
        )
        for order, limit in ((">", -128), ("<", 127)):  # processors narrow and hold back in one step
            limit = constant(both.type, limit)
            both = builder.select(builder.icmp_signed(order, both, limit), both, limit)
        narrow = builder.trunc(both, ir.VectorType(ir.IntType(8), 32))
        builder.store(narrow, address(context, builder, signature.args[0], out, index, narrow.type), align=1)
        return context.get_dummy_value()

    return types.void(out, types.intp, first, second), generate
