"""W4A8 and W6A8: codes of 4 or 6 bits that are decoded to integers of 8, of turned columns."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from math import lcm
from typing import Any, ClassVar, Self

import numpy as np

from ..core.constraint import Constraint
from ..core.dtypes import DTYPES, DType
from ..core.expr import Piece
from ..core.records import dataclass
from ..core.scheme import Hints
from ..core.scratch import Scratch
from ..core.spec import Part, Spec
from ..numerics.minifloat import FORMATS
from .base import Array, Base
from .rotated import TURNED, line_of, rejected, smaller, turn_back

__all__ = ["W4A8", "W6A8"]

_FROZEN = (
    -0.980602, -0.794529, -0.638165, -0.500986, -0.377321, -0.263187, -0.155210, -0.050720,
    0.052541, 0.156985, 0.265284, 0.379533, 0.502636, 0.638953, 0.794876, 0.980671,
)  # fmt: skip
"""The levels that lose least of normally distributed values over the largest of their group of 16
(``tensor/w4a8_packed.py`` of comfy_kitchen, whose fastest kernels read no other).
"""

_KURTOSIS = -0.1
"""Excess of the fourth moment above which the levels are fitted; that of normal values is about -0.5."""

_SIZES = Constraint.among(16, 32, 64, 128)
_LLOYD = 100


class _Grouped(Base):
    """What both have alike: groups under E4M3 scales, rows under float32 scales, columns turned before.

    ``integer = clamp(rne(level * group_scale), -127, 127)``, ``value = integer * row_scale``, turned back;
    see :mod:`..numerics.grouped` for how scales are found.
    """

    bits: ClassVar[int]
    unseen: ClassVar[Mapping[str, Any]] = {"rotate": None}

    group_size: int
    rotate: int

    @property
    def search_seconds(self) -> float:
        """Measured: scales are fitted twice, and three are tried."""
        return 2.0 if self.bits == 4 else 2.3

    @property
    def light(self) -> bool:
        """No: scales are fitted, whatever is chosen."""
        return False

    @property
    @abstractmethod
    def table(self) -> Array | None:
        """Levels by code, where they are the same for all tensors."""

    @property
    def observes(self) -> bool:
        """Whether there is a look at the whole tensor."""
        return False

    @property
    def multiple(self) -> tuple[int, int]:
        """Whole groups, columns that are turned together, and bytes."""
        return 1, lcm(self.group_size, self.rotate, 32)

    def instead(self, spec: Spec) -> tuple[Self, str] | None:
        """The same with fewer columns turned together, where that is all that stands against it."""
        fewer = smaller(spec, self.rotate)
        if fewer is None:
            return None
        return replace(self, rotate=fewer[0]), fewer[1]  # type: ignore[type-var]  # all are dataclasses

    def parts(self, spec: Spec) -> tuple[Part, ...]:
        """U8 codes ``[.., N, K * bits / 8]``, E4M3 scales ``[.., N, K / group_size]``, F32 scales of rows
        ``[.., N]``, and the levels F32 ``[16]`` where they are of the tensor.
        """
        *rows, columns = spec.shape
        parts = [
            Part("codes", Spec(DTYPES["U8"], (*rows, columns * self.bits // 8))),
            Part("scale", Spec(DTYPES["F8_E4M3"], (*rows, columns // self.group_size))),
            Part("row_scale", Spec(DTYPES["F32"], tuple(rows))),
        ]
        if self.table is None:
            parts.append(Part("codebook", Spec(DTYPES["F32"], (16,))))
        return tuple(parts)

    def prepare(self, dtype: DType) -> None:
        """Compile what encoding tensors of this dtype needs, by encoding a small one."""
        spec = Spec(dtype, (1, self.multiple[1]))
        rows = np.zeros(spec.shape, dtype.carrier)
        stats = self.observe(rows, dtype) if self.observes else None
        for _ in self.encode(rows, spec, 0, stats, Scratch()):
            pass

    def encode(
        self, rows: Array, spec: Spec, start: int, stats: Any, scratch: Scratch,
        weights: Array | None = None,
    ) -> Iterator[Piece]:  # fmt: skip
        """See :meth:`.core.scheme.Scheme.encode`."""
        from ..numerics.rows import as_bits

        bits = as_bits(rows, spec.dtype, scratch)
        groups = spec.columns // self.group_size
        codes = scratch.take((len(rows), spec.columns * self.bits // 8), np.uint8)
        scales = scratch.take((len(rows), groups), np.uint8)
        row_scales = scratch.take((len(rows),), np.float32)
        levels = self.levels(stats)
        if not self.fill(bits, levels, codes, scales, row_scales, scratch):
            raise rejected(rows, spec.dtype, self.rotate)
        yield Piece("codes", start * codes.shape[1], codes)
        yield Piece("scale", start * groups, scales)
        yield Piece("row_scale", start * 4, row_scales)
        if self.table is None and start == 0:
            yield Piece("codebook", 0, levels)

    def levels(self, stats: Any) -> Array:
        """Levels by code, float32."""
        assert self.table is not None
        return self.table

    @abstractmethod
    def fill(
        self, bits: Array, levels: Array, codes: Array, scales: Array, row_scales: Array, scratch: Scratch
    ) -> bool:
        """Fill codes and scales of some rows; False at a NaN or Inf."""

    def decode(self, parts: Mapping[str, Array], spec: Spec, start: int, stop: int, out: Array) -> None:
        """See :meth:`.core.scheme.Scheme.decode`.

        Integers are turned back, which is exact, and the scale of the row comes last: what comes out is the
        value of the codes, rounded once.
        """
        from ..numerics.decode import by_table

        codes = self.unpacked(np.ascontiguousarray(parts["codes"]).view(np.uint8).reshape(stop - start, -1))
        scales = np.asarray(parts["scale"]).view(np.uint8).reshape(spec.rows, -1)[start:stop]
        row_scales = np.asarray(parts["row_scale"]).reshape(-1, 1)[start:stop]
        levels = np.asarray(parts["codebook"]) if self.table is None else self.table
        table = np.zeros(256, np.float32)
        table[: len(levels)] = levels
        values = FORMATS["e4m3fn"].values()[scales]
        by_table(codes, table, 1, self.group_size, values, np.zeros_like(values), out)
        np.rint(out, out=out)
        np.clip(out, -127, 127, out=out)
        turn_back(out, self.rotate)
        out *= row_scales

    @abstractmethod
    def unpacked(self, codes: Array) -> Array:
        """Codes of some rows, uint8 ``[R, K]``, from their bytes."""


@dataclass(frozen=True)
class W4A8(_Grouped):
    """Codes of 4 bits, two in a byte, the even column in the low nibble: numbers of 16 levels.

    Args:
        group_size: columns that share an E4M3 scale: 16, 32, 64 or 128.
        rotate: columns that are turned together before, see :mod:`.rotated`: a power of 4.
        codebook: the levels: ``"frozen"``, those for normally distributed values; ``"fitted"`` to the tensor
            by a histogram (Lloyd and Max), which is a look at all of it before; ``"auto"``, fitted where
            values have more weight at their ends than normal ones, else frozen; ``"uniform"``, the integers
            from -8 to 7, which need not be stored.
    """

    name: ClassVar[str] = "w4a8"
    summary: ClassVar[str] = "4-bit levels of rotated columns, decoded to 8-bit integers"
    bits: ClassVar[int] = 4
    options: ClassVar[Mapping[str, Constraint]] = {
        "group_size": _SIZES,
        "rotate": TURNED,
        "codebook": Constraint.among("auto", "frozen", "fitted", "uniform"),
    }

    group_size: int = 16
    rotate: int = 256
    codebook: str = "auto"

    @classmethod
    def variants(cls, options: Mapping[str, Any], hints: Hints) -> Iterator[W4A8]:
        """Each size of groups and of what is turned, with levels of its own and without."""
        for rotate in hints.rotations:
            for size in _SIZES.cases if rotate > 1 else ():
                for codebook in ("frozen", "uniform"):
                    yield cls(size, rotate, codebook)

    def meaning(self, spec: Spec) -> Hashable:
        """Groups, what is turned, and whether levels are stored."""
        return self.name, self.group_size, self.rotate, self.codebook == "uniform"

    @property
    def table(self) -> Array | None:
        """The integers, where these are the levels."""
        return np.arange(-8, 8, dtype=np.float32) if self.codebook == "uniform" else None

    @property
    def observes(self) -> bool:
        """Whether levels may be fitted."""
        return self.codebook in ("auto", "fitted")

    def observe(self, rows: Array, dtype: DType) -> Array:
        """Histogram of the turned values over the largest of their group, int64. Raises ``NonFinite``."""
        from ..numerics.grouped import BINS, histogram
        from ..numerics.hadamard import unit_of
        from ..numerics.rows import as_bits

        line, words = line_of(rows.shape[1])
        places, counts = np.empty(rows.shape[1], np.uint32), np.zeros(BINS + 1, np.int64)
        turning = as_bits(rows, dtype), self.rotate, unit_of(self.rotate), line, words
        if not histogram(*turning, self.group_size, places, counts):
            raise rejected(rows, dtype, self.rotate)
        return counts[:BINS]

    def merge(self, one: Array, other: Array) -> Array:
        """Both histograms as one."""
        return one + other

    def levels(self, stats: Array | None) -> Array:
        """Levels by code, float32."""
        if self.codebook == "uniform":
            return super().levels(stats)
        if not self.observes:
            return np.array(_FROZEN, np.float32)
        assert stats is not None
        return _levels(stats.tobytes(), self.codebook == "fitted")

    def fill(
        self, bits: Array, levels: Array, codes: Array, scales: Array, row_scales: Array, scratch: Scratch
    ) -> bool:
        """See :meth:`_Grouped.fill`."""
        from ..numerics.grouped import grouped4, work4
        from ..numerics.hadamard import unit_of

        line, words = line_of(bits.shape[1])
        work = work4(scales.shape[1], self.group_size, scratch)
        middles = (levels[1:] + levels[:-1]) * np.float32(0.5)
        most = np.float32(7 if self.codebook == "uniform" else 1)
        return bool(
            grouped4(
                bits, self.rotate, unit_of(self.rotate), line, words, self.group_size, most,
                levels, middles, *work, codes, scales, row_scales,
            )
        )  # fmt: skip

    def unpacked(self, codes: Array) -> Array:
        """See :meth:`_Grouped.unpacked`."""
        from ..numerics.packing import unpack4

        return unpack4(codes)


@dataclass(frozen=True)
class W6A8(_Grouped):
    """Codes of 6 bits: levels are the integers from -31 to 31, a code is its level plus 32.

    The bytes of a row are the low nibbles as W4A8 has them, then the upper two bits of four columns to a
    byte.

    Args:
        group_size, rotate: as for :class:`W4A8`.
    """

    name: ClassVar[str] = "w6a8"
    summary: ClassVar[str] = "6-bit integers of rotated columns, decoded to 8-bit integers"
    bits: ClassVar[int] = 6
    options: ClassVar[Mapping[str, Constraint]] = {"group_size": _SIZES, "rotate": TURNED}

    group_size: int = 16
    rotate: int = 256

    @classmethod
    def variants(cls, options: Mapping[str, Any], hints: Hints) -> Iterator[W6A8]:
        """Each size of groups and of what is turned."""
        for rotate in hints.rotations:
            for size in _SIZES.cases if rotate > 1 else ():
                yield cls(size, rotate)

    def meaning(self, spec: Spec) -> Hashable:
        """Groups, and what is turned."""
        return self.name, self.group_size, self.rotate

    @property
    def table(self) -> Array | None:
        """The integers."""
        return np.arange(-32, 32, dtype=np.float32)

    def fill(
        self, bits: Array, levels: Array, codes: Array, scales: Array, row_scales: Array, scratch: Scratch
    ) -> bool:
        """See :meth:`_Grouped.fill`."""
        from ..numerics.grouped6 import grouped6, work6
        from ..numerics.hadamard import unit_of

        line, words = line_of(bits.shape[1])
        work = work6(scales.shape[1], self.group_size, scratch)
        return bool(
            grouped6(
                bits, self.rotate, unit_of(self.rotate), line, words, self.group_size,
                work, codes, scales, row_scales,
            )
        )  # fmt: skip

    def unpacked(self, codes: Array) -> Array:
        """See :meth:`_Grouped.unpacked`."""
        from ..numerics.packing import unpack4

        columns = codes.shape[1] * 4 // 3
        low = unpack4(np.ascontiguousarray(codes[:, : columns // 2]))
        high = codes[:, columns // 2 :, None] >> np.arange(0, 8, 2, dtype=np.uint8) & np.uint8(3)
        both: Array = np.bitwise_or(low, high.reshape(low.shape) << np.uint8(4))
        return both


@lru_cache(maxsize=16)
def _levels(histogram: bytes, fitted: bool) -> Array:
    """The levels for values of a histogram, float32 ``[16]``."""
    counts = np.frombuffer(histogram, np.int64).astype(np.float64)
    centres = (np.arange(len(counts)) + 0.5) * (2 / len(counts)) - 1
    frozen = np.array(_FROZEN, np.float32)
    number = counts.sum()
    if number == 0:
        return frozen
    mean = counts @ centres / number
    second, fourth = (counts @ (centres - mean) ** power / number for power in (2, 4))
    if not fitted and fourth <= (3 + _KURTOSIS) * second**2:
        return frozen
    below = np.concatenate([[0.0], np.cumsum(counts)])
    sums = np.concatenate([[0.0], np.cumsum(counts * centres)])
    quantiles = np.searchsorted(below[1:], np.linspace(0, 1, 16) * number)
    levels = centres[np.minimum(quantiles, len(centres) - 1)]
    for _ in range(_LLOYD):
        edges = np.searchsorted(centres, (levels[1:] + levels[:-1]) / 2)
        edges = np.concatenate([[0], edges, [len(centres)]])
        inside = below[edges[1:]] - below[edges[:-1]]
        means = (sums[edges[1:]] - sums[edges[:-1]]) / np.maximum(inside, 1)
        levels = np.sort(np.where(inside > 0, means, levels))
    narrow: Array = levels.astype(np.float32)
    narrow.setflags(write=False)
    return narrow
