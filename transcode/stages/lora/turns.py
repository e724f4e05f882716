"""Adapters that turn the outputs of a tensor: OFT and BOFT as LyCORIS and kohya have them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ...core.context import Context
from ...core.records import dataclass
from ...core.spec import Spec
from ...core.tensor import LazyTensor
from .delta import F32Array, load, load_all

__all__ = ["Butterflies", "OutputBlocks", "Strong", "constrained", "skew_of", "towards"]

F64Array = NDArray[np.float64]


def skew_of(file: Path, blocks: LazyTensor) -> F64Array:
    values = load_all(file, blocks).astype(np.float64)
    skew: F64Array = values - values.swapaxes(-1, -2)
    return skew


def _one(file: Path, blocks: LazyTensor, number: int) -> F64Array:
    """One of ``[D, n, n]`` minus its transpose."""
    size = blocks.spec.shape[-1]
    values = np.empty(size * size, np.float32)
    load(file, blocks, number * size * size, (number + 1) * size * size, values, Context())
    square = values.reshape(size, size).astype(np.float64)
    return square - square.T


def _squares(values: F64Array) -> float:
    """The sum of squares, row by row."""
    total = 0.0
    for row in values:
        total += math.fsum(row * row)
    return total


def constrained(skew: F64Array, limit: float, slack: float = 1e-8) -> F64Array:
    """Within a norm, that of all blocks together; as it is where the limit is not above 0."""
    norm = math.sqrt(math.fsum(_squares(one) for one in skew.reshape(-1, *skew.shape[-2:]))) + slack
    return skew * (limit / norm) if 0 < limit < norm else skew


def towards(rotations: F64Array, strength: float) -> F64Array:
    """Rotations, or what lies so far between none and them."""
    return strength * rotations + (1 - strength) * np.eye(rotations.shape[-1])


@dataclass(frozen=True)
class OutputBlocks:
    """OFT of outputs: blocks of rows times the transposed Cayley transform of ``B - B.T``.

    kohya's (``networks/oft.py``), and with several tensors of blocks that of FLUX (``networks/oft_flux.py``):
    one for each of the parts that lie in a tensor below each other. LyCORIS's with ``rescale``, a factor of
    each row (``lycoris/modules/diag_oft.py``). A strength weighs the rotations with the identity, and leaves
    ``rescale``, as theirs does.

    Attributes:
        file: where they come from, for errors.
        blocks: ``[D, n, n]`` each.
        rescale: ``[O, 1, ...]`` or None.
        constraint: alpha: ``B - B.T`` is scaled down to the norm ``alpha * rows``, if that is not 0.
    """

    file: Path
    blocks: tuple[LazyTensor, ...]
    rescale: LazyTensor | None
    constraint: float

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows that are turned."""
        return (sum(_rows(one) for one in self.blocks),)

    def described(self) -> str:
        return "OFT"

    def refuses(self, spec: Spec) -> str | None:
        return _refuses_rows("OFT", self.blocks, self.rescale, spec)

    def span(self, row: int) -> tuple[int, int]:
        _, _, begin, size = self._place(row)
        return begin, begin + size

    def _place(self, row: int) -> tuple[int, int, int, int]:
        """A row's part, its block in that, the first row of the block, the size of the block."""
        first = 0
        for part, one in enumerate(self.blocks):
            size = one.spec.shape[-1]
            if row < first + _rows(one):
                block = (row - first) // size
                return part, block, first + block * size, size
            first += _rows(one)
        raise IndexError(row)

    def weights(self, first: int, last: int, scale: np.float32, context: Context) -> F32Array:
        part, block, begin, _ = self._place(first)
        if self.constraint > 0:
            within = float(context.held(_Within(self, part))[0])
        else:
            within = 1.0
        turns = context.held(_Block(self, part, block, float(scale), within))
        if self.rescale is None:
            return turns[first - begin : last - begin]
        rescale = context.held(_Rescale(self))
        return turns[first - begin : last - begin] * rescale[first:last, None]


@dataclass(frozen=True)
class _Within:
    """How much a part's blocks shrink to keep their constraint: one value."""

    adapter: OutputBlocks
    part: int

    def matrix(self) -> F32Array:
        blocks = self.adapter.blocks[self.part]
        count = blocks.spec.shape[0]
        norm = math.sqrt(math.fsum(_squares(_one(self.adapter.file, blocks, n)) for n in range(count))) + 1e-8
        limit = self.adapter.constraint * _rows(blocks)
        return np.array([limit / norm if limit < norm else 1], np.float32)


@dataclass(frozen=True)
class _Block:
    """One block as rows are multiplied by it: float32 ``[n, n]``. Large ones take a second to compute."""

    adapter: OutputBlocks
    part: int
    number: int
    strength: float
    within: float

    def matrix(self) -> F32Array:
        from ...numerics.rotation import cayley

        skew = _one(self.adapter.file, self.adapter.blocks[self.part], self.number) * self.within
        turn: F32Array = towards(cayley(skew[None]), self.strength)[0].T.astype(np.float32)
        return turn


@dataclass(frozen=True)
class _Rescale:
    """The factors of all rows: float32 ``[O]``."""

    adapter: OutputBlocks

    def matrix(self) -> F32Array:
        assert self.adapter.rescale is not None
        return load_all(self.adapter.file, self.adapter.rescale).reshape(-1)


@dataclass(frozen=True)
class Butterflies:
    """BOFT of outputs: a product of butterflies of Cayley transforms (``lycoris/modules/boft.py``).

    A strength weighs each of them with the identity, and leaves ``rescale``, as theirs does.

    Attributes:
        file: where they come from, for errors.
        blocks: ``[m, O / b, b, b]``.
        rescale: ``[O, 1, ...]`` or None.
        constraint: alpha: ``B - B.T`` is scaled down to the norm ``alpha * O``, if that is not 0.
    """

    file: Path
    blocks: LazyTensor
    rescale: LazyTensor | None
    constraint: float

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows that are turned."""
        return (_rows(self.blocks),)

    def described(self) -> str:
        return "BOFT"

    def refuses(self, spec: Spec) -> str | None:
        stages, count, size, _ = self.blocks.spec.shape
        if size % 2 or stages < 1 or count * size % (size << (stages - 1)):
            return f"blocks {self.blocks.spec} make no butterflies"
        return _refuses_rows("BOFT", (self.blocks,), self.rescale, spec)

    def span(self, row: int) -> tuple[int, int]:
        stages, _, size, _ = self.blocks.spec.shape
        width = size << (stages - 1)
        return row - row % width, row - row % width + width

    def weights(self, first: int, last: int, scale: np.float32, context: Context) -> F32Array:
        from ...numerics.rotation import butterfly_rows

        stages, count, size, _ = self.blocks.spec.shape
        flat = context.held(Strong(self, float(scale)))
        turns = flat.astype(np.float64).reshape(stages, count, size, size)
        begin, end = self.span(first)
        rows = np.empty((last - first, end - begin))
        blocks = np.ascontiguousarray(turns[:, begin // size : end // size])
        butterfly_rows(blocks, first - begin, rows)
        if self.rescale is not None:
            rows *= load_all(self.file, self.rescale).reshape(-1)[first:last, None]
        return rows.astype(np.float32)

    def turned(self, strength: float) -> F32Array:
        """All blocks: float32, 1-D."""
        from ...numerics.rotation import cayley

        count, size = self.blocks.spec.shape[1:3]
        skew = constrained(skew_of(self.file, self.blocks), self.constraint * count * size)
        turns = towards(cayley(skew.reshape(-1, size, size)), strength)
        return turns.reshape(-1).astype(np.float32)


class Strengthened(Protocol):
    """An adapter whose blocks depend on the strength."""

    def turned(self, strength: float) -> F32Array:
        """All blocks: float32, 1-D."""


@dataclass(frozen=True)
class Strong:
    """Blocks of an adapter at one strength; equal where both are."""

    adapter: Strengthened
    strength: float

    def matrix(self) -> F32Array:
        return self.adapter.turned(self.strength)


def _rows(blocks: LazyTensor) -> int:
    return blocks.spec.shape[-3] * blocks.spec.shape[-1]


def _refuses_rows(
    kind: str, blocks: tuple[LazyTensor, ...], rescale: LazyTensor | None, spec: Spec
) -> str | None:
    rows = sum(map(_rows, blocks))
    if len(spec.shape) < 2 or spec.shape[0] != rows:
        return f"{kind} blocks {', '.join(str(one.spec) for one in blocks)} turn {rows} outputs, not those"
    if rescale is not None and rescale.spec.numel != rows:
        return f"rescale {rescale.spec} has not one value for each of the {rows} outputs"
    return None
