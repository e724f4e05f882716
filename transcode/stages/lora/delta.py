"""What a LoRA adds to one tensor, computed for the rows that are wanted."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ...core.context import Context
from ...core.dtypes import dtype
from ...core.records import dataclass
from ...core.spec import Spec
from ...core.tensor import LazyTensor
from ...errors import DataError

__all__ = [
    "Adapter",
    "Added",
    "Delta",
    "Difference",
    "F32Array",
    "LowRank",
    "Mix",
    "OneForOne",
    "Step",
    "bare",
    "elements",
    "load",
    "load_all",
]

F32Array = NDArray[np.float32]

_F32 = dtype("F32")
Step = Callable[[int, F32Array], None]
"""``step(row, out)``: change ``out``, rows of the flattened tensor from ``row`` on, padded to whole bands.

What becomes of a row depends on that row alone.
"""


class Adapter(Protocol):
    """What an adapter makes of a tensor."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the tensor it belongs to, but for trailing ones."""

    def described(self) -> str:
        """What it is, for the report."""

    def refuses(self, spec: Spec) -> str | None:
        """Why it cannot be merged into such a tensor; None if it can."""


class Delta(Adapter, Protocol):
    """What an adapter makes of each row by itself: most add something to it, some turn or scale it."""

    def open(self, first: int, last: int, block: int, scale: np.float32, context: Context) -> Step:
        """Prepare for rows ``first`` to ``last`` of the flattened tensor, at most ``block`` values at a time.

        A row is all that lies under one index of the first dimension.
        """


@runtime_checkable
class Mix(Adapter, Protocol):
    """An adapter that makes each row of several: ``out[i] = sum_r matrix[i, r] * rows[r]``."""

    def span(self, row: int) -> tuple[int, int]:
        """The rows that a row is made of: begin, end. They are the same for all rows among them."""

    def weights(self, first: int, last: int, scale: np.float32, context: Context) -> F32Array:
        """Rows ``first`` to ``last`` of the matrix, all in one span: float32 ``[last - first, end - begin]``.

        ``scale`` is the strength.
        """


@dataclass(frozen=True)
class Added:
    """A delta and how many times it is added; or an adapter and how far a tensor goes towards its result."""

    delta: Delta | Mix
    scale: np.float32


@dataclass(frozen=True)
class LowRank:
    """``up @ down``, or with a Tucker core ``mid``: ``sum_ab up[o, a] mid[a, b, ...] down[b, i]``.

    Attributes:
        file: where it comes from, for errors.
        up: ``[O, r]``, or ``[O, r, 1, ...]`` for convolutions.
        down: ``[r, I]``, or ``[r, I, *kernel]``; ``[r, I, 1, ...]`` where there is a core.
        mid: ``[r, r, *kernel]`` or None.
        turned: ``up`` is stored as ``[r, O]``.
    """

    file: Path
    up: LazyTensor
    down: LazyTensor
    mid: LazyTensor | None = None
    turned: bool = False

    @property
    def rank(self) -> int:
        """Length of the inner dimension."""
        return self.down.spec.shape[0]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the product."""
        down = self.down.spec.shape
        return (self._up[0], *(down[1:] if self.mid is None else self._kernel))

    def described(self) -> str:
        return f"rank {self.rank}"

    def refuses(self, spec: Spec) -> str | None:
        if len(spec.shape) < 2 or bare(spec.shape) != bare(self.shape):
            return f"up {self.up.spec} and down {self.down.spec} do not make {spec}"
        return None

    def disagree(self) -> str | None:
        """Why the factors do not fit each other; None if they do."""
        up, down = self._up, self.down.spec.shape
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
        from ...numerics.lora import RANKS, add_product, padded

        context = Context()
        count = padded(self.rank, RANKS)
        columns = self.down.spec.numel // self.rank
        down = np.zeros((count, columns), np.float32)
        load(self.file, self.down, 0, self.rank * columns, down.reshape(-1), context)
        if self.mid is None:
            return down
        flat = np.empty(self.mid.spec.numel, np.float32)
        load(self.file, self.mid, 0, flat.size, flat, context)
        core = flat.reshape(self.rank, self.rank, -1)
        whole = np.zeros((count, columns, core.shape[2]), np.float32)
        for at in range(core.shape[2]):
            left = np.zeros((count, count), np.float32)
            left[: self.rank, : self.rank] = core[:, :, at]
            product = np.zeros((count, columns), np.float32)
            add_product(left, down, np.float32(1), product)
            whole[:, :, at] = product
        return whole.reshape(count, -1)

    def open(self, first: int, last: int, block: int, scale: np.float32, context: Context) -> Step:
        from ...numerics.lora import add_product

        up, down = self.factors(first, last, context)

        def step(row: int, out: F32Array) -> None:
            add_product(up[row - first : row - first + out.shape[0]], down, scale, out)

        return step

    def factors(self, first: int, last: int, context: Context) -> tuple[F32Array, F32Array]:
        """Rows ``first`` to ``last`` of ``up``, padded to whole bands, and all of :meth:`matrix`."""
        from ...numerics.lora import padded

        down = context.held(self)
        up = context.take((padded(last - first), down.shape[0]), np.float32)
        up[...] = 0
        if self.turned:
            whole = context.take((self.up.spec.numel,), np.float32)
            load(self.file, self.up, 0, whole.size, whole, context)
            up[: last - first, : self.rank] = whole.reshape(self.rank, -1)[:, first:last].T
        else:
            values = context.take(((last - first) * self.rank,), np.float32)
            load(self.file, self.up, first * self.rank, last * self.rank, values, context)
            up[: last - first, : self.rank] = values.reshape(last - first, self.rank)
        return up, down

    @property
    def _up(self) -> tuple[int, ...]:
        shape = self.up.spec.shape
        return (shape[1], shape[0], *shape[2:]) if self.turned and len(shape) > 1 else shape

    @property
    def _kernel(self) -> tuple[int, ...]:
        assert self.mid is not None
        return (self.down.spec.shape[1], *self.mid.spec.shape[2:])


@dataclass(frozen=True)
class OneForOne(ABC):
    """A tensor of an adapter whose elements are for those of the model's, one for one.

    Attributes:
        file: where it comes from, for errors.
        values: of the tensor's shape, but for trailing ones.
    """

    file: Path
    values: LazyTensor

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the tensor."""
        return self.values.spec.shape

    @abstractmethod
    def described(self) -> str:
        """See :class:`Adapter`."""

    @abstractmethod
    def misfit(self, spec: Spec) -> str:
        """In words: it has another shape than a tensor."""

    @abstractmethod
    def change(self, elements: F32Array, by: F32Array, scale: np.float32) -> None:
        """Change some elements by those that are for them."""

    def refuses(self, spec: Spec) -> str | None:
        """See :class:`Adapter`."""
        return None if bare(spec.shape) == bare(self.shape) else self.misfit(spec)

    def open(self, first: int, last: int, block: int, scale: np.float32, context: Context) -> Step:
        """See :class:`Delta`."""
        buffer = context.take((block,), np.float32)

        def step(row: int, out: F32Array) -> None:
            begin, end = row * out.shape[1], min(last, row + out.shape[0]) * out.shape[1]
            load(self.file, self.values, begin, end, buffer, context)
            self.change(out.reshape(-1)[: end - begin], buffer[: end - begin], scale)

        return step


@dataclass(frozen=True)
class Difference(OneForOne):
    """A whole tensor of differences."""

    def described(self) -> str:
        return "difference"

    def misfit(self, spec: Spec) -> str:
        return f"a difference {self.values.spec} does not fit {spec}"

    def change(self, elements: F32Array, by: F32Array, scale: np.float32) -> None:
        from ...numerics.lora import add

        add(by, scale, elements)


def bare(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without trailing ones, but for those of the first two dimensions."""
    while len(shape) > 2 and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def elements(tensor: LazyTensor, begin: int, end: int, context: Context) -> NDArray[Any]:
    """Elements ``begin`` to ``end`` of a plain tensor in row-major order, 1-D, in the carrier dtype."""
    columns = max(tensor.spec.columns, 1)
    start, stop = begin // columns, -(-end // columns)
    start -= start % tensor.grain
    stop = min(stop + -stop % tensor.grain, tensor.spec.rows)
    flat = tensor.matrix(start, stop, context).reshape(-1)
    return flat[begin - start * columns : end - start * columns]


def load(file: Path, tensor: LazyTensor, begin: int, end: int, out: F32Array, context: Context) -> None:
    """Elements of a tensor of a LoRA as float32, in the first places of ``out``. Raises DataError."""
    from ...numerics import Overflow
    from ...numerics.cast import cast

    target = out[: end - begin]
    try:
        cast(elements(tensor, begin, end, context)[None], tensor.spec.dtype, _F32, target[None])
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


def load_all(file: Path, tensor: LazyTensor) -> F32Array:
    """A whole tensor of a LoRA as float32, in its own shape. Raises DataError."""
    values = np.empty(tensor.spec.numel, np.float32)
    if values.size:
        load(file, tensor, 0, values.size, values, Context())
    return values.reshape(tensor.spec.shape)
