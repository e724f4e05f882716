"""SVDQuant's layers as they are decoded: 4-bit codes of columns that were smoothed, and a branch of low rank.

``value = code * scale / smooth + lora_up @ lora_down``, all in float32: inputs are divided by the smoothing
factors before they meet the codes, and meet the branch as they are (``SVDQW4A4Linear`` of diffusers,
``quantizers/nunchaku/utils.py``; ``_reconstruct_target_weight`` of rootonchair/diffuse-compressor, where the
tensors of such files are made). They are only decoded: what makes them needs the inputs of each layer.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar, Self

import numpy as np

from ..core.constraint import Constraint
from ..core.dtypes import DTYPES
from ..core.records import dataclass
from ..core.scheme import Hints
from ..core.spec import Part, Spec
from ..numerics.minifloat import FORMATS
from .base import Array, Base, widened
from .int4 import Int4
from .low_rank import Branch
from .packed import unpacked

__all__ = ["SmoothedFp4", "SmoothedInt4"]


@dataclass(frozen=True)
class _Smoothed(Branch):
    """A branch beside codes of smoothed columns; nothing is rounded between."""

    rounds: ClassVar[bool] = False

    rank: int = 16
    branch_dtype: str = "BF16"

    @property
    def multiple(self) -> tuple[int, int]:
        """What warps of the kernels take."""
        return 128, 128

    def parts(self, spec: Spec) -> tuple[Part, ...]:
        """Those beside the branch, and ``smooth`` ``[K]``."""
        return *super().parts(spec), Part("smooth", Spec(DTYPES[self.branch_dtype], spec.shape[-1:]))

    def before_branch(self, parts: Mapping[str, Array], out: Array) -> None:
        """Values of columns as they were before these were smoothed."""
        out /= widened(np.asarray(parts["smooth"]), DTYPES[self.branch_dtype]).reshape(-1)


@dataclass(frozen=True)
class SmoothedInt4(_Smoothed, Int4):
    """Codes -8 to 7, a scale of 16 bits to 64 columns."""

    name: ClassVar[str] = "smoothed_int4"
    summary: ClassVar[str] = "SVDQuant: int4 of smoothed columns, and a branch of low rank"

    @classmethod
    def variants(cls, options: Mapping[str, Any], hints: Hints) -> Iterator[Self]:
        """That of the branch that the file has."""
        for one in super().variants(options, replace(hints, groups={64})):
            if one.symmetric:
                yield one


@dataclass(frozen=True)
class _Fp4(Base):
    """E2M1 codes, an E4M3 scale to 16 columns, one of 16 bits to each row and one to all."""

    branch_dtype: ClassVar[str]
    options: ClassVar[Mapping[str, Constraint]] = {}
    observes: ClassVar[bool] = False

    @classmethod
    def variants(cls, options: Mapping[str, Any], hints: Hints) -> Iterator[Self]:
        """There is one."""
        if hints.scale == "F8_E4M3":
            yield cls()

    def meaning(self, spec: Spec) -> Hashable:
        """Its name."""
        return self.name

    def parts(self, spec: Spec) -> tuple[Part, ...]:
        """U8 codes ``[N, K / 2]``, scales ``[N, K / 16]``, ``[N]`` and ``[1]``."""
        kept, (rows, columns) = DTYPES[self.branch_dtype], spec.shape[-2:]
        return (
            Part("codes", Spec(DTYPES["U8"], (rows, columns // 2))),
            Part("scale", Spec(DTYPES["F8_E4M3"], (rows, columns // 16))),
            Part("channel_scale", Spec(kept, (rows,))),
            Part("global_scale", Spec(kept, (1,))),
        )

    def decode(self, parts: Mapping[str, Array], spec: Spec, start: int, stop: int, out: Array) -> None:
        """The code times the product of its three scales."""
        from ..numerics.decode import by_table

        kept = DTYPES[self.branch_dtype]
        stored = np.asarray(parts["scale"]).view(np.uint8).reshape(spec.rows, -1)[start:stop]
        scales = FORMATS["e4m3fn"].values()[stored]
        scales *= widened(np.asarray(parts["channel_scale"]), kept).reshape(-1, 1)[start:stop]
        scales *= widened(np.asarray(parts["global_scale"]), kept).reshape(-1)
        codes = unpacked(parts["codes"], stop - start, 4)
        by_table(codes, FORMATS["e2m1"].values(), 1, 16, scales, np.zeros_like(scales), out)


@dataclass(frozen=True)
class SmoothedFp4(_Smoothed, _Fp4):
    """E2M1 codes under E4M3 scales."""

    name: ClassVar[str] = "smoothed_fp4"
    summary: ClassVar[str] = "SVDQuant: 4-bit floats of smoothed columns, and a branch of low rank"
