"""fp8: 8-bit floats times a scale."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np

from ..core.constraint import Constraint
from ..core.dtypes import DTYPES, DType
from ..core.records import dataclass
from ..core.scheme import Hints
from ..core.spec import Spec
from ..errors import RecipeError
from ..numerics.minifloat import FORMATS, Minifloat
from .base import GROUPS, SCALE_DTYPES, SEARCH, Array
from .blocks import Blocks
from .scaled import KEPT, Scaled

__all__ = ["Fp8"]

_POWERS = "F8_E8M0"
"""Dtype of scales that are powers of two."""

_EXPONENTS = (_POWERS, "U8")
"""Dtypes under which exponents are stored, plain bytes for blocks alone."""


def _is_block(value: Any) -> bool:
    """Two lengths, as YAML or Python would have them."""
    return isinstance(value, list | tuple) and [type(n) for n in value] == [int, int] and min(value) > 0


@dataclass(frozen=True)
class Fp8(Scaled):
    """8-bit floats: ``scale = amax / 448`` (57344 for e5m2), ``code = rne(x / scale)``, saturating.

    Args:
        format: ``"e4m3fn"`` or ``"e5m2"``.
        granularity: what shares a scale: ``"channel"`` (a row), ``"block"`` or ``"tensor"``.
        block: rows and columns of a block, for that granularity; blocks at the edges may be smaller.
        scale_dtype: ``"source"``, ``"F32"``, ``"BF16"`` or ``"F16"``; source means F32 for F16 and F64
            sources. Or ``"F8_E8M0"``: the next power of two up, at least 2**-127.
        qmax: the largest code: ``"full"``, that of the format, or 14 for kernels that add up products of E4M3
            in float16, which would overflow.
        optimize: ``"mse"`` tries the scales from ``amax / 448`` to twice that, in sixteenths, for each row or
            block, and keeps the one with the least squared error: the largest value gets no larger code than
            it needs, and the others lie elsewhere between the steps. Nothing saturates.

    Raises:
        RecipeError: an option has no such value.
    """

    name: ClassVar[str] = "fp8"
    summary: ClassVar[str] = "8-bit floats, one scale to a row, block or tensor"
    options: ClassVar[Mapping[str, Constraint]] = {
        "format": Constraint.among("e4m3fn", "e5m2"),
        "granularity": Constraint.among("channel", "tensor", "block"),
        "scale_dtype": Constraint.among(*SCALE_DTYPES.cases, _POWERS),
        "block": Constraint("rows and columns, e.g. [128, 128]", ((128, 128), (16, 32), (1, 64)), _is_block),
        "qmax": Constraint.among("full", 14),
        "optimize": SEARCH,
    }
    only_with: ClassVar[Mapping[str, tuple[str, Any]]] = {
        "block": ("granularity", "block"),
        "qmax": ("format", "e4m3fn"),
    }

    format: str = "e4m3fn"
    granularity: str = "channel"
    block: tuple[int, int] = (128, 128)
    scale_dtype: str = "source"
    qmax: str | int = "full"
    optimize: str = "none"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.optimize != "none" and self.observes:
            raise RecipeError(
                f"fp8: optimize cannot be {self.optimize!r} of one scale for the whole tensor",
                hint="use granularity channel or block, or leave out optimize",
            )
        if self.optimize != "none" and self.scale_dtype == _POWERS:
            raise RecipeError(
                f"fp8: optimize cannot be {self.optimize!r} of scales that are powers of two",
                hint="use another scale_dtype, or leave out optimize",
            )
        object.__setattr__(self, "block", tuple(self.block))

    @classmethod
    def variants(cls, options: Mapping[str, Any], hints: Hints) -> Iterator[Fp8]:
        """Each format and granularity, and blocks of usual sizes; exponents are those of blocks alone."""
        exponents = hints.scale in _EXPONENTS
        if not exponents and hints.scale not in KEPT:
            return
        kept = _POWERS if exponents else hints.scale
        for form in cls.options["format"].cases:
            if hints.scale != "U8":
                yield cls(form, "tensor", scale_dtype=kept)
                yield cls(form, "channel", scale_dtype=kept)
            for side in GROUPS:
                if not hints.blocks:
                    yield cls(form, "block", (side, side), kept)
                yield cls(form, "block", (1, side), kept)
            for block in sorted(hints.blocks):
                yield cls(form, "block", block, kept)

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
        """``amax`` over the largest code, as it will be stored."""
        from ..numerics.lanes import fitted

        top = np.float32(self.reach)
        limit = (top.view(np.uint32) + (1 << int(self.kind.mantissa_shift) - 1)).view(np.float32)
        return float(fitted(np.float32(peak), top, limit, stored))

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
        """See :meth:`Scaled.encode_block`."""
        from ..numerics.floats import scaled

        kind = self.kind
        if self.weighs:
            return self._search(bits, blocks, stored, codes, scales, weights)
        return bool(
            scaled(
                bits, blocks.height, blocks.width, stored, given,
                np.float32(self.reach), kind.normal_bits, kind.mantissa_shift, kind.magic, codes, scales,
            )
        )  # fmt: skip

    def _search(
        self, bits: Array, blocks: Blocks, stored: int, codes: Array, scales: Array, weights: Array | None
    ) -> bool:
        from ..numerics.float_scales import ROOM, SHARES, scale_search
        from ..numerics.floats import scaled_under, work
        from ..numerics.weighted import balanced

        kind, top = self.kind, np.float32(self.reach)
        where = bits, blocks.height, blocks.width, stored
        heavy = balanced(np.ones(bits.shape[1], np.float32) if weights is None else weights)
        shares, room = np.array(SHARES, np.float32), np.empty(ROOM, np.float32)
        if not scale_search(*where, top, kind.normal_bits, kind.mantissa_shift, shares, heavy, room, scales):
            return False
        return bool(
            scaled_under(
                *where, np.float32(0), True,
                top, kind.normal_bits, kind.mantissa_shift, kind.magic,
                work(bits.shape[1], blocks.width), codes, scales,
            )
        )  # fmt: skip

    @property
    def weighs(self) -> bool:
        """Where scales are searched."""
        return self.optimize != "none"

    @property
    def reach(self) -> float:
        """The largest code."""
        return 14.0 if self.qmax == 14 and self.format == "e4m3fn" else float(self.kind.max)

    def table(self) -> Array:
        """The format's values."""
        return self.kind.values()
