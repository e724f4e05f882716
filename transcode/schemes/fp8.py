"""fp8: 8-bit floats times a scale."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..core.dtypes import DTYPES, DType
from ..core.spec import Spec
from ..errors import RecipeError
from ..numerics.minifloat import FORMATS, Minifloat
from .base import SCALE_DTYPES, Array, choose
from .blocks import Blocks
from .scaled import Scaled

__all__ = ["Fp8"]


@dataclass(frozen=True)
class Fp8(Scaled):
    """8-bit floats: ``scale = amax / 448`` (57344 for e5m2), ``code = rne(x / scale)``, saturating.

    Args:
        format: ``"e4m3fn"`` or ``"e5m2"``.
        granularity: what shares a scale: ``"channel"`` (a row), ``"block"`` or ``"tensor"``.
        block: rows and columns of a block, for that granularity; blocks at the edges may be smaller.
        scale_dtype: ``"source"``, ``"F32"``, ``"BF16"`` or ``"F16"``; source means F32 for F16 and F64
            sources.

    Raises:
        RecipeError: an option has no such value.
    """

    name: ClassVar[str] = "fp8"
    summary: ClassVar[str] = "8-bit floats, one scale to a row, block or tensor"

    format: str = "e4m3fn"
    granularity: str = "channel"
    block: tuple[int, int] = (128, 128)
    scale_dtype: str = "source"

    def __post_init__(self) -> None:
        choose(self.name, "format", self.format, ("e4m3fn", "e5m2"))
        choose(self.name, "granularity", self.granularity, ("channel", "tensor", "block"))
        choose(self.name, "scale_dtype", self.scale_dtype, SCALE_DTYPES)
        size = self.block
        if not isinstance(size, list | tuple) or [type(n) for n in size] != [int, int] or min(size) < 1:
            raise RecipeError(f"fp8: block cannot be {size!r}", hint="give rows and columns, e.g. [128, 128]")
        object.__setattr__(self, "block", tuple(size))

    @property
    def kind(self) -> Minifloat:
        """The format of the codes."""
        return FORMATS[self.format]

    @property
    def code_dtype(self) -> DType:
        """F8_E4M3 or F8_E5M2."""
        return DTYPES[self.kind.dtype]

    def extent(self, spec: Spec) -> tuple[int, int]:
        """One row, or rows and columns of a block."""
        if self.granularity == "channel":
            return 1, spec.columns
        return self.block

    def given_scale(self, peak: float, stored: int) -> float:
        """``amax`` over the largest value of the format, as it will be stored."""
        from ..numerics.lanes import fitted

        kind = self.kind
        return float(fitted(np.float32(peak), np.float32(kind.max), np.float32(kind.limit), stored))

    def encode_block(
        self,
        bits: Array,
        blocks: Blocks,
        stored: int,
        given: np.float32,
        codes: Array,
        scales: Array,
        zeros: Array,
    ) -> bool:
        """See :meth:`Scaled.encode_block`."""
        from ..numerics.floats import scaled

        kind = self.kind
        return bool(
            scaled(
                bits, blocks.height, blocks.width, stored, given,
                np.float32(kind.max), kind.normal_bits, kind.mantissa_shift, kind.magic, codes, scales,
            )
        )  # fmt: skip

    @property
    def reach(self) -> float:
        """The largest value of the format."""
        return float(self.kind.max)

    def table(self) -> Array:
        """The format's values."""
        return self.kind.values()
