"""NVFP4 in blocks of GGUF: E2M1 in groups of 16 under unsigned E4M3, four groups to a block."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Self

import numpy as np

from ..core.constraint import Constraint
from ..core.dtypes import DTYPES, DType
from ..core.expr import Piece
from ..core.records import dataclass
from ..core.scheme import Hints
from ..core.scratch import Scratch
from ..core.spec import Part, Spec
from .base import Array
from .ggml_blocks import Encoded
from .nvfp4 import Nvfp4 as Plain
from .packed import together, unpacked

__all__ = ["Nvfp4"]


@dataclass(frozen=True)
class Nvfp4(Encoded):
    """Blocks of NVFP4.

    Args:
        scaled: whether a scale of the tensor stands beside the blocks, F32 ``[1]``, of a stack one to each
            matrix, by which llama.cpp multiplies: codes and scales are then those of the scheme nvfp4.
            Without it they are those of ggml's own quantizer, which has nothing but E4M3 for the size of
            values.
    """

    name: ClassVar[str] = "ggml_nvfp4"
    summary: ClassVar[str] = "GGUF: 4-bit floats, an 8-bit float to each 16 columns"
    stored: ClassVar[str] = "NVFP4"
    options: ClassVar[Mapping[str, Constraint]] = {"scaled": Constraint.among(False, True)}

    scaled: bool = False

    @classmethod
    def variants(cls, options: Mapping[str, Any], hints: Hints) -> Iterator[Self]:
        """With and without the scale, which names tell apart."""
        for scaled in (False, True):
            yield cls(**{**options, "scaled": scaled})

    @property
    def observes(self) -> bool:  # type: ignore[override]
        """Where there is a scale of the tensor."""
        return self.scaled

    def parts(self, spec: Spec) -> tuple[Part, ...]:
        """Blocks, and the scale of each matrix."""
        blocks = super().parts(spec)
        if not self.scaled:
            return blocks
        matrices = spec.shape[0] if len(spec.shape) == 3 else 1
        return (*blocks, Part("tensor_scale", Spec(DTYPES["F32"], (matrices,))))

    def prepare(self, dtype: DType) -> None:
        """Compile what encoding tensors of this dtype needs."""
        if self.scaled:
            Plain().prepare(dtype)
        else:
            super().prepare(dtype)

    def encode(
        self, rows: Array, spec: Spec, start: int, stats: float | None, scratch: Scratch,
        weights: Array | None = None,
    ) -> Iterator[Piece]:  # fmt: skip
        """See :meth:`.core.scheme.Scheme.encode`."""
        if not self.scaled:
            yield from super().encode(rows, spec, start, stats, scratch, weights)
            return
        data = {piece.role: piece.data for piece in Plain().encode(rows, spec, start, stats, scratch)}
        grid = self.grid(spec)
        assert grid is not None
        blocks = together(unpacked(data["codes"], len(rows), 4), data["scale"], grid, scratch)
        yield Piece("codes", start * blocks.shape[1], blocks)
        if start == 0:
            (whole,) = self.parts(spec)[1:]
            yield Piece("tensor_scale", 0, np.repeat(1 / data["global_scale"], whole.spec.numel))

    def decode(self, parts: Mapping[str, Array], spec: Spec, start: int, stop: int, out: Array) -> None:
        """See :meth:`.core.scheme.Scheme.decode`: as the reference code computes a block, times the scale."""
        super().decode(parts, spec, start, stop, out)
        if self.scaled:
            scales = np.asarray(parts["tensor_scale"], np.float32).reshape(-1)
            matrix = np.arange(start, stop) // (spec.shape[-2] if len(spec.shape) == 3 else spec.rows)
            np.multiply(out, scales[matrix][:, None], out=out)
