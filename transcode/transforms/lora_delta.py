"""What a LoRA adds to one tensor, computed for the rows that are wanted, and the reader that adds it."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import lcm, prod
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..core.dtypes import DType, dtype
from ..core.scratch import Scratch
from ..core.spec import Spec
from ..core.tensor import LazyTensor, Piece, Reader
from ..errors import DataError

__all__ = [
    "Added", "Delta", "Difference", "F32Array", "Factors", "LowRank", "Step", "bare", "load", "merging",
]  # fmt: skip

F32Array = NDArray[np.float32]

_F32 = dtype("F32")
_BLOCK = 1 << 17
"""Values of float32 that are merged at a time: they stay in a core's cache."""

Step = Callable[[int, F32Array], None]
"""``step(row, out)``: add to ``out``, rows of the flattened tensor from ``row`` on, padded to whole bands."""


class Factors:
    """The factors in use, in float32; the least recently used are let go beyond ``limit`` bytes."""

    def __init__(self, limit: int = 8 << 20) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._kept: OrderedDict[LowRank, F32Array] = OrderedDict()

    def get(self, pair: LowRank) -> F32Array:
        """``pair.matrix()``, remembered."""
        with self._lock:
            if pair not in self._kept:
                self._kept[pair] = pair.matrix()
            self._kept.move_to_end(pair)
            found = self._kept[pair]
            while len(self._kept) > 1 and sum(one.nbytes for one in self._kept.values()) > self._limit:
                self._kept.popitem(last=False)
            return found


class Delta(Protocol):
    """What is added to a tensor, before it is scaled."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the tensor it belongs to, but for trailing ones."""

    def told(self) -> str:
        """What it is, for the report."""

    def refuses(self, spec: Spec) -> str | None:
        """Why it cannot be added to such a tensor; None if it can."""

    def open(
        self, first: int, last: int, block: int, scale: np.float32, factors: Factors, scratch: Scratch
    ) -> Step:
        """Prepare for rows ``first`` to ``last`` of the flattened tensor, at most ``block`` values at a time.

        A row is all that lies under one index of the first dimension.
        """


@dataclass(frozen=True)
class Added:
    """A delta and how many times it is added."""

    delta: Delta
    scale: np.float32


@dataclass(frozen=True, eq=False)
class LowRank:
    """``up @ down``, or with a Tucker core ``mid``: ``sum_ab up[o, a] mid[a, b, ...] down[b, i]``.

    Attributes:
        file: where it comes from, for errors.
        up: ``[O, r]``, or ``[O, r, 1, ...]`` for convolutions.
        down: ``[r, I]``, or ``[r, I, *kernel]``; ``[r, I, 1, ...]`` where there is a core.
        mid: ``[r, r, *kernel]`` or None.
    """

    file: Path
    up: LazyTensor
    down: LazyTensor
    mid: LazyTensor | None = None

    @property
    def rank(self) -> int:
        """Length of the inner dimension."""
        return self.down.spec.shape[0]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the product."""
        down = self.down.spec.shape
        return (self.up.spec.shape[0], *(down[1:] if self.mid is None else self._kernel))

    def told(self) -> str:
        return f"rank {self.rank}"

    def refuses(self, spec: Spec) -> str | None:
        if len(spec.shape) < 2 or bare(spec.shape) != bare(self.shape):
            return f"up {self.up.spec} and down {self.down.spec} do not make {spec}"
        return None

    def disagree(self) -> str | None:
        """Why the factors do not fit each other; None if they do."""
        up, down = self.up.spec.shape, self.down.spec.shape
        fit = len(up) >= 2 and len(down) >= 2 and up[1] == down[0] and prod(up[2:]) == 1
        if self.mid is not None:
            mid = self.mid.spec.shape
            fit = fit and len(mid) >= 2 and mid[:2] == (up[1], down[0]) and prod(down[2:]) == 1
        if fit and down[0] > 0:
            return None
        core = "" if self.mid is None else f", mid {self.mid.spec}"
        return f"up {self.up.spec}, down {self.down.spec}{core} are no factors of one product"

    def matrix(self) -> F32Array:
        """All of ``down``, the core multiplied in: float32 ``[rank padded, prod(shape[1:])]``."""
        from ..numerics.lora import RANKS, add_product, padded

        scratch = Scratch()
        count = padded(self.rank, RANKS)
        columns = self.down.spec.numel // self.rank
        down = np.zeros((count, columns), np.float32)
        load(self.file, self.down, 0, self.rank * columns, down.reshape(-1), scratch)
        if self.mid is None:
            return down
        flat = np.empty(self.mid.spec.numel, np.float32)
        load(self.file, self.mid, 0, flat.size, flat, scratch)
        core = flat.reshape(self.rank, self.rank, -1)
        whole = np.zeros((count, columns, core.shape[2]), np.float32)
        for at in range(core.shape[2]):
            left = np.zeros((count, count), np.float32)
            left[: self.rank, : self.rank] = core[:, :, at]
            product = np.zeros((count, columns), np.float32)
            add_product(left, down, np.float32(1), product)
            whole[:, :, at] = product
        return whole.reshape(count, -1)

    def open(
        self, first: int, last: int, block: int, scale: np.float32, factors: Factors, scratch: Scratch
    ) -> Step:
        from ..numerics.lora import add_product, padded

        down = factors.get(self)
        up = scratch.take((padded(last - first), down.shape[0]), np.float32)
        up[...] = 0
        values = scratch.take(((last - first) * self.rank,), np.float32)
        load(self.file, self.up, first * self.rank, last * self.rank, values, scratch)
        up[: last - first, : self.rank] = values.reshape(last - first, self.rank)

        def step(row: int, out: F32Array) -> None:
            add_product(up[row - first : row - first + out.shape[0]], down, scale, out)

        return step

    @property
    def _kernel(self) -> tuple[int, ...]:
        assert self.mid is not None
        return (self.down.spec.shape[1], *self.mid.spec.shape[2:])


@dataclass(frozen=True, eq=False)
class Difference:
    """A whole tensor of differences.

    Attributes:
        file: where it comes from, for errors.
        values: of the tensor's shape, but for trailing ones.
    """

    file: Path
    values: LazyTensor

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the differences."""
        return self.values.spec.shape

    def told(self) -> str:
        return "difference"

    def refuses(self, spec: Spec) -> str | None:
        if bare(spec.shape) != bare(self.shape):
            return f"a difference {self.values.spec} does not fit {spec}"
        return None

    def open(
        self, first: int, last: int, block: int, scale: np.float32, factors: Factors, scratch: Scratch
    ) -> Step:
        from ..numerics.lora import add

        buffer = scratch.take((block,), np.float32)

        def step(row: int, out: F32Array) -> None:
            begin, end = row * out.shape[1], min(last, row + out.shape[0]) * out.shape[1]
            load(self.file, self.values, begin, end, buffer, scratch)
            add(buffer[: end - begin], scale, out.reshape(-1)[: end - begin])

        return step


def bare(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without trailing ones, but for those of the first two dimensions."""
    while len(shape) > 2 and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def _elements(tensor: LazyTensor, begin: int, end: int, scratch: Scratch) -> NDArray[Any]:
    """Elements ``begin`` to ``end`` of a plain tensor in row-major order, 1-D, in the carrier dtype."""
    columns = max(tensor.spec.columns, 1)
    start, stop = begin // columns, -(-end // columns)
    start -= start % tensor.grain
    stop = min(stop + -stop % tensor.grain, tensor.spec.rows)
    flat = tensor.matrix(start, stop, scratch).reshape(-1)
    return flat[begin - start * columns : end - start * columns]


def load(file: Path, tensor: LazyTensor, begin: int, end: int, out: F32Array, scratch: Scratch) -> None:
    """Elements of a tensor of a LoRA as float32, in the first places of ``out``. Raises DataError."""
    from ..numerics import Overflow
    from ..numerics.cast import cast

    target = out[: end - begin]
    try:
        cast(_elements(tensor, begin, end, scratch)[None], tensor.spec.dtype, _F32, target[None])
        bad = ~np.isfinite(target)
        if not bad.any():
            return
        at = int(np.argmax(bad))
        value = float(target[at])
    except Overflow as error:
        at, value = error.column, error.value
    place = np.unravel_index(begin + at, tensor.spec.shape)
    raise DataError(
        f"{value!r} at [{', '.join(map(str, place))}]", file=file, tensor=tensor.source or tensor.name,
        hint="the LoRA is damaged: use another copy of it",
    )  # fmt: skip


def merging(tensor: LazyTensor, added: Sequence[Added], factors: Factors) -> Reader:
    """Reads a plain float tensor with deltas added to it.

    ``round(((float32(W) + s1 * D1) + s2 * D2) + ...)``: all in float32, in that order, rounded once, to
    nearest even, to the tensor's own dtype.
    """
    spec = tensor.spec
    width = prod(spec.shape[1:])
    columns = max(spec.columns, 1)

    def read(start: int, stop: int, scratch: Scratch) -> Any:
        from ..numerics import Overflow
        from ..numerics.cast import cast
        from ..numerics.lora import padded

        begin, end = start * columns, stop * columns
        made = scratch.take((end - begin,), np.dtype(spec.dtype.carrier))
        # Rows of a convolution's kernel begin anywhere in an output channel, so whole channels are computed.
        first, last = begin // width, -(-end // width)
        band = min(padded(_BLOCK // width or 1, lcm(padded(1), tensor.grain)), padded(last - first))
        work = scratch.take((band, width), np.float32)
        steps = [one.delta.open(first, last, work.size, one.scale, factors, scratch) for one in added]
        for row in range(first, last, band):
            block = work[: padded(min(band, last - row))]
            flat = block.reshape(-1)
            origin = row * width
            low, high = max(begin, origin), min(end, origin + min(band, last - row) * width)
            flat[: low - origin] = 0
            flat[high - origin :] = 0
            wanted = flat[None, low - origin : high - origin]
            # Whatever is read is used up before the next read: the source may let go of it then.
            cast(_elements(tensor, low, high, scratch)[None], spec.dtype, _F32, wanted)
            for step in steps:
                step(row, block)
            try:
                cast(wanted, _F32, spec.dtype, made[None, low - begin : high - begin])
            except Overflow as error:
                raise _too_large(tensor, spec.dtype, low + error.column, error.value) from None
        yield Piece("values", spec.row_offset(start), made.reshape(stop - start, spec.columns))

    return read


def _too_large(tensor: LazyTensor, kind: DType, element: int, value: float) -> DataError:
    row, column = divmod(element, max(tensor.spec.columns, 1))
    return DataError(
        f"with its LoRA {value!r} at row {row}, column {column}, which does not fit {kind.name}",
        tensor=tensor.source or tensor.name,
        hint="cast to BF16 or F32 before, or lower the strength",
    )
