"""The reader of a tensor with adapters merged into it: one after the other, in float32, rounded once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import lcm, prod
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ...core.context import Context, Statistic
from ...core.dtypes import DType, dtype
from ...core.expr import Expr, Piece
from ...core.records import dataclass
from ...core.spec import Spec
from ...core.tensor import LazyTensor
from ...errors import DataError
from .delta import Added, Delta, F32Array, Mix, elements

__all__ = ["ColumnSquares", "Merging", "Observes", "Rows", "merge"]

F64Array = NDArray[np.float64]
Sums = dict[int, F64Array]

_F32 = dtype("F32")
_BLOCK = 1 << 17
"""Values of float32 that are merged at a time: they stay in a core's cache."""

_PART = 1 << 18
"""Values of float32 that are held of the rows that other rows are made of."""

_OBSERVED = 1 << 22
"""About how many values make one partial sum of a look at a whole tensor."""


class Rows(Protocol):
    """Rows of a tensor, flattened to ``[O, width]``, as they are before an adapter changes them."""

    def fetch(self, first: int, last: int, out: F32Array, context: Context) -> None:
        """Write rows ``first`` to ``last`` to ``out``, which has whole bands of rows; zeros to the others."""


class _Step(NamedTuple):
    delta: Delta
    scale: np.float32


@runtime_checkable
class Observes(Delta, Protocol):
    """An adapter that must know the sums of squares of the whole tensor's columns before its first row."""

    def observed(self, spec: Spec) -> Delta | None:
        """What is added before the look; None if no look is needed."""

    def with_sums(self, sums: ColumnSquares) -> Delta:
        """The same, given what the sums of squares are found by."""


def merge(tensor: LazyTensor, added: Sequence[Added]) -> tuple[Merging, tuple[ColumnSquares, ...]]:
    """A plain float tensor with what adapters make of it, and the looks that must come first."""
    width = max(prod(tensor.spec.shape[1:]), 1)
    rows: Rows = _Stored(tensor, width)
    steps: list[_Step] = []
    needs: list[ColumnSquares] = []
    for addition in added:
        delta = addition.delta
        if isinstance(delta, Mix):
            rows = _Mixed(_stepped(rows, steps), delta, addition.scale, width)
            steps = []
            continue
        if isinstance(delta, Observes) and (inner := delta.observed(tensor.spec)) is not None:
            before = _Stepped(rows, (*steps, _Step(inner, np.float32(1))))
            needs.append(ColumnSquares(tensor.spec, before, width))
            delta = delta.with_sums(needs[-1])
        steps.append(_Step(delta, addition.scale))
    return Merging(tensor, rows, tuple(steps), width), tuple(needs)


def _stepped(rows: Rows, steps: Sequence[_Step]) -> Rows:
    return _Stepped(rows, tuple(steps)) if steps else rows


@dataclass(frozen=True, slots=True)
class Merging(Expr):
    """A plain float tensor with what adapters make of it.

    For those that add, ``round(((float32(W) + s1 * D1) + s2 * D2) + ...)``; for others, what the one before
    made is what the next one gets. All in float32, in that order, rounded once, to nearest even, to the
    tensor's own dtype.

    Attributes:
        tensor: the tensor before.
        rows: its rows, with all that must be done to many of them at once.
        steps: what is done to each row after that.
        width: elements of a row of ``[O, width]``.
    """

    tensor: LazyTensor
    rows: Rows
    steps: tuple[_Step, ...]
    width: int

    def loses(self) -> str | None:
        """See :meth:`.core.expr.Expr.loses`."""
        return "a LoRA is merged into it"

    def read(self, start: int, stop: int, context: Context) -> Iterator[Piece]:
        """See :meth:`.core.expr.Expr.read`."""
        from ...numerics import Overflow
        from ...numerics.cast import cast
        from ...numerics.lora import padded

        tensor, width = self.tensor, self.width
        spec = tensor.spec
        columns = max(spec.columns, 1)
        begin, end = start * columns, stop * columns
        merged = context.take((end - begin,), np.dtype(spec.dtype.carrier))
        # Rows of a convolution's kernel begin anywhere in an output channel, so whole channels are computed.
        first, last = begin // width, -(-end // width)
        band = padded(last - first)
        if isinstance(self.rows, _Stored):  # what is made of many rows is made of them once in a tile
            band = min(padded(_BLOCK // width or 1, lcm(padded(1), tensor.grain)), band)
        work = context.take((band, width), np.float32)
        steps = [one.delta.open(first, last, work.size, one.scale, context) for one in self.steps]
        for row in range(first, last, band):
            block = work[: padded(min(band, last - row))]
            self.rows.fetch(row, min(row + band, last), block, context)
            for step in steps:
                step(row, block)
            origin = row * width
            low, high = max(begin, origin), min(end, origin + min(band, last - row) * width)
            wanted = block.reshape(-1)[None, low - origin : high - origin]
            self._refuse_infinite(wanted[0], row, low, context)
            try:
                cast(wanted, _F32, spec.dtype, merged[None, low - begin : high - begin])
            except Overflow as error:
                raise _too_large(tensor, spec.dtype, low + error.column, error.value) from None
        yield Piece("values", spec.row_offset(start), merged.reshape(stop - start, spec.columns))

    def _refuse_infinite(self, values: F32Array, row: int, low: int, context: Context) -> None:
        """Raise DataError where a product was too large for float32 already, of which the cast says nothing:
        what the tensor had before may be infinite. One sum tells of nearly all that there is none.
        """
        with np.errstate(over="ignore", invalid="ignore"):
            if np.isfinite(values.sum()):
                return
        begin = low - row * self.width
        rows = -(-(begin + values.size) // self.width)
        before = np.empty((rows, self.width), np.float32)
        _Stored(self.tensor, self.width).fetch(row, row + rows, before, context)
        bad = ~np.isfinite(values) & np.isfinite(before.reshape(-1)[begin : begin + values.size])
        if bad.any():
            first = int(bad.argmax())
            raise _too_large(self.tensor, self.tensor.spec.dtype, low + first, float(values[first]))


@dataclass(frozen=True)
class _Stored:
    """Rows as they are stored."""

    tensor: LazyTensor
    width: int

    def fetch(self, first: int, last: int, out: F32Array, context: Context) -> None:
        from ...numerics.cast import cast

        begin, end = first * self.width, last * self.width
        flat = out.reshape(-1)
        # Whatever is read is used up before the next read: the source may let go of it then.
        values = elements(self.tensor, begin, end, context)
        cast(values[None], self.tensor.spec.dtype, _F32, flat[None, : end - begin])
        flat[end - begin :] = 0


@dataclass(frozen=True)
class _Stepped:
    """Rows that adapters have changed, each by itself."""

    rows: Rows
    steps: tuple[_Step, ...]

    def fetch(self, first: int, last: int, out: F32Array, context: Context) -> None:
        self.rows.fetch(first, last, out, context)
        for step in self.steps:
            step.delta.open(first, last, out.size, step.scale, context)(first, out)


@dataclass(frozen=True)
class _Mixed:
    """Rows that are made of several rows each.

    Every element is one chain of sums, over parts of the span that are the same whatever rows are asked for.
    """

    rows: Rows
    mix: Mix
    scale: np.float32
    width: int

    def fetch(self, first: int, last: int, out: F32Array, context: Context) -> None:
        from ...numerics.lora import BAND, RANKS, add_product, padded

        out[...] = 0
        own = context.inner()
        row = first
        while row < last:
            low, high = self.mix.span(row)
            stop = min(last, high)
            weights = self.mix.weights(row, stop, self.scale, context)
            step = max(_PART // self.width // RANKS, 1) * RANKS
            part = np.empty((min(step, padded(high - low, RANKS)), self.width), np.float32)
            left = np.zeros((padded(stop - row), part.shape[0]), np.float32)
            target = out[row - first : row - first + left.shape[0]]
            # A band that reaches beyond the span, or beyond what is asked for, needs room of its own.
            direct = (stop - row) % BAND == 0 or (stop == last and len(target) == len(left))
            if not direct:
                target = np.zeros((left.shape[0], self.width), np.float32)
            for at in range(low, high, step):
                end = min(at + step, high)
                right = part[: padded(end - at, RANKS)]
                own.reset()
                self.rows.fetch(at, end, right, own)
                factors = left[:, : right.shape[0]]
                factors[...] = 0
                factors[: stop - row, : end - at] = weights[:, at - low : end - low]
                add_product(np.ascontiguousarray(factors), right, np.float32(1), target)
            if not direct:
                out[row - first : stop - first] = target[: stop - row]
            row = stop


@dataclass(frozen=True, slots=True)
class ColumnSquares(Statistic[Sums]):
    """The sums of the squares of columns: one partial sum for each block of channels.

    Blocks depend on the shape alone and are put together by number, so any cut into tiles gives the same sum.

    Attributes:
        spec: facts of the tensor.
        rows: its rows.
        width: elements of a row.
    """

    of: Spec
    rows: Rows
    width: int

    @property
    def spec(self) -> Spec:
        """Facts of the tensor."""
        return self.of

    @property
    def _size(self) -> int:
        return max(_OBSERVED // self.width, 1)

    @property
    def _lines(self) -> int:
        """Rows of the tensor in one channel."""
        return self.of.rows // max(self.of.shape[0], 1)

    def tiles(self, nbytes: int) -> Iterator[tuple[int, int]]:
        """Whole blocks."""
        channels, size, lines = self.of.shape[0], self._size, self._lines
        blocks = max(nbytes // max(size * self.width * self.of.dtype.bits // 8, 1), 1)
        for first in range(0, channels, blocks * size):
            yield first * lines, min(first + blocks * size, channels) * lines

    def look(self, start: int, stop: int, context: Context) -> Sums:
        """The partial sums of some blocks, by their first channels."""
        from ...numerics.lora import add_column_squares, padded

        width, size, lines = self.width, self._size, self._lines
        step = max(_PART // width // 4, 1) * 4
        work = context.take((min(step, padded(self.of.shape[0])), width), np.float32)
        own = context.inner()
        partial: Sums = {}
        for first in range(start // lines, stop // lines, size):
            last = min(first + size, stop // lines)
            sums = np.zeros(width)
            for row in range(first, last, step):
                end = min(row + step, last)
                own.reset()
                self.rows.fetch(row, end, work[: padded(end - row)], own)
                add_column_squares(work[: end - row], sums)
            partial[first] = sums
        return partial

    def merge(self, one: Sums, other: Sums) -> Sums:
        """All of them."""
        return {**one, **other}

    def total(self, context: Context) -> F64Array:
        """The sums over the whole tensor."""
        parts = context.value(self)
        sums: F64Array = np.zeros_like(next(iter(parts.values())))
        for first in sorted(parts):
            sums += parts[first]
        return sums


def _too_large(tensor: LazyTensor, kind: DType, element: int, value: float) -> DataError:
    row, column = divmod(element, max(tensor.spec.columns, 1))
    return DataError(
        f"with its LoRA {value!r} at row {row}, column {column}, which does not fit {kind.name}",
        tensor=tensor.source or tensor.name,
        hint="lower the strength, or cast to a wider dtype before",
    )
