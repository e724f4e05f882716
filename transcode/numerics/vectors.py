"""Blocks of a fixed number of values as LLVM vectors, for what is too short for loops to vectorise.

A vector (:class:`.vector_type.Vector`) lives in kernels only. Nothing here is meant for one processor: LLVM
cuts vectors that are wider than its registers into several, so the same source serves AVX-512, AVX2 and NEON.
Operations are given the scalars among their operands as they are, and repeat them in all lanes.

Two columns that share a byte, or a 16-bit word, lie in one memory word. Encoders therefore take a block as
its even and its odd columns: for BF16 this is how they lie in words anyway, and the codes of both meet in one
lane, where packing is a shift.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .deferred import arrayobj, cgutils, ir, types, vector_type
from .jit import instruction

__all__ = [
    "address",
    "alike",
    "chosen",
    "columns16",
    "columns32",
    "constant",
    "fetch",
    "first_bit",
    "first_lane",
    "floats",
    "fused",
    "gathered",
    "get16",
    "halves16",
    "joined",
    "last_lane",
    "least",
    "load",
    "numbers16",
    "numbers32",
    "only",
    "pack4",
    "pack6",
    "pack8",
    "places16",
    "put16",
    "put32",
    "repeated",
    "shaped",
    "split",
    "total",
    "values16",
    "values32",
    "widened",
    "with_first",
    "within",
    "words",
]

# For those who write operations on numbers and vectors alike -----------------------------------------------


def shaped(dtype: Any, *like: Any) -> Any:
    """Numba's type of a ``dtype`` for each lane of those operands that are vectors; of one, if none is."""
    for kind in like:
        if isinstance(kind, vector_type.Vector):
            return vector_type.Vector(dtype, kind.count)
    return dtype


def words(kind: Any) -> Any:
    """LLVM's type of the bits of a float32, or of a vector of them."""
    return _lanes(ir.IntType(32), kind)


def floats(kind: Any) -> Any:
    """LLVM's type of the float32 of some bits, or of a vector of them."""
    return _lanes(ir.FloatType(), kind)


def alike(builder: Any, operands: Any) -> list[Any]:
    """Operands of an operation, numbers repeated in all lanes if another one is a vector."""
    counts = [operand.type.count for operand in operands if isinstance(operand.type, ir.VectorType)]
    if not counts:
        return list(operands)
    return [
        operand if isinstance(operand.type, ir.VectorType) else repeated(builder, operand, counts[0])
        for operand in operands
    ]


def repeated(builder: Any, value: Any, count: int) -> Any:
    """A number in all of ``count`` lanes."""
    nothing = ir.Constant(ir.VectorType(value.type, count), ir.Undefined)
    single = builder.insert_element(nothing, value, ir.Constant(ir.IntType(32), 0))
    return chosen(builder, single, [0] * count)


def chosen(builder: Any, vector: Any, lanes: Any) -> Any:
    """Some lanes of a vector, in that order."""
    mask = ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), list(lanes))
    return builder.shuffle_vector(vector, ir.Constant(vector.type, ir.Undefined), mask)


def joined(builder: Any, parts: list[Any]) -> Any:
    """The lanes of some vectors, as many as a power of two, one after the other."""
    while len(parts) > 1:
        parts = [_side_by_side(builder, *parts[k : k + 2]) for k in range(0, len(parts), 2)]
    return parts[0]


def _side_by_side(builder: Any, low: Any, high: Any) -> Any:
    lanes = 2 * low.type.count
    return builder.shuffle_vector(
        low, high, ir.Constant(ir.VectorType(ir.IntType(32), lanes), list(range(lanes)))
    )


def fused(builder: Any, a: Any, b: Any, c: Any) -> Any:
    """``a * b + c`` with one rounding."""
    kind = a.type
    name = f"llvm.fma.v{kind.count}f32" if isinstance(kind, ir.VectorType) else "llvm.fma.f32"
    function = ir.FunctionType(kind, [kind] * 3)
    return builder.call(cgutils.get_or_insert_function(builder.module, function, name), [a, b, c])


def split(builder: Any, loaded: Any, dtype: Any) -> list[Any]:
    """The float32 that the even and the odd lanes of a vector of bits mean."""
    if dtype == types.uint16:  # each is the upper half of a float32: no need to sort them
        both = builder.bitcast(loaded, ir.VectorType(ir.IntType(32), loaded.type.count // 2))
        sides = (
            builder.shl(both, constant(both.type, 16)),
            builder.and_(both, constant(both.type, 0xFFFF0000)),
        )
        return [builder.bitcast(side, floats(both.type)) for side in sides]
    lanes = ([*range(first, loaded.type.count, 2)] for first in (0, 1))
    return [widened(builder, chosen(builder, loaded, side), dtype) for side in lanes]


def widened(builder: Any, x: Any, dtype: Any) -> Any:
    """See :func:`.lanes.widen`."""
    if dtype == types.uint16:
        wide = builder.zext(x, _lanes(ir.IntType(32), x.type))
        return builder.bitcast(builder.shl(wide, constant(wide.type, 16)), _lanes(ir.FloatType(), x.type))
    if dtype == types.int16:
        return builder.fpext(
            builder.bitcast(x, _lanes(ir.HalfType(), x.type)), _lanes(ir.FloatType(), x.type)
        )
    return builder.bitcast(x, _lanes(ir.FloatType(), x.type))


def _lanes(kind: Any, like: Any) -> Any:
    return ir.VectorType(kind, like.count) if isinstance(like, ir.VectorType) else kind


def constant(kind: Any, value: float) -> Any:
    """A number of an LLVM type, or a vector of it."""
    return ir.Constant(kind, [value] * kind.count if isinstance(kind, ir.VectorType) else value)


# Arithmetic -----------------------------------------------------------------------------------------------


@instruction
def total(context: Any, x: Any) -> Any:
    """Sum of all lanes."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        (values,) = args
        width = values.type.count
        while width > 1:  # always in this order, whatever the processor: halves are added to halves
            width //= 2
            low, high = (chosen(builder, values, range(first, first + width)) for first in (0, width))
            values = builder.fadd(low, high)
        return builder.extract_element(values, ir.Constant(ir.IntType(32), 0))

    return types.float32(x), generate


def _unsigned(builder: Any, x: Any) -> Any:
    """The lanes of a vector as integers that sort as they do: floats must not be negative."""
    if isinstance(x.type.element, ir.FloatType):
        return builder.bitcast(x, words(x.type))
    return x


@instruction
def least(context: Any, x: Any) -> Any:
    """The least of the lanes of a vector of uint16, or the bits of that of float32 not below 0, as uint32."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        lanes = _unsigned(builder, args[0])
        kind = lanes.type
        reduce = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(kind.element, [kind]),
            f"llvm.vector.reduce.umin.v{kind.count}i{kind.element.width}",
        )
        return builder.zext(builder.call(reduce, [lanes]), ir.IntType(32))

    return types.uint32(x), generate


@instruction
def within(context: Any, x: Any, bound: Any) -> Any:
    """Which of up to 32 lanes are no more than ``bound``, see :func:`least`: bits of a uint32."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        lanes = _unsigned(builder, args[0])
        lanes, bound = alike(builder, [lanes, builder.trunc(args[1], lanes.type.element)])
        mask = builder.icmp_unsigned("<=", lanes, bound)
        return builder.zext(builder.bitcast(mask, ir.IntType(lanes.type.count)), ir.IntType(32))

    return types.uint32(x, types.uint32), generate


@instruction
def first_bit(context: Any, mask: Any) -> Any:
    """Number of the lowest bit of a uint32 or uint64 that is set, as int64; how many it has where none is."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        number = builder.cttz(args[0], ir.Constant(ir.IntType(1), 0))
        return number if mask == types.uint64 else builder.zext(number, ir.IntType(64))

    return types.int64(mask if mask == types.uint64 else types.uint32), generate


@instruction
def only(context: Any, x: Any, mask: Any) -> Any:
    """Those of up to 32 lanes of float32 whose bit is set in a uint32; the others are infinite."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        x, mask = args
        count = x.type.count
        chosen_lanes = builder.bitcast(
            builder.trunc(mask, ir.IntType(count)) if count < 32 else mask,
            ir.VectorType(ir.IntType(1), count),
        )
        return builder.select(chosen_lanes, x, constant(x.type, float("inf")))

    return x(x, types.uint32), generate


@instruction
def first_lane(context: Any, x: Any) -> Any:
    """The first lane of a vector of float32."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.extract_element(args[0], ir.Constant(ir.IntType(32), 0))

    return types.float32(x), generate


@instruction
def last_lane(context: Any, x: Any) -> Any:
    """The last lane of a vector of float32."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        last = ir.Constant(ir.IntType(32), args[0].type.count - 1)
        return builder.extract_element(args[0], last)

    return types.float32(x), generate


@instruction
def with_first(context: Any, x: Any, first: Any) -> Any:
    """A vector with another first lane."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.insert_element(args[0], args[1], ir.Constant(ir.IntType(32), 0))

    return x(x, x.dtype), generate


# Memory ---------------------------------------------------------------------------------------------------


def address(context: Any, builder: Any, kind: Any, array: Any, index: Any, vector: Any) -> Any:
    """Address of a vector in a contiguous 1-D array."""
    start = builder.gep(arrayobj.make_array(kind)(context, builder, array).data, [index])
    return builder.bitcast(start, vector.as_pointer())


def load(context: Any, builder: Any, signature: Any, args: Any, count: int) -> Any:
    """``count`` elements of a contiguous 1-D array, the first of ``args``, from an index on, the second."""
    kind = signature.args[0]
    vector = ir.VectorType(context.get_data_type(kind.dtype), count)
    array, index = args
    start = address(context, builder, kind, array, index, vector)
    return builder.load(start, align=kind.dtype.bitwidth // 8)


@instruction
def fetch(context: Any, row: Any, index: Any) -> Any:
    """Have memory bring what lies at ``index`` of a 1-D array, or behind its end: it will be asked for soon.

    A loop that works on a chunk at a time reads in bursts, of which the processor foresees none.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        byte = ir.IntType(8).as_pointer()
        whole = ir.IntType(32)
        ask = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(ir.VoidType(), [byte, whole, whole, whole]), "llvm.prefetch.p0"
        )
        row, index = args
        place = address(context, builder, signature.args[0], row, index, ir.IntType(8))
        builder.call(ask, [place, *(ir.Constant(whole, word) for word in (0, 3, 1))])  # to read, kept near
        return context.get_dummy_value()

    return types.void(row, types.intp), generate


def _values(count: int) -> Callable[..., Any]:
    def values(context: Any, row: Any, index: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return widened(builder, load(context, builder, signature, args, count), row.dtype)

        return vector_type.Vector(types.float32, count)(row, types.intp), generate

    return instruction(values)


@instruction
def halves16(context: Any, row: Any, index: Any) -> Any:
    """Two numbers of a 1-D array from ``index`` on, one in lanes 0 to 7 of 16, one in the others."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return chosen(builder, load(context, builder, signature, args, 2), [0] * 8 + [1] * 8)

    return vector_type.Vector(row.dtype, 16)(row, types.intp), generate


def _numbers(count: int) -> Callable[..., Any]:
    def numbers(context: Any, row: Any, index: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return load(context, builder, signature, args, count)

        return vector_type.Vector(row.dtype, count)(row, types.intp), generate

    return instruction(numbers)


@instruction
def places16(context: Any, row: Any, index: Any, base: Any, size: Any, out: Any, at: Any) -> Any:
    """Where in a table 16 elements of a 1-D array of bits have their rows: uint16, written to ``out``.

    The upper half of a magnitude as float32 is its number of an exponent and 7 bits; its row is how far that
    is above ``base``, no less than 0, and begins ``1 << shift`` elements after the one before.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        row, index, base, size, out, at = args
        loaded = load(context, builder, signature, (row, index), 16)
        half = ir.VectorType(ir.IntType(16), 16)
        if signature.args[0].dtype != types.uint16:
            wide = builder.bitcast(
                widened(builder, loaded, signature.args[0].dtype), ir.VectorType(ir.IntType(32), 16)
            )
            loaded = builder.trunc(builder.lshr(wide, constant(wide.type, 16)), half)
        magnitude = builder.and_(loaded, constant(half, 0x7FFF))
        magnitude, base, size = alike(
            builder, [magnitude, *(builder.trunc(number, ir.IntType(16)) for number in (base, size))]
        )
        above = builder.call(
            cgutils.get_or_insert_function(
                builder.module, ir.FunctionType(half, [half, half]), "llvm.usub.sat.v16i16"
            ),
            [magnitude, base],
        )
        rows = builder.mul(above, size)
        builder.store(rows, address(context, builder, signature.args[4], out, at, half), align=2)
        return context.get_dummy_value()

    return types.void(row, types.intp, types.uint32, types.uint32, out, types.intp), generate


@instruction
def gathered(context: Any, table: Any, column: Any, count: Any, places: Any, at: Any) -> Any:
    """Sums over 16 rows of a table of uint16, of ``count`` columns from ``column`` on, in as many of 16
    lanes; the others, and what is too large, are 65535.

    Args:
        table: 1-D; rows begin at the 16 ``places`` (uint16) from ``at`` on.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        table, column, count, places, at = args
        kind = ir.VectorType(ir.IntType(16), 16)
        add = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(kind, [kind, kind]), "llvm.uadd.sat.v16i16"
        )
        data = builder.gep(arrayobj.make_array(signature.args[0])(context, builder, table).data, [column])
        first = builder.gep(arrayobj.make_array(signature.args[3])(context, builder, places).data, [at])
        sums: list[Any] = []
        for number in range(16):
            place = builder.load(builder.gep(first, [ir.Constant(ir.IntType(32), number)]))
            start = builder.gep(data, [builder.zext(place, ir.IntType(64))])
            terms = builder.load(builder.bitcast(start, kind.as_pointer()), align=2)
            if number < 2:  # two chains, as one would wait for its own additions
                sums.append(terms)
            else:
                sums[number % 2] = builder.call(add, [sums[number % 2], terms])
        count = repeated(builder, builder.trunc(count, kind.element), 16)
        closed = builder.icmp_unsigned(">=", ir.Constant(kind, list(range(16))), count)
        return builder.or_(builder.call(add, sums), builder.sext(closed, kind))

    return vector_type.Vector(types.uint16, 16)(table, types.intp, types.intp, places, types.intp), generate


def _columns(count: int) -> Callable[..., Any]:
    def columns(context: Any, row: Any, index: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            pair = split(builder, load(context, builder, signature, args, count), row.dtype)
            return context.make_tuple(builder, signature.return_type, pair)

        return types.UniTuple(vector_type.Vector(types.float32, count // 2), 2)(row, types.intp), generate

    return instruction(columns)


def _pack(width: int) -> Callable[..., Any]:
    def pack(context: Any, out: Any, index: Any, even: Any, odd: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            out, index, even, odd = args
            count = even.type.count
            low, high = (builder.and_(side, constant(even.type, (1 << width) - 1)) for side in (even, odd))
            both = builder.or_(low, builder.shl(high, constant(even.type, width)))
            if width == 6:  # two pairs of 12 bits make three bytes
                four = builder.bitcast(both, ir.VectorType(ir.IntType(64), count // 2))
                four = builder.or_(four, builder.lshr(four, constant(four.type, 20)))
                loose = builder.bitcast(four, ir.VectorType(ir.IntType(8), count * 4))
                packed = chosen(builder, loose, [k for k in range(count * 4) if k % 8 < 3])
            else:
                packed = builder.trunc(
                    both, ir.VectorType(ir.IntType(8) if width == 4 else ir.IntType(16), count)
                )
            start = address(context, builder, signature.args[0], out, index, packed.type)
            builder.store(packed, start, align=1)
            return context.get_dummy_value()

        return types.void(out, types.intp, even, odd), generate

    return instruction(pack)


@instruction
def get16(context: Any, row: Any, index: Any) -> Any:
    """Sixteen float32 of a 1-D array of them from ``index`` on."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        array, index = args
        vector = ir.VectorType(ir.FloatType(), 16)
        return builder.load(address(context, builder, signature.args[0], array, index, vector), align=4)

    return vector_type.Vector(types.float32, 16)(row, types.intp), generate


def _put(context: Any, out: Any, index: Any, x: Any) -> Any:

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        out, index, x = args
        place = address(context, builder, signature.args[0], out, index, x.type)
        builder.store(x, place, align=signature.args[0].dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(out, types.intp, x), generate


numbers16, numbers32 = _numbers(16), _numbers(32)
"""16 or 32 numbers of a 1-D array from ``index`` on."""
values16, values32 = _values(16), _values(32)
"""What 16 or 32 elements of a 1-D array of bits from ``index`` on mean, see :func:`.lanes.widen`."""
put16, put32 = instruction(_put), instruction(_put)
"""Write as many numbers to a 1-D array of them from ``index`` on."""
columns16, columns32 = _columns(16), _columns(32)
"""The same as two vectors: the even and the odd columns."""
pack4, pack6, pack8 = _pack(4), _pack(6), _pack(8)
"""Write the codes of even and odd columns in their order, packed without gaps, low bits first, to a 1-D array
of uint8 from ``index`` on; what a lane holds above the bits of its code is dropped.
"""
