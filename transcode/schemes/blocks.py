"""Geometry of blocks that share a scale: per row, per group of columns, per block or per tensor."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar

from ..core.records import dataclass
from ..core.spec import Spec

__all__ = ["Blocks"]

R = TypeVar("R", bound=Any)
"""A number of a row, or an array of them."""


@dataclass(frozen=True, slots=True)
class Blocks:
    """Blocks of ``height`` rows by ``width`` columns over the matrices of a tensor, smaller at their edges.

    Blocks never reach over two matrices of a stack.

    Attributes:
        spec: facts of the tensor, ``[N, K]`` or ``[E, N, K]``.
        height: rows of a block.
        width: columns of a block.
    """

    spec: Spec
    height: int
    width: int

    @property
    def shape(self) -> tuple[int, ...]:
        """``[.., cdiv(N, height), cdiv(K, width)]``."""
        return (*self.spec.shape[:-2], -(-self.spec.shape[-2] // self.height), self.across)

    @property
    def across(self) -> int:
        """Blocks side by side."""
        return -(-self.spec.shape[-1] // self.width)

    @property
    def grain(self) -> int:
        """Rows encoded together: those of a block, or the whole matrix where blocks do not fit its end."""
        if len(self.spec.shape) == 2 or self.spec.shape[-2] % self.height == 0:
            return self.height
        return self.spec.shape[-2]

    def line(self, row: R) -> R:
        """Row of blocks, counted over all matrices, in which a row of the tensor lies; of each of several."""
        matrix, inside = divmod(row, self.spec.shape[-2])
        return matrix * -(-self.spec.shape[-2] // self.height) + inside // self.height  # type: ignore[no-any-return]

    def runs(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Cut rows ``start`` to ``stop`` so that a kernel that counts blocks from its first row is right.

        That is at the ends of matrices, and where a run starts in the middle of a block.
        """
        if self.height == 1:
            yield start, stop
            return
        rows = self.spec.shape[-2]
        while start < stop:
            inside = start % rows
            end = start - inside + rows
            if inside % self.height:
                end = min(end, start - inside % self.height + self.height)
            yield start, min(stop, end)
            start = min(stop, end)
