"""The blocks of ggml: each holds its codes and scales, so that a tensor is stored as one part.

A tensor is a line of blocks; rows are whole blocks, but for tensors that a file holds under another shape.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import ClassVar

import numpy as np

from ..core.constraint import Constraint
from ..core.dtypes import BLOCKS, FLOATS, DType
from ..core.expr import Piece
from ..core.scratch import Scratch
from ..core.spec import Part, Spec
from .base import Array, Base

__all__ = [
    "Q1",
    "Q2K",
    "Q3K",
    "Q4K",
    "Q5K",
    "Q6K",
    "Q40",
    "Q41",
    "Q50",
    "Q51",
    "Q80",
    "Blocks",
    "Encoded",
    "Iq1M",
    "Iq1S",
    "Iq2S",
    "Iq2Xs",
    "Iq2Xxs",
    "Iq3S",
    "Iq3Xxs",
    "Iq4Nl",
    "Iq4Xs",
    "Mxfp4",
    "Nvfp4",
    "Tq1",
    "Tq2",
]


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
    def light(self) -> bool:
        """No: most types fit scales to their blocks, and all compute in float32."""
        return False

    def prepare(self, dtype: DType) -> None:
        """Compile what encoding tensors of this dtype needs, by encoding a small one."""
        spec = Spec(dtype, (1, self.dtype.elements))
        for _ in self.encode(np.zeros(spec.shape, dtype.carrier), spec, 0, None, Scratch()):
            pass

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


@dataclass(frozen=True)
class Q1(Encoded):
    """Blocks of Q1_0."""

    name: ClassVar[str] = "q1_0"
    summary: ClassVar[str] = "GGUF: 1-bit signs, a scale to each 128"
    stored: ClassVar[str] = "Q1_0"


@dataclass(frozen=True)
class Q40(Encoded):
    """Blocks of Q4_0."""

    name: ClassVar[str] = "q4_0"
    summary: ClassVar[str] = "GGUF: 4-bit integers, a scale to each 32 columns"
    stored: ClassVar[str] = "Q4_0"


@dataclass(frozen=True)
class Q41(Encoded):
    """Blocks of Q4_1."""

    name: ClassVar[str] = "q4_1"
    summary: ClassVar[str] = "GGUF: 4-bit integers, a scale and a minimum to each 32 columns"
    stored: ClassVar[str] = "Q4_1"


@dataclass(frozen=True)
class Q50(Encoded):
    """Blocks of Q5_0."""

    name: ClassVar[str] = "q5_0"
    summary: ClassVar[str] = "GGUF: 5-bit integers, a scale to each 32 columns"
    stored: ClassVar[str] = "Q5_0"


@dataclass(frozen=True)
class Q51(Encoded):
    """Blocks of Q5_1."""

    name: ClassVar[str] = "q5_1"
    summary: ClassVar[str] = "GGUF: 5-bit integers, a scale and a minimum to each 32 columns"
    stored: ClassVar[str] = "Q5_1"


@dataclass(frozen=True)
class Q80(Encoded):
    """Blocks of Q8_0."""

    name: ClassVar[str] = "q8_0"
    summary: ClassVar[str] = "GGUF: 8-bit integers, a scale to each 32 columns"
    stored: ClassVar[str] = "Q8_0"


@dataclass(frozen=True)
class Q2K(Encoded):
    """Blocks of Q2_K."""

    name: ClassVar[str] = "q2_k"
    summary: ClassVar[str] = "GGUF: 2-bit integers, 4-bit scales and minima of 16 columns under two of 256"
    stored: ClassVar[str] = "Q2_K"


@dataclass(frozen=True)
class Q3K(Encoded):
    """Blocks of Q3_K."""

    name: ClassVar[str] = "q3_k"
    summary: ClassVar[str] = "GGUF: 3-bit integers, 6-bit scales of 16 columns under one of 256"
    stored: ClassVar[str] = "Q3_K"


@dataclass(frozen=True)
class Q4K(Encoded):
    """Blocks of Q4_K."""

    name: ClassVar[str] = "q4_k"
    summary: ClassVar[str] = "GGUF: 4-bit integers, 6-bit scales and minima of 32 columns under two of 256"
    stored: ClassVar[str] = "Q4_K"


@dataclass(frozen=True)
class Q5K(Encoded):
    """Blocks of Q5_K."""

    name: ClassVar[str] = "q5_k"
    summary: ClassVar[str] = "GGUF: 5-bit integers, 6-bit scales and minima of 32 columns under two of 256"
    stored: ClassVar[str] = "Q5_K"


@dataclass(frozen=True)
class Q6K(Encoded):
    """Blocks of Q6_K."""

    name: ClassVar[str] = "q6_k"
    summary: ClassVar[str] = "GGUF: 6-bit integers, 8-bit scales of 16 columns under one of 256"
    stored: ClassVar[str] = "Q6_K"


@dataclass(frozen=True)
class Iq4Nl(Encoded):
    """Blocks of IQ4_NL."""

    name: ClassVar[str] = "iq4_nl"
    summary: ClassVar[str] = "GGUF: 4-bit codes of uneven values, a scale to each 32 columns"
    stored: ClassVar[str] = "IQ4_NL"


@dataclass(frozen=True)
class Iq4Xs(Encoded):
    """Blocks of IQ4_XS."""

    name: ClassVar[str] = "iq4_xs"
    summary: ClassVar[str] = "GGUF: 4-bit codes of uneven values, 6-bit scales of 32 columns under one of 256"
    stored: ClassVar[str] = "IQ4_XS"


@dataclass(frozen=True)
class Tq1(Encoded):
    """Blocks of TQ1_0."""

    name: ClassVar[str] = "tq1_0"
    summary: ClassVar[str] = "GGUF: -1, 0 and 1, five to a byte, a scale to each 256 columns"
    stored: ClassVar[str] = "TQ1_0"


@dataclass(frozen=True)
class Tq2(Encoded):
    """Blocks of TQ2_0."""

    name: ClassVar[str] = "tq2_0"
    summary: ClassVar[str] = "GGUF: -1, 0 and 1, four to a byte, a scale to each 256 columns"
    stored: ClassVar[str] = "TQ2_0"


@dataclass(frozen=True)
class Mxfp4(Encoded):
    """Blocks of MXFP4."""

    name: ClassVar[str] = "ggml_mxfp4"
    summary: ClassVar[str] = "GGUF: 4-bit floats, a power of two to each 32 columns"
    stored: ClassVar[str] = "MXFP4"


@dataclass(frozen=True)
class Nvfp4(Encoded):
    """Blocks of NVFP4."""

    name: ClassVar[str] = "ggml_nvfp4"
    summary: ClassVar[str] = "GGUF: 4-bit floats, an 8-bit float to each 16 columns"
    stored: ClassVar[str] = "NVFP4"


@dataclass(frozen=True)
class Iq1S(Blocks):
    """Blocks of IQ1_S."""

    name: ClassVar[str] = "iq1_s"
    summary: ClassVar[str] = "GGUF: 8 columns to a code book of 2048"
    stored: ClassVar[str] = "IQ1_S"


@dataclass(frozen=True)
class Iq1M(Blocks):
    """Blocks of IQ1_M."""

    name: ClassVar[str] = "iq1_m"
    summary: ClassVar[str] = "GGUF: 8 columns to a code book of 2048, scales of 16"
    stored: ClassVar[str] = "IQ1_M"


@dataclass(frozen=True)
class Iq2Xxs(Blocks):
    """Blocks of IQ2_XXS."""

    name: ClassVar[str] = "iq2_xxs"
    summary: ClassVar[str] = "GGUF: 8 columns to a code book of 256"
    stored: ClassVar[str] = "IQ2_XXS"


@dataclass(frozen=True)
class Iq2Xs(Blocks):
    """Blocks of IQ2_XS."""

    name: ClassVar[str] = "iq2_xs"
    summary: ClassVar[str] = "GGUF: 8 columns to a code book of 512"
    stored: ClassVar[str] = "IQ2_XS"


@dataclass(frozen=True)
class Iq2S(Blocks):
    """Blocks of IQ2_S."""

    name: ClassVar[str] = "iq2_s"
    summary: ClassVar[str] = "GGUF: 8 columns to a code book of 1024"
    stored: ClassVar[str] = "IQ2_S"


@dataclass(frozen=True)
class Iq3Xxs(Blocks):
    """Blocks of IQ3_XXS."""

    name: ClassVar[str] = "iq3_xxs"
    summary: ClassVar[str] = "GGUF: 4 columns to a code book of 256"
    stored: ClassVar[str] = "IQ3_XXS"


@dataclass(frozen=True)
class Iq3S(Blocks):
    """Blocks of IQ3_S."""

    name: ClassVar[str] = "iq3_s"
    summary: ClassVar[str] = "GGUF: 4 columns to a code book of 512"
    stored: ClassVar[str] = "IQ3_S"
