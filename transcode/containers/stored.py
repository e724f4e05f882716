"""Tensors over the bytes of a file: row-major ones as they lie, strided ones gathered."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from math import prod

from ..core.context import Context
from ..core.expr import Expr, Piece
from ..core.extent import Extent
from ..core.records import dataclass
from ..core.scratch import Scratch
from ..core.spec import Spec
from ..core.tensor import LazyTensor, plain
from ..core.types import Array
from ..core.value import plentiful
from ..errors import FormatError
from ..io.bytes import Bytes

__all__ = ["Stored", "Strided", "contiguous", "extent", "stored", "strided"]

_SPAN = 8 << 20
"""Bytes of the file that a gather looks at before it may let go of them."""

Shape = tuple[int, ...]


def stored(file: Bytes, name: str, spec: Spec, offset: int, *, shares: str | None = None) -> LazyTensor:
    """The tensor whose row-major bytes begin at ``offset`` of a file."""
    return plain(name, spec, Stored(file, name, spec, offset), shares=shares)


@plentiful
@dataclass(frozen=True, slots=True)
class Stored(Expr):
    """Row-major bytes of a file.

    Attributes:
        file: where they are.
        name: of the tensor there, for errors.
        spec: its facts.
        offset: its first byte.
    """

    file: Bytes
    name: str
    spec: Spec
    offset: int

    def extents(self) -> Mapping[str, tuple[Extent, ...]]:
        """All of it."""
        return {"values": (Extent(self.file, self.offset, self.spec.nbytes),)}

    def flat(self) -> Stored:
        """It is read by its place alone."""
        return replace(self, spec=Spec(self.spec.dtype, (self.spec.numel,)))

    def room(self) -> float:
        """What is mapped, or read."""
        return 1

    def read(self, start: int, stop: int, context: Context) -> Iterator[Piece]:
        """See :meth:`.core.expr.Expr.read`."""
        with _naming(self.name):
            rows = self.file.rows(self.offset, self.spec, start, stop, context)
        yield Piece("values", self.spec.row_offset(start), rows)


@contextmanager
def _naming(tensor: str) -> Iterator[None]:
    """Add the tensor to what a file complains of."""
    try:
        yield
    except FormatError as error:
        raise FormatError(error.what, file=error.file, tensor=tensor, hint=error.hint) from None


def strided(
    file: Bytes,
    name: str,
    spec: Spec,
    offset: int,
    shape: Shape,
    strides: Shape,
    *,
    shares: str | None = None,
) -> LazyTensor:
    """A tensor whose elements lie apart, see :class:`Strided`."""
    return plain(name, spec, Strided(file, name, spec, offset, shape, strides), shares=shares)


@dataclass(frozen=True, slots=True)
class Strided(Expr):
    """Elements of a file that lie apart: a transpose, a slice of columns, an expanded row.

    Rows are gathered into scratch, looking at no more than a few MiB of the file at a time, so that memory
    stays bounded even where one row touches every page of the tensor.

    Attributes:
        file: where they are.
        name: of the tensor there, for errors.
        spec: its facts.
        offset: byte of its first element.
        shape: of the stored elements; that of ``spec`` but for packed dtypes, which are stored as bytes.
        strides: non-negative distance between elements of each dimension, in elements.
    """

    file: Bytes
    name: str
    spec: Spec
    offset: int
    shape: Shape
    strides: Shape

    def flat(self) -> Strided:
        """It is read by its place alone."""
        return replace(self, spec=Spec(self.spec.dtype, (self.spec.numel,)))

    def read(self, start: int, stop: int, context: Context) -> Iterator[Piece]:
        """See :meth:`.core.expr.Expr.read`."""
        import numpy as np  # as in the mapping

        spec = self.spec
        carrier = np.dtype(spec.dtype.carrier)
        steps = tuple(stride * carrier.itemsize for stride in self.strides)
        begin, end = spec.row_offset(start), spec.row_offset(stop)
        out = context.take(((end - begin) // carrier.itemsize,), carrier)
        done = 0
        for low, size in _boxes(self.shape, begin // carrier.itemsize, end // carrier.itemsize):
            target = out[done : done + prod(size)].reshape(size)
            at = self.offset + sum(index * step for index, step in zip(low, steps, strict=True))
            with _naming(self.name):
                _gather(self.file, at, steps, target, Scratch())
            done += target.size
        out.flags.writeable = False
        yield Piece("values", begin, out if spec.dtype.packed else out.reshape(stop - start, spec.columns))


def contiguous(shape: Shape, strides: Shape) -> bool:
    """Whether elements lie in row-major order without gaps."""
    expected = 1
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size == 0:
            return True
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True


def extent(shape: Shape, strides: Shape) -> int:
    """Elements from the first to the last, both included; strides are not negative."""
    if 0 in shape:
        return 0
    return 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))


def _boxes(shape: Shape, begin: int, end: int) -> Iterator[tuple[Shape, Shape]]:
    """Cut elements ``begin`` to ``end``, in row-major order, into boxes: (first index, size) of each."""
    if begin >= end:
        return
    if len(shape) <= 1:
        yield ((begin,), (end - begin,)) if shape else ((), ())
        return
    inner = prod(shape[1:])
    first, last = -(-begin // inner), end // inner
    if first > last:  # within one inner block
        yield from _within(shape, last, begin - last * inner, end - last * inner)
        return
    yield from _within(shape, first - 1, begin - (first - 1) * inner, inner)
    if first < last:
        yield (first, *(0,) * (len(shape) - 1)), (last - first, *shape[1:])
    yield from _within(shape, last, 0, end - last * inner)


def _within(shape: Shape, index: int, begin: int, end: int) -> Iterator[tuple[Shape, Shape]]:
    for low, size in _boxes(shape[1:], begin, end):
        yield (index, *low), (1, *size)


def _gather(file: Bytes, at: int, steps: Shape, out: Array, scratch: Scratch) -> None:
    span = extent(out.shape, steps) - 1 + out.itemsize
    if span <= _SPAN:
        scratch.reset()
        scratch.read[0] += span
        raw = file.bytes(at, at + span, scratch)
        import numpy as np

        out[...] = np.ndarray(out.shape, out.dtype, raw, 0, steps)
        return
    axis = max(range(out.ndim), key=lambda i: (out.shape[i] - 1) * steps[i])
    half = out.shape[axis] // 2
    before = (slice(None),) * axis
    _gather(file, at, steps, out[(*before, slice(None, half))], scratch)
    _gather(file, at + half * steps[axis], steps, out[(*before, slice(half, None))], scratch)
