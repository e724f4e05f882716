"""What the blocks of ggml do alike: each holds its codes and scales, so that a tensor is stored as one part.

A tensor is a line of blocks; rows are whole blocks, but for tensors that a file holds under another shape.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from math import prod
from typing import ClassVar

import numpy as np

from ..core.constraint import Constraint
from ..core.dtypes import BLOCKS, DTYPES, FLOATS, DType
from ..core.expr import Piece
from ..core.scratch import Scratch
from ..core.spec import Part, Spec
from ..numerics.ggml.table import IQ4_VALUES
from ..numerics.minifloat import FORMATS
from .base import Array, Base, encode_one
from .blocks import Blocks as Geometry
from .grid import Grid, ScaleKind

__all__ = ["Blocks", "Encoded"]


_E2M1 = FORMATS["e2m1"].values()
_FIELDS: Mapping[str, tuple[Array, int, ScaleKind, str]] = {
    "Q4_0": (np.arange(16, dtype=np.float32) - 8, 32, "float", "F16"),
    "Q5_0": (np.arange(32, dtype=np.float32) - 16, 32, "float", "F16"),
    "Q8_0": (np.arange(256).astype(np.uint8).view(np.int8).astype(np.float32), 32, "float", "F16"),
    "IQ4_NL": (np.array(IQ4_VALUES, np.float32), 32, "float", "F16"),
    "MXFP4": (_E2M1, 32, "power", "F8_E8M0"),
    "NVFP4": (_E2M1, 16, "split", "F8_E4M3"),
}
"""Values of codes; columns under one scale, what scales may be, and their dtype."""


class Blocks(Base):
    """What all of them do alike.

    Attributes:
        stored: name of the dtype of its blocks.
    """

    options: ClassVar[Mapping[str, Constraint]] = {}
    stored: ClassVar[str]

    observes = False

    @property
    def dtype(self) -> DType:
        """Of the blocks."""
        return BLOCKS[self.stored]

    @property
    def multiple(self) -> tuple[int, int]:
        """Whole blocks of columns."""
        return 1, self.dtype.elements

    def grid(self, spec: Spec) -> Grid | None:
        """See :meth:`.base.Base.grid`: of types with one scale to a code, in rows of whole blocks."""
        field = _FIELDS.get(self.stored)
        if field is None or len(spec.shape) < 2 or spec.columns % self.dtype.elements:
            return None
        table, width, kind, kept = field
        bits = len(table).bit_length() - 1
        geometry = Geometry(spec, 1, width)
        reach = 127.0 if self.stored == "Q8_0" else float(np.abs(table).max())
        return Grid(table, bits, reach, geometry, kind, DTYPES[kept], stored=self.stored)

    def parts(self, spec: Spec) -> tuple[Part, ...]:
        """Blocks, under the shape of the tensor."""
        return (Part("codes", Spec(self.dtype, spec.shape)),)

    def grain(self, spec: Spec) -> int:
        """One row, where rows are whole blocks."""
        return Spec(self.dtype, spec.shape).grain

    def meaning(self, spec: Spec) -> Hashable:
        """What its blocks are."""
        return self.stored

    def undecodable(self, spec: Spec) -> str | None:
        """Only what is no whole number of blocks: files hold tensors of any number of dimensions so."""
        if spec.dtype.name not in FLOATS or prod(spec.shape) % self.dtype.elements:
            return f"{spec} is no whole number of blocks of {self.dtype.elements}"
        return None

    def decode(self, parts: Mapping[str, Array], spec: Spec, start: int, stop: int, out: Array) -> None:
        """See :meth:`.core.scheme.Scheme.decode`; as the reference code computes it, to the bit."""
        from ..numerics.ggml.table import decode

        decode(self.stored, parts["codes"], out)


class Encoded(Blocks):
    """Those that are made here, too, to the bit as ggml's reference quantizers make them.

    Values that are not finite are refused, and so are those that need a scale beyond F16, where ggml itself
    stores infinity.
    """

    @property
    def weighs(self) -> bool:
        """Where ggml's own quantizer heeds an importance matrix."""
        from ..numerics.ggml.table import SPREAD

        return self.stored in SPREAD

    @property
    def needs_weights(self) -> bool:
        """Where llama.cpp makes none without an importance matrix."""
        from ..numerics.ggml.table import NEEDY

        return self.stored in NEEDY

    @property
    def light(self) -> bool:
        """No: most types fit scales to their blocks, and all compute in float32."""
        return False

    def prepare(self, dtype: DType) -> None:
        """Compile what encoding tensors of this dtype needs, by encoding a small one."""
        encode_one(self.encode, dtype, self.dtype.elements)

    def encode(
        self, rows: Array, spec: Spec, start: int, stats: float | None, scratch: Scratch,
        weights: Array | None = None,
    ) -> Iterator[Piece]:  # fmt: skip
        """See :meth:`.core.scheme.Scheme.encode`."""
        from ..numerics import NonFinite, Overflow
        from ..numerics.ggml.table import encode
        from ..numerics.rows import as_float32, as_float64, reject

        values = as_float32(rows, spec.dtype, scratch)
        elements, size = self.dtype.elements, self.dtype.bits // 8
        blocks = scratch.take((values.size // elements, size), np.uint8)
        if weights is None and self.needs_weights:  # all columns alike, as the user has been told
            weights = np.ones((1, rows.shape[1]), np.float32)
        bad = encode(self.stored, values, blocks, scratch, weights if self.weighs else None)
        if bad >= 0:
            row, column = divmod(bad * elements, rows.shape[1])
            exact = as_float64(rows[row : row + 1], spec.dtype)[0, column : column + elements]
            if not np.isfinite(values[row, column : column + elements]).all():
                error: NonFinite = reject(rows[row : row + 1], spec.dtype)
                raise NonFinite(row, error.column, error.value)
            largest = int(np.argmax(np.abs(exact)))
            raise Overflow(row, column + largest, float(exact[largest]))
        yield Piece("codes", spec.row_offset(start) // spec.dtype.itemsize // elements * size, blocks)
