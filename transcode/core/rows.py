"""Rows of tensors put together, as a tensor of its own: joined, cut out, swapped, stacked, permuted.

One expression for all of these: an ordered list of runs of rows. It holds no bytes; where the runs are bytes
of files as they lie there, so is the whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from math import lcm
from typing import NamedTuple

from ..errors import PlanError
from .context import Context
from .event import Event
from .expr import Expr, Piece
from .extent import Extent
from .records import dataclass
from .spec import Part, Spec
from .tensor import LazyTensor, plain
from .types import Array

__all__ = ["Rows", "Run", "read_rows", "rows_of"]


class Run(NamedTuple):
    """Rows ``begin`` to ``begin + rows`` of a plain tensor; rows are those of :class:`.spec.Spec`."""

    tensor: LazyTensor
    begin: int
    rows: int


@dataclass(frozen=True, slots=True)
class Rows(Expr):
    """Runs of rows, one below the other.

    Attributes:
        spec: of the result; its columns and dtype are those of all tensors.
        runs: where the rows come from, in order.
    """

    spec: Spec
    runs: tuple[Run, ...]

    def extents(self) -> Mapping[str, tuple[Extent, ...]]:
        """Those of the rows, where all are bytes of files."""
        lying: list[Extent] = []
        for tensor, begin, count in self.runs:
            extents = tensor.value.extents().get("values")
            if extents is None or sum(one.nbytes for one in extents) != tensor.spec.nbytes:
                return {}
            lying += _between(extents, tensor.spec.row_offset(begin), tensor.spec.row_offset(begin + count))
        return {"values": tuple(lying)}

    def flat(self) -> Rows | None:
        """Where all tensors can be read so."""
        runs = []
        for tensor, begin, count in self.runs:
            value, line = tensor.value.flat(), Spec(tensor.spec.dtype, (tensor.spec.numel,))
            if value is None:
                return None
            flat = tensor.evolve(spec=line, parts=(Part("values", line),), value=value, grain=line.grain)
            columns = tensor.spec.columns
            runs.append(Run(flat, begin * columns, count * columns))
        return Rows(Spec(self.spec.dtype, (self.spec.numel,)), tuple(runs))

    def room(self) -> float:
        """That of the tensors, and the copy where a tile has rows of several."""
        return 1 + max((run.tensor.value.room() for run in self.runs), default=0)

    def read(self, start: int, stop: int, context: Context) -> Iterator[Piece]:
        """See :meth:`.core.expr.Expr.read`."""
        import numpy as np  # commands that look at facts alone do without

        spec = self.spec
        offset, end = spec.row_offset(start), spec.row_offset(stop)
        some = list(self._inside(start, stop))
        if len(some) == 1:
            data = read_rows(*some[0], context)
        else:
            raw = context.take((end - offset,), np.uint8)
            at = 0
            for tensor, first, last in some:
                part = read_rows(tensor, first, last, context).reshape(-1).view(np.uint8)
                raw[at : at + part.nbytes] = part
                at += part.nbytes
            data = raw.view(spec.dtype.carrier)
        yield Piece("values", offset, data if spec.dtype.packed else data.reshape(stop - start, spec.columns))

    def _inside(self, start: int, stop: int) -> Iterator[tuple[LazyTensor, int, int]]:
        """The rows that some rows are, of each tensor from where to where."""
        for (tensor, begin, count), above in zip(self.runs, _above(self.runs), strict=True):
            first, last = max(start - above, 0), min(stop - above, count)
            if first < last:
                yield tensor, begin + first, begin + last


def rows_of(
    name: str, shape: Sequence[int], runs: Iterable[Run], *, did: Event, source: str | None = None
) -> LazyTensor:
    """A plain tensor of rows of others.

    Args:
        name: of the tensor.
        shape: of the tensor; as many rows as the runs have, and as many columns.
        runs: where the rows come from; none is empty.
        did: what is done here, for the plan.
        source: its name in the source; that of the first tensor without it.

    Raises:
        PlanError: a tensor is quantized, has another dtype or other columns, or rows do not begin at whole
            bytes.
    """
    every = _merged(runs)
    first = every[0].tensor
    spec = Spec(first.spec.dtype, tuple(shape))
    for tensor, begin, count in every:
        if not tensor.plain:
            raise PlanError(
                "is quantized, so its rows cannot be moved here",
                tensor=tensor.name,
                hint="convert before quantizing",
            )
        if (tensor.spec.dtype, tensor.spec.columns) != (spec.dtype, spec.columns):
            raise PlanError(
                f"{tensor.spec} cannot be joined to {first.spec} of {first.name}", tensor=tensor.name
            )
        if begin * spec.row_bits % 8 or count * spec.row_bits % 8:
            raise PlanError(
                f"row {begin} of {tensor.spec} does not begin at a whole byte", tensor=tensor.name
            )
    assert spec.rows == sum(run.rows for run in every), (name, spec, every)
    joined = plain(
        name, spec, Rows(spec, every), source=first.source if source is None else source, fate=first.fate
    )
    return joined.evolve(
        did=did,
        # Where runs begin elsewhere, a tile reads some rows of its neighbours again.
        grain=min(lcm(spec.grain, *(run.tensor.grain for run in every)), max(spec.rows, 1)),
        cost=max(run.tensor.cost for run in every),
        needs=tuple(dict.fromkeys(need for run in every for need in run.tensor.needs)),
    )


def _merged(runs: Iterable[Run]) -> tuple[Run, ...]:
    """The same rows with rows of rows looked through, and neighbours that follow each other as one."""
    merged: list[Run] = []
    for tensor, begin, count in runs:
        inner = [Run(tensor, begin, count)]
        if isinstance(of := tensor.value, Rows) and of.spec.columns == tensor.spec.columns:
            inner = [Run(one, first, last - first) for one, first, last in of._inside(begin, begin + count)]
        for run in inner:
            last = merged[-1] if merged else None
            if last and last.tensor == run.tensor and last.begin + last.rows == run.begin:
                merged[-1] = Run(last.tensor, last.begin, last.rows + run.rows)
            else:
                merged.append(run)
    return tuple(merged)


def _above(runs: Iterable[Run]) -> Iterator[int]:
    """How many rows stand above each run."""
    counts = [run.rows for run in runs]
    return iter([0, *accumulate(counts)][: len(counts)])


def read_rows(tensor: LazyTensor, first: int, last: int, context: Context) -> Array:
    """Rows ``first`` to ``last`` of a plain tensor, by way of whole grains; in its carrier dtype."""
    grain, spec = tensor.grain, tensor.spec
    low, high = first // grain * grain, min(-(-last // grain) * grain, spec.rows)
    (piece,) = tensor.read(low, high, context)
    if (low, high) == (first, last):
        return piece.data
    raw = piece.data.reshape(-1).view("u1")
    skip = spec.row_offset(low)
    return raw[spec.row_offset(first) - skip : spec.row_offset(last) - skip].view(spec.dtype.carrier)


def _between(extents: Sequence[Extent], begin: int, end: int) -> Iterator[Extent]:
    """Bytes ``begin`` to ``end`` of what extents are, one after the other."""
    for one in extents:
        first, last = max(begin, 0), min(end, one.nbytes)
        if first < last:
            yield Extent(one.file, one.begin + first, last - first)
        begin, end = begin - one.nbytes, end - one.nbytes
