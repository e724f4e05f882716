"""awq_w4a16: 4-bit codes under a scale and an offset, both floats, to a group of columns."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from functools import partial
from typing import Any, ClassVar

import numpy as np

from ..core.constraint import Constraint
from ..core.dtypes import DTYPES, DType
from ..core.expr import Piece
from ..core.records import dataclass
from ..core.scheme import Hints
from ..core.scratch import Scratch
from ..core.spec import Part, Spec
from .affine import fitted, fitted_by, seconds
from .base import SCALE_DTYPES, SEARCH, Array, Fitted, encode_one, narrowed, stored_scale, widened
from .packed import unpacked
from .scaled import KEPT

__all__ = ["AwqW4A16"]

_MIDDLE = 8
"""The code that stands for the offset."""


@dataclass(frozen=True)
class AwqW4A16(Fitted):
    """Unsigned 4-bit codes, two in a byte, the even column in the low nibble: ``value = (code - 8) * scale +
    offset`` (``tensor/awq_w4a16.py`` of comfy_kitchen).

    Scale and offset are those of least squares for the nearest codes, found by turns from the range of a
    group; of what was found on the way that is kept which loses least, as it is stored.

    Args:
        group_size: columns that share a scale and an offset: 32, 64 or 128.
        scale_dtype: ``"source"``, ``"F32"``, ``"BF16"`` or ``"F16"``; source means F32 for F16 and F64
            sources.
        optimize: ``"mse"`` fits from nine scales and offsets of a group, and keeps the best.
    """

    name: ClassVar[str] = "awq_w4a16"
    summary: ClassVar[str] = "4-bit codes, a scale and an offset in floats to a group of columns"
    observes: ClassVar[bool] = False
    options: ClassVar[Mapping[str, Constraint]] = {
        "group_size": Constraint.among(32, 64, 128),
        "scale_dtype": SCALE_DTYPES,
        "optimize": SEARCH,
    }
    bits: ClassVar[int] = 4

    group_size: int = 64
    scale_dtype: str = "source"
    optimize: str = "none"

    @classmethod
    def variants(cls, options: Mapping[str, Any], hints: Hints) -> Iterator[AwqW4A16]:
        """Each group size."""
        if hints.scale not in KEPT:
            return
        for size in cls.options["group_size"].cases:
            if not hints.groups or size in hints.groups:
                yield cls(size, hints.scale)

    @property
    def search_seconds(self) -> float:
        """Measured where a line is fitted four times; see :func:`.affine.seconds`."""
        return seconds("mse") if self.optimize == "mse" else 1.5

    def meaning(self, spec: Spec) -> Hashable:
        """Groups."""
        return self.name, self.group_size

    @property
    def multiple(self) -> tuple[int, int]:
        """Whole groups of columns."""
        return 1, self.group_size

    def parts(self, spec: Spec) -> tuple[Part, ...]:
        """U8 codes ``[.., N, K / 2]``, scales and offsets ``[.., N, K / group_size]``."""
        groups = (*spec.shape[:-1], spec.shape[-1] // self.group_size)
        kept = stored_scale(self.scale_dtype, spec.dtype)
        return (
            Part("codes", Spec(DTYPES["U8"], (*spec.shape[:-1], spec.shape[-1] // 2))),
            Part("scale", Spec(kept, groups)),
            Part("offset", Spec(kept, groups)),
        )

    def prepare(self, dtype: DType) -> None:
        """Compile what encoding tensors of this dtype needs, by encoding a small one."""
        encode_one(self.encode, dtype, self.group_size)

    def encode(
        self, rows: Array, spec: Spec, start: int, stats: Any, scratch: Scratch,
        weights: Array | None = None,
    ) -> Iterator[Piece]:  # fmt: skip
        """See :meth:`.core.scheme.Scheme.encode`."""
        kept = stored_scale(self.scale_dtype, spec.dtype)
        fit = self._sideways if self.optimize == "none" else partial(fitted, scheme=self, middle=_MIDDLE)
        codes, scales, offsets = fit(rows=rows, spec=spec, kept=kept, scratch=scratch, weights=weights)
        at = start * (spec.columns // self.group_size) * kept.itemsize
        yield Piece("codes", start * codes.shape[1], codes)
        yield Piece("scale", at, narrowed(scales, kept, scratch))
        yield Piece("offset", at, narrowed(offsets, kept, scratch))

    def _sideways(
        self, rows: Array, spec: Spec, kept: DType, scratch: Scratch, weights: Array | None
    ) -> tuple[Array, Array, Array]:
        """As :func:`.affine.fitted`, from one start, sixteen groups side by side."""
        from ..numerics.affine import affine, work
        from ..numerics.lanes import STORED

        room = work(self.group_size, scratch)

        def fit(bits: Array, heavy: Array, codes: Array, scales: Array, offsets: Array) -> bool:
            return bool(affine(bits, self.group_size, STORED[kept.name], heavy, room, codes, scales, offsets))

        return fitted_by(fit, rows, spec, self, kept, scratch, weights)

    def decode(self, parts: Mapping[str, Array], spec: Spec, start: int, stop: int, out: Array) -> None:
        """See :meth:`.core.scheme.Scheme.decode`: product and sum, each rounded to float32."""
        kept = stored_scale(self.scale_dtype, spec.dtype)
        scales, offsets = (
            widened(np.asarray(parts[role]), kept).reshape(spec.rows, -1, 1)[start:stop]
            for role in ("scale", "offset")
        )
        np.subtract(unpacked(parts["codes"], stop - start, 4), np.float32(_MIDDLE), out=out, casting="unsafe")
        groups = out.reshape(stop - start, -1, self.group_size)
        groups *= scales
        groups += offsets
