"""numpy's arrays and scalars in pickles, without numpy.

An array is ``numpy.core.multiarray._reconstruct(numpy.ndarray, (0,), b"b")`` and then the state
``(version, shape, dtype, is_fortran, bytes)``, or from protocol 5 on ``numpy.core.numeric._frombuffer(bytes,
dtype, shape, order)``; a dtype is ``numpy.dtype(code, align, copy)`` and then a state whose second entry is
the byte order (``numpy/_core/src/multiarray``, ``methods.c`` and ``descriptor.c``). Its bytes stand in the
pickle itself, so they are in memory already.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import partial
from math import prod
from typing import TYPE_CHECKING

from ...core.context import Context
from ...core.dtypes import DTYPES, DType
from ...core.expr import Expr, Piece
from ...core.records import dataclass
from ...core.spec import Spec
from ...core.tensor import LazyTensor, plain
from .placeholder import Placeholder
from .roots import Leaf
from .unpickle import Builder

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["ARRAY_NAMES", "Embedded", "Values", "array_tensor"]

_DTYPES = {
    "f8": "F64",
    "f4": "F32",
    "f2": "F16",
    "i8": "I64",
    "i4": "I32",
    "i2": "I16",
    "i1": "I8",
    "u8": "U64",
    "u4": "U32",
    "u2": "U16",
    "u1": "U8",
    "b1": "BOOL",
    "c8": "C64",
}
_SCALARS = {
    "f8": "d",
    "f4": "f",
    "f2": "e",
    "i8": "q",
    "i4": "i",
    "i2": "h",
    "i1": "b",
    "u8": "Q",
    "u4": "I",
    "u2": "H",
    "u1": "B",
    "b1": "?",
}


@dataclass(frozen=True, slots=True)
class Values(Leaf):
    """The elements of an array: ``raw`` in row-major order, or column-major where ``fortran``."""

    code: str
    dtype: DType
    shape: tuple[int, ...]
    raw: bytes
    fortran: bool
    big: bool


class _ArrayType(Placeholder):
    """A dtype of numpy."""

    __slots__ = ("big", "code")

    def __init__(self, code: object) -> None:
        super().__init__("numpy.dtype")
        self.code = code if type(code) is str else ""
        self.big = False

    def build(self, state: object) -> None:
        if type(state) is tuple and len(state) > 3:
            self.big = state[1] == ">"
            if state[2] is not None or state[3] is not None:
                self.code = ""  # of arrays, or of named fields


class _Array(Placeholder):
    """An array; ``tensor`` is what it holds once that is known, None for objects, text and dates."""

    __slots__ = ("tensor",)

    def __init__(self) -> None:
        super().__init__("numpy.ndarray")
        self.tensor: Leaf | None = None

    def build(self, state: object) -> None:
        if type(state) is not tuple or len(state) != 5:
            raise TypeError("an array without a state")
        _, shape, dtype, fortran, raw = state
        self.fill(raw, dtype, shape, bool(fortran))

    def fill(self, raw: object, dtype: object, shape: object, fortran: bool) -> None:
        """Take the elements; whatever is not known as numbers is only remembered."""
        kind = _DTYPES.get(dtype.code) if isinstance(dtype, _ArrayType) else None
        if not isinstance(dtype, _ArrayType) or kind is None or type(raw) is not bytes:
            self.absorb((raw,))
            return
        if type(shape) is not tuple or len(shape) > 64 or not all(type(n) is int and n >= 0 for n in shape):
            raise ValueError("an array whose shape is no natural numbers")
        if prod(shape) * DTYPES[kind].itemsize != len(raw):
            raise ValueError(f"an array of shape {list(shape)} in {len(raw)} bytes")
        self.tensor = Values(dtype.code, DTYPES[kind], shape, raw, fortran, dtype.big)


def _from_buffer(raw: object, dtype: object, shape: object, order: object = "C") -> _Array:
    array = _Array()
    array.fill(raw, dtype, shape, order == "F")
    return array


def _scalar(kind: object, raw: object = b"") -> object:
    """A scalar, as Python's own where that can be."""
    form = _SCALARS.get(kind.code) if isinstance(kind, _ArrayType) else None
    if not isinstance(kind, _ArrayType) or form is None:
        return Placeholder("numpy.generic", raw)  # text, dates, complex numbers
    form = (">" if kind.big else "<") + form
    if type(raw) is not bytes or len(raw) != struct.calcsize(form):
        raise TypeError("a numpy scalar of another size")
    return struct.unpack(form, raw)[0]


ARRAY_NAMES: dict[str, object] = {
    "numpy.dtype": Builder(lambda code="", *rest: _ArrayType(code)),
    "numpy.core.multiarray._reconstruct": Builder(lambda *arguments: _Array()),
    "numpy.core.numeric._frombuffer": Builder(_from_buffer),
    "numpy.core.multiarray.scalar": Builder(_scalar),
}
"""What pickles of numpy name."""


def array_tensor(name: str, values: Values) -> LazyTensor:
    """The tensor of an array."""
    return plain(name, Spec(values.dtype, values.shape), Embedded(values))


@dataclass(frozen=True, slots=True)
class Embedded(Expr):
    """The elements of an array that stands in a pickle."""

    values: Values

    def read(self, start: int, stop: int, context: Context) -> Iterator[Piece]:
        """See :meth:`.core.expr.Expr.read`."""
        values = self.values
        spec = Spec(values.dtype, values.shape)
        # Of an array that lies otherwise, one copy serves all reads.
        direct = not values.big and not values.fortran
        rows = _rows(values, spec) if direct else context.run.factors.get(self, partial(_rows, values, spec))
        yield Piece("values", spec.row_offset(start), rows[start:stop])


def _rows(values: Values, spec: Spec) -> NDArray[np.generic]:
    import numpy as np  # commands that look at facts alone do without

    stored = np.dtype(values.code).newbyteorder(">" if values.big else "<")
    array = np.frombuffer(values.raw, stored).reshape(values.shape, order="F" if values.fortran else "C")
    array = np.ascontiguousarray(array, stored.newbyteorder("<"))
    rows: NDArray[np.generic] = array.view(values.dtype.carrier).reshape(spec.rows, spec.columns)
    rows.flags.writeable = False
    return rows
