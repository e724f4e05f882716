"""Schemes whose codes stand in a table, under a scale for each block: what is compared of two of them."""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import numpy as np

from ..core.dtypes import DType
from ..core.records import dataclass
from ..core.types import Array
from .blocks import Blocks

__all__ = ["EXACT", "LOSSY", "LOWEST", "NOTHING", "Grid", "ScaleKind", "tables"]

ScaleKind = Literal["float", "power", "split"]
"""Scales are floats; or powers of two, stored as E8M0; or E4M3 under one scale of the tensor (nvfp4)."""

EXACT, LOSSY, NOTHING = 0, 1, 2
"""What becomes of a code: its very value; the nearest there is; it has no finite value."""

LOWEST = -64
"""Exponent of the smallest shift: by less, codes of any format are zero."""


@dataclass(frozen=True, eq=False, slots=True)
class Grid:
    """``value = (table[code] - zero) * scale``, of all values of a tensor of some facts.

    Attributes:
        table: value of each code, float32 ``[2**bits]``; NaN and Inf for codes that have none.
        bits: of a code, packed in the canonical order.
        reach: largest magnitude that is written: less than the table's where a consumer wants that.
        blocks: which values share a scale.
        scales: what scales may be.
        kept: dtype of stored scales.
        zeroed: whether there are zero points.
        stored: name of the dtype of blocks that hold codes and scales; empty where each is a part.
    """

    table: Array
    bits: int
    reach: float
    blocks: Blocks
    scales: ScaleKind
    kept: DType
    zeroed: bool = False
    stored: str = ""

    def ascending(self) -> tuple[Array, Array]:
        """The values that may be written, each once, float64; and the code of each, uint8."""
        return _ascending(self.table.astype(np.float64), self.reach)

    def within(self, other: Grid) -> bool:
        """Whether no block of this one reaches over several of the other."""
        own, its = self.blocks, other.blocks
        matrix = its.spec.shape[-2]
        tall = its.height % own.height == 0 or (its.height >= matrix >= own.spec.shape[-2])
        return tall and (its.width % own.width == 0 or its.across == 1)


def tables(old: Grid, new: Grid, shift: int) -> tuple[Array, Array]:
    """What each code of one grid is in another whose scale is ``2**-d`` times as large, for ``d`` of
    :data:`LOWEST` to ``shift``: codes and states, uint8 ``[shift - LOWEST + 1, 256]``.

    What is no value there goes to the nearest, ties to the even code, and saturates.
    """
    pair: tuple[Array, Array] = _tables(old.table.tobytes(), new.table.tobytes(), float(new.reach), shift)
    return pair


def _ascending(table: Array, reach: float) -> tuple[Array, Array]:
    usable = np.flatnonzero(np.isfinite(table) & (np.abs(table) <= reach))
    codes = usable[np.lexsort((np.signbit(table[usable]), table[usable]))]
    codes = codes[np.append(True, np.diff(table[codes]) > 0)]  # of two zeros the positive one
    return table[codes], codes.astype(np.uint8)


@lru_cache(maxsize=64)
def _tables(old: bytes, new: bytes, reach: float, shift: int) -> tuple[Array, Array]:
    values, there = (np.frombuffer(one, np.float32).astype(np.float64) for one in (old, new))
    numbers, codes = _ascending(there, reach)
    usable = np.flatnonzero(np.isfinite(there) & (np.abs(there) <= reach))
    minus = usable[(there[usable] == 0) & np.signbit(there[usable])]
    out = np.zeros((shift - LOWEST + 1, 256), np.uint8)
    states = np.full(out.shape, NOTHING, np.uint8)
    finite = np.isfinite(values)
    for row, exponent in enumerate(range(LOWEST, shift + 1)):
        wanted = np.ldexp(values[finite], exponent)
        above = np.clip(np.searchsorted(numbers, wanted), 1, len(numbers) - 1)
        low, high = numbers[above - 1], numbers[above]
        up = (high - wanted < wanted - low) | ((high - wanted == wanted - low) & (codes[above] % 2 == 0))
        at = np.where(up, above, above - 1)
        chosen = codes[at]
        if len(minus):
            chosen = np.where((numbers[at] == 0) & np.signbit(wanted), minus[0], chosen)
        out[row, : len(values)][finite] = chosen
        states[row, : len(values)][finite] = np.where(numbers[at] == wanted, EXACT, LOSSY)
    for one in (out, states):
        one.setflags(write=False)
    return out, states
