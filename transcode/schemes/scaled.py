"""The common way of int8 and fp8: codes, and one scale for each block of them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable, Iterator, Mapping
from math import lcm

import numpy as np

from ..core.dtypes import DTYPES, DType
from ..core.expr import Piece
from ..core.scratch import Scratch
from ..core.spec import Part, Spec
from ..numerics.errors import NonFinite
from .base import Array, Base, fitting, narrowed, stored_scale, widened
from .blocks import Blocks
from .grid import Grid, ScaleKind

__all__ = ["KEPT", "Scaled"]

KEPT = ("F32", "BF16", "F16")
"""Dtypes in which scales are stored."""


class Scaled(Base):
    """A code for each value and a scale for each block: ``value = (code - zero) * scale``.

    Scales are computed in float32 from the largest magnitude of a block, rounded to the dtype in which they
    are stored, and it is those stored scales by which values are divided. A block of zeros has scale 1. A
    scale that would be rounded to zero is the smallest positive number of its dtype instead, one that would
    be infinite the largest.
    """

    granularity: str
    scale_dtype: str
    zeroed = False
    """Whether there is a zero point."""

    @property
    @abstractmethod
    def code_dtype(self) -> DType:
        """Dtype of the codes."""

    @abstractmethod
    def extent(self, spec: Spec) -> tuple[int, int]:
        """Rows and columns of a block; not asked for when the tensor has only one scale."""

    @abstractmethod
    def encode_block(
        self,
        bits: Array,
        blocks: Blocks,
        stored: int,
        given: np.float32,
        codes: Array,
        scales: Array,
        zeros: Array,
        weights: Array | None,
    ) -> bool:
        """Fill codes, scales (float32) and, with a zero point, zeros; False at a NaN or Inf. Weights of
        columns only where they count.
        """

    @abstractmethod
    def given_scale(self, peak: float, stored: int) -> float:
        """The one scale of a tensor whose largest magnitude is ``peak``."""

    @property
    @abstractmethod
    def reach(self) -> float:
        """Largest magnitude under scale 1: that of a code, or half the range where there is a zero point."""

    @abstractmethod
    def table(self) -> Array:
        """Value of each code, float32 ``[256]``."""

    @property
    def observes(self) -> bool:
        """Whether the tensor has one scale."""
        return self.granularity == "tensor"

    def blocks(self, spec: Spec) -> Blocks:
        """Which values share a scale."""
        if self.observes:
            return Blocks(Spec(spec.dtype, (spec.rows, spec.columns)), spec.rows, spec.columns)
        return Blocks(spec, *self.extent(spec))

    def meaning(self, spec: Spec) -> Hashable:
        """What a code stands for, which of them share a scale, and whether there is a zero point."""
        blocks = self.blocks(spec)
        size = min(blocks.height, spec.shape[-2]), min(blocks.width, spec.columns)
        return getattr(self, "format", self.name), *size, self.zeroed

    def grid(self, spec: Spec) -> Grid | None:
        """See :meth:`.base.Base.grid`."""
        kept = stored_scale(self.scale_dtype, spec.dtype)
        reach = 128.0 if self.zeroed else self.reach
        kind: ScaleKind = "power" if kept.name == "F8_E8M0" else "float"
        return Grid(self.table(), 8, reach, self.blocks(spec), kind, kept, self.zeroed)

    def parts(self, spec: Spec) -> tuple[Part, ...]:
        """Codes shaped as the tensor, and scales: ``[]``, or one for each block (and as many zero points)."""
        shape = () if self.observes else self.blocks(spec).shape
        parts = [
            Part("codes", Spec(self.code_dtype, spec.shape)),
            Part("scale", Spec(stored_scale(self.scale_dtype, spec.dtype), shape)),
        ]
        if self.zeroed:
            parts.append(Part("zero_point", Spec(DTYPES["I8"], shape)))
        return tuple(parts)

    def grain(self, spec: Spec) -> int:
        """Rows of a block."""
        return 1 if self.observes else self.blocks(spec).grain

    def prepare(self, dtype: DType) -> None:
        """Compile what encoding tensors of this dtype needs, by encoding a small one."""
        spec = Spec(dtype, (2, lcm(128, self.multiple[1])))
        rows = np.zeros(spec.shape, dtype.carrier)
        stats = self.observe(rows, dtype) if self.observes else None
        for _ in self.encode(rows, spec, 0, stats, Scratch()):
            pass

    def encode(
        self, rows: Array, spec: Spec, start: int, stats: float | None, scratch: Scratch,
        weights: Array | None = None,
    ) -> Iterator[Piece]:  # fmt: skip
        """See :meth:`.core.scheme.Scheme.encode`; ``stats`` is the largest magnitude of the tensor."""
        from ..numerics.lanes import STORED
        from ..numerics.rows import as_bits

        bits = as_bits(rows, spec.dtype, scratch)
        kept = stored_scale(self.scale_dtype, spec.dtype)
        stored = STORED[kept.name]
        given = np.float32(0)
        if self.observes:
            assert stats is not None
            given = np.float32(self.given_scale(stats, stored))
        blocks = self.blocks(spec)
        stop = start + len(bits)
        first = blocks.line(start)
        shape = (blocks.line(stop - 1) - first + 1, blocks.across)
        codes = scratch.take(bits.shape, self.code_dtype.carrier)
        scales = scratch.take(shape, np.float32)
        zeros = scratch.take(shape, np.int8)
        for top, bottom in blocks.runs(start, stop):
            at = blocks.line(top) - first
            here = slice(top - start, bottom - start)
            if not self.encode_block(
                bits[here], blocks, stored, given, codes[here], scales[at:], zeros[at:], weights
            ):
                raise self.rejected(rows, spec.dtype)
        self.check_scales(rows, spec.dtype, scales, kept)
        yield Piece("codes", start * spec.columns * self.code_dtype.itemsize, codes)
        offset = first * blocks.across
        if self.observes and start:
            return  # the one scale came with row 0
        yield Piece("scale", offset * kept.itemsize, narrowed(scales, kept, scratch))
        if self.zeroed:
            yield Piece("zero_point", offset, zeros)

    def rejected(self, rows: Array, dtype: DType) -> NonFinite:
        """The error that names the first value that cannot be encoded."""
        from ..numerics.rows import reject

        return reject(rows, dtype)

    def check_scales(self, rows: Array, dtype: DType, scales: Array, kept: DType) -> None:
        """Raise ``Overflow`` where the dtype of stored scales cannot hold one, see :func:`.base.fitting`."""
        fitting(rows, dtype, scales, kept, self.reach)

    def decode(self, parts: Mapping[str, Array], spec: Spec, start: int, stop: int, out: Array) -> None:
        """See :meth:`.core.scheme.Scheme.decode`: the product of code and scale, rounded once to float32."""
        from ..numerics.decode import by_table

        kept = stored_scale(self.scale_dtype, spec.dtype)
        blocks = self.blocks(spec)
        if self.observes and np.size(parts["scale"]) > 1:  # one to each matrix of a stack
            blocks = Blocks(Spec(spec.dtype, (spec.rows, spec.columns)), spec.shape[-2], spec.columns)
        scales = widened(np.asarray(parts["scale"]), kept).reshape(-1, blocks.across)
        zeros = (
            np.asarray(parts["zero_point"]).reshape(scales.shape) if self.zeroed else np.zeros_like(scales)
        )
        codes = np.ascontiguousarray(parts["codes"]).reshape(stop - start, spec.columns).view(np.uint8)
        for top, bottom in blocks.runs(start, stop):
            line = slice(blocks.line(top), blocks.line(bottom - 1) + 1)
            here = slice(top - start, bottom - start)
            by_table(
                codes[here], self.table(), blocks.height, blocks.width,
                scales[line], zeros[line].astype(np.float32), out[here],
            )  # fmt: skip
