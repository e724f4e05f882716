"""The reader of a tensor with adapters merged into it: one after the other, in float32, rounded once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import lcm, prod
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ..core.dtypes import DType, dtype
from ..core.observe import Observation
from ..core.scratch import Scratch
from ..core.spec import Spec
from ..core.tensor import LazyTensor, Piece
from ..errors import DataError
from .lora_delta import Added, Delta, F32Array, Factors, Mix, elements

__all__ = ["Merging", "Observes", "Rows"]

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

    def fetch(self, first: int, last: int, out: F32Array, scratch: Scratch) -> None:
        """Write rows ``first`` to ``last`` to ``out``, which has whole bands of rows; zeros to the others."""


class _Step(NamedTuple):
    delta: Delta
    scale: np.float32


@runtime_checkable
class Observes(Delta, Protocol):
    """An adapter that must know the sums of squares of the whole tensor's columns before its first row."""

    def observed(self, spec: Spec) -> Delta | None:
        """What is added before the look; None if no look is needed."""

    def with_sums(self, sums: Callable[[Scratch], F64Array]) -> Delta:
        """The same, given how to get the sums of squares, ``[width]``."""


class Merging:
    """Reads a plain float tensor with what adapters make of it; see :data:`..core.tensor.Reader`.

    For those that add, ``round(((float32(W) + s1 * D1) + s2 * D2) + ...)``; for others, what the one before
    made is what the next one gets. All in float32, in that order, rounded once, to nearest even, to the
    tensor's own dtype.

    Attributes:
        needs: looks at the whole tensor that must come first.
    """

    def __init__(self, tensor: LazyTensor, added: Sequence[Added], factors: Factors) -> None:
        self.needs: tuple[Observation[Any], ...] = ()
        self._tensor = tensor
        self._factors = factors
        self._width = max(prod(tensor.spec.shape[1:]), 1)
        self._rows: Rows = _Stored(tensor, self._width)
        self._steps: list[_Step] = []
        for one in added:
            delta = one.delta
            if isinstance(delta, Mix):
                self._rows = _Mixed(self._before(), delta, one.scale, factors, self._width)
                self._steps = []
                continue
            if isinstance(delta, Observes) and (inner := delta.observed(tensor.spec)) is not None:
                look = self._look([*self._steps, _Step(inner, np.float32(1))])
                self.needs += (look,)
                delta = delta.with_sums(_total(look))
            self._steps.append(_Step(delta, one.scale))

    def _before(self) -> Rows:
        return _Stepped(self._rows, tuple(self._steps), self._factors) if self._steps else self._rows

    def _look(self, steps: list[_Step]) -> Observation[Sums]:
        return _column_squares(
            self._tensor.spec, _Stepped(self._rows, tuple(steps), self._factors), self._width
        )

    def __call__(self, start: int, stop: int, scratch: Scratch) -> Iterator[Piece]:
        from ..numerics import Overflow
        from ..numerics.cast import cast
        from ..numerics.lora import padded

        tensor, width = self._tensor, self._width
        spec = tensor.spec
        columns = max(spec.columns, 1)
        begin, end = start * columns, stop * columns
        made = scratch.take((end - begin,), np.dtype(spec.dtype.carrier))
        # Rows of a convolution's kernel begin anywhere in an output channel, so whole channels are computed.
        first, last = begin // width, -(-end // width)
        band = padded(last - first)
        if isinstance(self._rows, _Stored):  # what is made of many rows is made of them once in a tile
            band = min(padded(_BLOCK // width or 1, lcm(padded(1), tensor.grain)), band)
        work = scratch.take((band, width), np.float32)
        steps = [
            one.delta.open(first, last, work.size, one.scale, self._factors, scratch) for one in self._steps
        ]
        for row in range(first, last, band):
            block = work[: padded(min(band, last - row))]
            self._rows.fetch(row, min(row + band, last), block, scratch)
            for step in steps:
                step(row, block)
            origin = row * width
            low, high = max(begin, origin), min(end, origin + min(band, last - row) * width)
            wanted = block.reshape(-1)[None, low - origin : high - origin]
            try:
                cast(wanted, _F32, spec.dtype, made[None, low - begin : high - begin])
            except Overflow as error:
                raise _too_large(tensor, spec.dtype, low + error.column, error.value) from None
        yield Piece("values", spec.row_offset(start), made.reshape(stop - start, spec.columns))


class _Stored:
    """Rows as they are stored."""

    def __init__(self, tensor: LazyTensor, width: int) -> None:
        self._tensor = tensor
        self._width = width

    def fetch(self, first: int, last: int, out: F32Array, scratch: Scratch) -> None:
        from ..numerics.cast import cast

        begin, end = first * self._width, last * self._width
        flat = out.reshape(-1)
        # Whatever is read is used up before the next read: the source may let go of it then.
        values = elements(self._tensor, begin, end, scratch)
        cast(values[None], self._tensor.spec.dtype, _F32, flat[None, : end - begin])
        flat[end - begin :] = 0


class _Stepped:
    """Rows that adapters have changed, each by itself."""

    def __init__(self, rows: Rows, steps: tuple[_Step, ...], factors: Factors) -> None:
        self._rows = rows
        self._steps = steps
        self._factors = factors

    def fetch(self, first: int, last: int, out: F32Array, scratch: Scratch) -> None:
        self._rows.fetch(first, last, out, scratch)
        for one in self._steps:
            one.delta.open(first, last, out.size, one.scale, self._factors, scratch)(first, out)


class _Mixed:
    """Rows that are made of several rows each.

    Every element is one chain of sums, over parts of the span that are the same whatever rows are asked for.
    """

    def __init__(self, rows: Rows, mix: Mix, scale: np.float32, factors: Factors, width: int) -> None:
        self._rows = rows
        self._mix = mix
        self._scale = scale
        self._factors = factors
        self._width = width

    def fetch(self, first: int, last: int, out: F32Array, scratch: Scratch) -> None:
        from ..numerics.lora import BAND, RANKS, add_product, padded

        out[...] = 0
        own = Scratch()
        row = first
        while row < last:
            low, high = self._mix.span(row)
            stop = min(last, high)
            weights = self._mix.weights(row, stop, self._scale, self._factors)
            step = max(_PART // self._width // RANKS, 1) * RANKS
            part = np.empty((min(step, padded(high - low, RANKS)), self._width), np.float32)
            left = np.zeros((padded(stop - row), part.shape[0]), np.float32)
            target = out[row - first : row - first + left.shape[0]]
            # A band that reaches beyond the span, or beyond what is asked for, needs room of its own.
            direct = (stop - row) % BAND == 0 or (stop == last and len(target) == len(left))
            if not direct:
                target = np.zeros((left.shape[0], self._width), np.float32)
            for at in range(low, high, step):
                end = min(at + step, high)
                right = part[: padded(end - at, RANKS)]
                own.reset()
                self._rows.fetch(at, end, right, own)
                factors = left[:, : right.shape[0]]
                factors[...] = 0
                factors[: stop - row, : end - at] = weights[:, at - low : end - low]
                add_product(np.ascontiguousarray(factors), right, np.float32(1), target)
            if not direct:
                out[row - first : stop - first] = target[: stop - row]
            row = stop


def _column_squares(spec: Spec, rows: Rows, width: int) -> Observation[Sums]:
    """A look that sums the squares of columns: one partial sum for each block of channels.

    Blocks depend on the shape alone and are put together by number, so any cut into tiles gives the same sum.
    """
    channels = spec.shape[0]
    size = max(_OBSERVED // width, 1)
    lines = spec.rows // max(channels, 1)  # rows of the tensor in one channel
    step = max(_PART // width // 4, 1) * 4

    def tiles(nbytes: int) -> Iterator[tuple[int, int]]:
        blocks = max(nbytes // max(size * width * spec.dtype.bits // 8, 1), 1)
        for first in range(0, channels, blocks * size):
            yield first * lines, min(first + blocks * size, channels) * lines

    def look(start: int, stop: int, scratch: Scratch) -> Sums:
        from ..numerics.lora import add_column_squares, padded

        work = scratch.take((min(step, padded(channels)), width), np.float32)
        own = Scratch()
        found: Sums = {}
        for first in range(start // lines, stop // lines, size):
            last = min(first + size, stop // lines)
            sums = np.zeros(width)
            for row in range(first, last, step):
                end = min(row + step, last)
                own.reset()
                rows.fetch(row, end, work[: padded(end - row)], own)
                add_column_squares(work[: end - row], sums)
            found[first] = sums
        return found

    return Observation(spec, tiles, look, lambda one, other: {**one, **other})


def _total(look: Observation[Sums]) -> Callable[[Scratch], F64Array]:
    def total(scratch: Scratch) -> F64Array:
        parts = look.value(scratch)
        sums: F64Array = np.zeros_like(next(iter(parts.values())))
        for first in sorted(parts):
            sums += parts[first]
        return sums

    return total


def _too_large(tensor: LazyTensor, kind: DType, element: int, value: float) -> DataError:
    row, column = divmod(element, max(tensor.spec.columns, 1))
    return DataError(
        f"with its LoRA {value!r} at row {row}, column {column}, which does not fit {kind.name}",
        tensor=tensor.source or tensor.name,
        hint="cast to BF16 or F32 before, or lower the strength",
    )
