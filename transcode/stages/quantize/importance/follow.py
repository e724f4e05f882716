"""Weights of columns through what made a tensor of others: rows joined, split, stacked, in another order.

Where a conversion puts tensors together anew, a file that weighs the columns of those of the source weighs
these, too: whole rows take the weights of their columns along, and elements that change places within rows
take each its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from math import prod
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ....core.context import Context
from ....core.permuted import Permuted, Reshaped
from ....core.records import dataclass
from ....core.rows import Rows
from ....core.tensor import LazyTensor
from ...leaves import before
from .columns import Columns, Weights

__all__ = ["Mean", "Moved", "Unfollowed", "Woven", "combined", "follow"]

Numbers = NDArray[np.int64]


class Unfollowed(Exception):
    """Why weights of columns cannot follow, in words."""


class Woven(NamedTuple):
    """Which weights each row of a tensor has.

    Attributes:
        columns: distinct weights of columns, each of one row.
        rows: for each row of the tensor, which of those.
    """

    columns: tuple[Columns, ...]
    rows: Numbers


@dataclass(frozen=True, slots=True)
class Moved(Columns):
    """Weights of columns that have changed places with them.

    Attributes:
        of: those before, of one row.
        lengths: of a grid of the columns after, row-major.
        strides: how far apart columns that are neighbours along each of its axes were; behind the last one
            before, the first follows.
    """

    of: Columns
    lengths: tuple[int, ...]
    strides: tuple[int, ...]

    def weights(self, context: Context) -> Weights:
        """Of the run's cache."""
        return context.held(self)

    def matrix(self) -> Weights:
        """See :meth:`weights`."""
        before = self.of.weights(Context())
        return np.ascontiguousarray(before[:, _offsets(self.lengths, self.strides) % before.shape[1]])


@dataclass(frozen=True, slots=True)
class Mean(Columns):
    """Weights of each matrix of a stack, its rows' own put together: their mean, over so many rows each.

    Attributes:
        matrices: for each, the weights that rows of it have, and how many rows do.
    """

    matrices: tuple[tuple[tuple[Columns, int], ...], ...]

    def weights(self, context: Context) -> Weights:
        """Of the run's cache."""
        return context.held(self)

    def matrix(self) -> Weights:
        """See :meth:`weights`; the mean of equal ones is each of them."""
        context = Context()
        rows = []
        for members in self.matrices:
            total = sum(columns.weights(context)[0].astype(np.float64) * count for columns, count in members)
            rows.append((total / sum(count for _, count in members)).astype(np.float32))
        return np.stack(rows)

    @property
    def differ(self) -> bool:
        """Whether any matrix has rows whose columns are weighed otherwise than others'."""
        context = Context()
        return any(
            not np.array_equal(one.weights(context), other.weights(context))
            for members in self.matrices
            for (one, _), (other, _) in pairwise(members)
        )


def follow(tensor: LazyTensor, leaf: Callable[[LazyTensor], Sequence[Columns]]) -> Woven:
    """Which weights the rows of a tensor have, by those of what it is made of.

    Args:
        tensor: it, plain.
        leaf: weights of the columns of a tensor that is made of no other: for all its matrices, or for each.

    Raises:
        Unfollowed: columns of it are rows of another, or parts of several of its columns.
    """
    value = tensor.value
    if isinstance(value, Rows):
        return _joined([(follow(one, leaf), begin, count) for one, begin, count in value.runs])
    if isinstance(value, Permuted):
        grid = value.lengths, value.order
        return _moved(follow(value.tensor, leaf), value.tensor, *grid, value.spec.columns)
    if isinstance(value, Reshaped):
        grid = (value.spec.numel,), (0,)
        return _moved(follow(value.tensor, leaf), value.tensor, *grid, value.spec.columns)
    if (inner := before(tensor)) is not None:
        return follow(inner, leaf)
    columns = tuple(leaf(tensor))
    return Woven(columns, np.repeat(np.arange(len(columns)), tensor.spec.rows // len(columns)))


def combined(woven: Woven, matrices: int) -> Columns:
    """The weights of a tensor's columns: for all its matrices, or for each."""
    if len(woven.columns) == 1:
        return woven.columns[0]
    members = []
    for rows in woven.rows.reshape(matrices, -1):
        which, counts = np.unique(rows, return_counts=True)
        some = zip(which.tolist(), counts.tolist(), strict=True)
        members.append(tuple((woven.columns[number], count) for number, count in some))
    return Mean(tuple(members))


def _joined(parts: Sequence[tuple[Woven, int, int]]) -> Woven:
    """Runs of rows, one below the other."""
    numbers: dict[Columns, int] = {}
    rows = []
    for woven, begin, count in parts:
        some = woven.rows[begin : begin + count]
        renumbered = np.zeros(len(woven.columns), np.int64)
        for number in np.unique(some).tolist():
            renumbered[number] = numbers.setdefault(woven.columns[number], len(numbers))
        rows.append(renumbered[some])
    return Woven(tuple(numbers), np.concatenate(rows))


def _moved(
    woven: Woven, tensor: LazyTensor, lengths: Sequence[int], order: Sequence[int], columns: int
) -> Woven:
    """Elements of a tensor in another order, in rows of so many columns."""
    width = tensor.spec.columns
    strides = [prod(lengths[axis + 1 :]) for axis in range(len(lengths))]
    axes = [(lengths[axis], strides[axis]) for axis in order]
    tall, wide = _cut(axes, columns)
    if any(stride % width for length, stride in tall if length > 1):
        raise Unfollowed("its rows begin amidst those that the file weighs")
    offsets = _offsets(*_grid(wide))
    if len(set(np.bincount(offsets % width, minlength=width).tolist())) > 1:
        raise Unfollowed("its columns were rows, and the file weighs columns")
    if len(woven.columns) > 1 and offsets.max() >= width:
        raise Unfollowed("its rows are of several, which the file weighs each otherwise")
    rows = woven.rows[_offsets(*_grid(tall)) // width]
    if columns == width and np.array_equal(offsets, np.arange(columns)):
        return Woven(woven.columns, rows)
    return Woven(tuple(Moved(one, *_grid(wide)) for one in woven.columns), rows)


def _grid(axes: Sequence[tuple[int, int]]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Their lengths, and their strides."""
    return tuple(length for length, _ in axes), tuple(stride for _, stride in axes)


def _cut(
    axes: Sequence[tuple[int, int]], columns: int
) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Axes of a grid, each a length and a stride, as those of rows and those of so many columns."""
    tall, wide, left = list(axes), list[tuple[int, int]](), columns
    while left > 1:
        length, stride = tall.pop()
        if length > left:
            if length % left:
                raise Unfollowed("its rows are no whole number of those that the file weighs")
            tall.append((length // left, stride * left))
            length = left
        if left % length:
            raise Unfollowed("its rows are no whole number of those that the file weighs")
        wide.insert(0, (length, stride))
        left //= length
    return tall, wide


def _offsets(lengths: Sequence[int], strides: Sequence[int]) -> Numbers:
    """How far from the first element those of a grid lie, row-major."""
    offsets: Numbers = np.zeros(1, np.int64)
    for length, stride in zip(lengths, strides, strict=True):
        offsets = (offsets[:, None] + np.arange(length) * stride).reshape(-1)
    return offsets
