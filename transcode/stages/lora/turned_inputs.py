"""Adapters that turn the inputs of a tensor: OFT and BOFT as PEFT has them."""

from __future__ import annotations

from math import isqrt, prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...core.context import Context
from ...core.records import dataclass
from ...core.spec import Spec
from ...core.tensor import LazyTensor
from .delta import F32Array, Step, load_all
from .turns import Strong, constrained, skew_of, towards

__all__ = ["InputBlocks", "InputButterflies"]


@dataclass(frozen=True)
class InputBlocks:
    """PEFT's OFT: columns, a kernel's places among them, times blocks (``peft/tuners/oft/layer.py``).

    A strength weighs the rotations with the identity; PEFT itself knows none.

    Attributes:
        file: where they come from, for errors.
        packed: ``[D, n * (n - 1) / 2]``: what lies above the diagonals of skew-symmetric Q, row by row; D is
            1 where all blocks are the same.
        terms: of the series that stands for Cayley's transform of Q; None for the transform itself, of -Q.
        limit: the norm that a block of Q is scaled down to, or None.
    """

    file: Path
    packed: LazyTensor
    terms: int | None
    limit: float | None

    @property
    def size(self) -> int:
        """Of a block, n; 0 if the number of values fits none."""
        count = self.packed.spec.shape[1]
        size = (1 + isqrt(1 + 8 * count)) // 2
        return size if size * (size - 1) // 2 == count else 0

    @property
    def shape(self) -> tuple[int, ...]:
        """Blocks and their size."""
        return (self.packed.spec.shape[0], self.size)

    def described(self) -> str:
        return "OFT"

    def refuses(self, spec: Spec) -> str | None:
        count, width = self.packed.spec.shape[0], prod(spec.shape[1:])
        fits = len(spec.shape) >= 2 and self.size > 0
        if not fits or width % self.size or count not in (1, width // self.size):
            return f"OFT {self.packed.spec} turns other inputs than those"
        return None

    def open(self, first: int, last: int, block: int, scale: np.float32, context: Context) -> Step:
        turns = context.held(Strong(self, float(scale))).reshape(-1, self.size, self.size)

        def step(row: int, out: F32Array) -> None:
            _turn(out, turns)

        return step

    def turned(self, strength: float) -> F32Array:
        """All blocks as rows are multiplied by them: float32, 1-D."""
        from ...numerics.rotation import cayley, neumann

        values = load_all(self.file, self.packed).astype(np.float64)
        skew = np.zeros((len(values), self.size, self.size))
        above = np.triu_indices(self.size, 1)
        skew[:, above[0], above[1]] = values
        skew -= skew.swapaxes(1, 2)
        if self.limit is not None:
            skew = np.stack([constrained(one, self.limit, 0) for one in skew])
        turns = cayley(-skew) if self.terms is None else neumann(skew, self.terms)
        return towards(turns, strength).swapaxes(1, 2).reshape(-1).astype(np.float32)


@dataclass(frozen=True)
class InputButterflies:
    """PEFT's BOFT: columns times butterflies, then rows times a factor (``peft/tuners/boft/layer.py``).

    A strength weighs each with the identity; PEFT itself knows none.

    Attributes:
        file: where they come from, for errors.
        blocks: ``[N, D, b, b]``; Cayley's transform is that of ``(B.T - B) / 2``.
        scales: one for each output.
    """

    file: Path
    blocks: LazyTensor
    scales: LazyTensor | None

    @property
    def shape(self) -> tuple[int, ...]:
        """Columns that are turned."""
        return (self.blocks.spec.shape[1] * self.blocks.spec.shape[2],)

    def described(self) -> str:
        return "BOFT"

    def refuses(self, spec: Spec) -> str | None:
        stages, count, size, _ = self.blocks.spec.shape
        if len(spec.shape) < 2 or prod(spec.shape[1:]) != count * size:
            return f"BOFT {self.blocks.spec} turns {count * size} inputs, not those"
        if stages < 1 or (stages > 1 and (size % 2 or count % (1 << (stages - 1)))):
            return f"blocks {self.blocks.spec} make no butterflies, not those"
        if self.scales is not None and self.scales.spec.numel != spec.shape[0]:
            return f"BOFT {self.scales.spec} has not one value for each output"
        return None

    def open(self, first: int, last: int, block: int, scale: np.float32, context: Context) -> Step:
        stages, count, size, _ = self.blocks.spec.shape
        turns = context.held(Strong(self, float(scale))).reshape(stages, count, size, size)
        scales: F32Array | None = None
        if self.scales is not None:
            values = load_all(self.file, self.scales).reshape(-1).astype(np.float64)
            scales = (1 + np.float64(scale) * (values - 1)).astype(np.float32)
        orders = [_order(count * size, count >> stage, size // 2) for stage in range(stages)]

        def step(row: int, out: F32Array) -> None:
            for stage in range(stages):
                if stages > 1:
                    out[...] = out[:, np.argsort(orders[stage])]
                _turn(out, turns[stage])
                if stages > 1:
                    out[...] = out[:, orders[stage]]
            if scales is not None:
                rows = out[: min(last - row, out.shape[0])]
                rows *= scales[row : row + len(rows), None]

        return step

    def turned(self, strength: float) -> F32Array:
        """All blocks as rows are multiplied by them: float32, 1-D."""
        from ...numerics.rotation import cayley

        size = self.blocks.spec.shape[-1]
        skew = skew_of(self.file, self.blocks).reshape(-1, size, size)
        return towards(cayley(-0.5 * skew), strength).swapaxes(1, 2).reshape(-1).astype(np.float32)


def _order(width: int, blocks: int, half: int) -> NDArray[np.intp]:
    """Where positions come from in a butterfly: in each block the even runs of ``half``, then the odd."""
    if half == 0:
        return np.arange(width)
    runs = np.arange(width).reshape(blocks, -1, half)
    return np.concatenate([runs[:, 0::2], runs[:, 1::2]], axis=1).reshape(-1)


def _turn(rows: F32Array, turns: F32Array) -> None:
    """Multiply each run of columns by its block of ``[D, n, n]``; by the only one, if D is 1."""
    from ...numerics.lora import RANKS, add_product, padded

    size = turns.shape[-1]
    left = np.zeros((rows.shape[0], padded(size, RANKS)), np.float32)
    right = np.zeros((left.shape[1], size), np.float32)
    for number in range(rows.shape[1] // size):
        part = rows[:, number * size : (number + 1) * size]
        left[:, :size] = part
        right[:size] = turns[number % len(turns)]
        turned = np.zeros((rows.shape[0], size), np.float32)
        add_product(left, right, np.float32(1), turned)
        part[...] = turned
