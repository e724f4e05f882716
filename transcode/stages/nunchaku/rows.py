"""Rows of several stored tensors as one, and small values on their way into a packed part."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...core.context import Context
from ...core.dtypes import DType
from ...core.event import Event
from ...core.expr import Expr, Piece
from ...core.records import dataclass
from ...core.spec import Spec
from ...core.tensor import LazyTensor, plain
from ...errors import DataError, PlanError

__all__ = ["Joined", "Joining", "Level", "elements", "join", "level", "narrow", "padded"]

Array = NDArray[Any]


@dataclass(frozen=True)
class Joined:
    """Tensors joined along their first dimension: weights of fused projections, or their biases.

    Attributes:
        tensors: all of one dtype, with as many columns.
        rows: of each one.
        columns: elements of a row; pointwise convolutions ``[N, K, 1, 1]`` count as matrices.
    """

    tensors: tuple[LazyTensor, ...]
    rows: tuple[int, ...]
    columns: int

    @property
    def count(self) -> int:
        """All rows."""
        return sum(self.rows)

    @property
    def dtype(self) -> DType:
        """Of the values."""
        return self.tensors[0].spec.dtype

    def locate(self, row: int) -> tuple[LazyTensor, int]:
        """The tensor that a row comes from, and its number there."""
        for tensor, rows in zip(self.tensors, self.rows, strict=True):
            if row < rows:
                return tensor, row
            row -= rows
        raise IndexError(row)

    def read(self, start: int, stop: int, context: Context) -> Array:
        """Rows ``[stop - start, columns]`` in the carrier dtype; may be a read-only view of the file."""
        runs = list(self._runs(start, stop))
        if len(runs) == 1:
            return self._part(*runs[0], context)
        out = context.take((stop - start, self.columns), self.dtype.carrier)
        done = 0
        for number, begin, end in runs:
            out[done : done + end - begin] = self._part(number, begin, end, context)
            done += end - begin
        return out

    def _runs(self, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        for number, rows in enumerate(self.rows):
            begin, end = max(start, 0), min(stop, rows)
            if begin < end:
                yield number, begin, end
            start, stop = start - rows, stop - rows

    def _part(self, number: int, begin: int, end: int, context: Context) -> Array:
        spec = self.tensors[number].spec
        per = spec.rows // self.rows[number]
        (piece,) = self.tensors[number].read(begin * per, end * per, context)
        return piece.data.reshape(end - begin, self.columns)

    def plain(self, name: str, shape: tuple[int, ...], did: Event) -> LazyTensor:
        """The joined values as a tensor of their own."""
        spec = Spec(self.dtype, shape)
        return plain(name, spec, Joining(self, spec), source=self.tensors[0].source, fate=(did,))


@dataclass(frozen=True, slots=True)
class Joining(Expr):
    """Joined tensors as one."""

    of: Joined
    spec: Spec

    def read(self, start: int, stop: int, context: Context) -> Iterator[Piece]:
        """See :meth:`.core.expr.Expr.read`."""
        yield Piece("values", self.spec.row_offset(start), self.of.read(start, stop, context))


def join(tensors: Sequence[LazyTensor]) -> Joined:
    """Join tensors along their first dimension.

    Raises:
        PlanError: their dtypes or other dimensions differ, or one is empty.
    """
    first = tensors[0]
    for tensor in tensors:
        if not tensor.spec.shape or tensor.spec.numel == 0:
            raise PlanError(f"shape {list(tensor.spec.shape)} holds no rows", tensor=tensor.source)
        if (tensor.spec.dtype, tensor.spec.shape[1:]) != (first.spec.dtype, first.spec.shape[1:]):
            raise PlanError(
                f"{tensor.spec} cannot be joined to {first.spec} of {first.source}", tensor=tensor.source
            )
    shapes = [tensor.spec.shape for tensor in tensors]
    return Joined(tuple(tensors), tuple(shape[0] for shape in shapes), prod(shapes[0][1:]))


@dataclass(frozen=True)
class Level:
    """One level of scales of joined weights.

    Attributes:
        tensors: of each weight; None instead of all of them means ones.
        rows: rows of each weight.
        groups: scales of a row.
        whole: whether each weight has just one scale.
    """

    tensors: tuple[LazyTensor, ...] | None
    rows: tuple[int, ...]
    groups: int
    whole: bool

    def read(self, start: int, stop: int, context: Context) -> NDArray[np.float32]:
        """Scales ``[stop - start, groups]`` of some rows.

        Raises:
            DataError: one is not finite.
        """
        out = np.ones((stop - start, self.groups), np.float32)
        done = 0
        for tensor, rows in zip(self.tensors or (), self.rows, strict=False):
            begin, end = max(start, 0), min(stop, rows)
            if begin < end:
                span = (0, 1) if self.whole else (begin * self.groups, end * self.groups)
                found = elements(tensor, *span, context).astype(np.float32)
                if not np.isfinite(found).all():
                    raise DataError("holds a scale that is not finite", tensor=tensor.source)
                out[done : done + end - begin] = found if self.whole else found.reshape(-1, self.groups)
                done += end - begin
            start, stop = start - rows, stop - rows
        return out


def level(scales: Sequence[LazyTensor], weights: Joined) -> Level:
    """The scales of joined weights: one element each, or ``[N, 1, G, 1]`` as DeepCompressor keeps them.

    Raises:
        PlanError: of another shape.
    """
    whole = [scale.spec.numel == 1 for scale in scales]
    if all(whole):
        return Level(tuple(scales), weights.rows, 1, True)
    groups = set()
    for scale, weight, rows in zip(scales, weights.tensors, weights.rows, strict=True):
        shape = scale.spec.shape
        if len(shape) != 2 * len(weight.spec.shape) or shape[0] != rows or prod(shape) != rows * shape[2]:
            raise PlanError(
                f"scales {list(shape)} do not fit the weight {list(weight.spec.shape)}", tensor=scale.source,
                hint="they must be one element, or [rows, 1, groups, 1]",
            )  # fmt: skip
        groups.add(shape[2])
    if len(groups) > 1:
        raise PlanError(f"joined weights have {sorted(groups)} groups of scales", tensor=scales[0].source)
    (count,) = groups
    if count == 0 or weights.columns % count:
        raise PlanError(
            f"{weights.columns} columns do not divide into {count} groups", tensor=scales[0].source
        )
    return Level(tuple(scales), weights.rows, count, False)


def elements(tensor: LazyTensor, start: int, stop: int, context: Context) -> Array:
    """Elements ``start`` to ``stop`` of the flattened tensor, whole rows of it, as numbers."""
    columns = tensor.spec.columns
    (piece,) = tensor.read(start // columns, stop // columns, context)
    return piece.data.reshape(-1).view(tensor.spec.dtype.numpy())


def narrow(values: Array, dtype: DType, what: str, name: str) -> Array:
    """Numbers rounded to a 16-bit float dtype, in its carrier.

    By way of float32 where they have more digits, as torch rounds float64.

    Raises:
        DataError: one is not finite, or too large.
    """
    with np.errstate(over="ignore"):
        made = values.astype(np.float32).astype(dtype.numpy())
    if not np.isfinite(made).all():
        bad = values[~np.isfinite(made)].flat[0]
        raise DataError(f"{what} holds {float(bad)!r}, which {dtype} cannot", tensor=name)
    return made.view(dtype.carrier)


def padded(values: Array, shape: tuple[int, ...], fill: Any = 0) -> Array:
    """A copy that is enlarged to a shape."""
    out = np.full(shape, fill, values.dtype)
    out[tuple(slice(0, size) for size in values.shape)] = values
    return out
