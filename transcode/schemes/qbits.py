"""qbits: unsigned codes of 4 or 2 bits times a scale, less a shift: a QBitsTensor of optimum-quanto."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from typing import Any, ClassVar, Self

import numpy as np

from ..codecs.strips import shared, spread
from ..core.constraint import Constraint
from ..core.dtypes import DTYPES, DType
from ..core.expr import Piece
from ..core.records import dataclass
from ..core.scheme import Hints
from ..core.scratch import Scratch
from ..core.spec import Part, Spec
from .affine import Affine, fitted
from .base import SCALE_DTYPES, SEARCH, Array, Fitted, encode_one, narrowed, stored_scale, widened
from .rounding import ROUNDED
from .scaled import KEPT

__all__ = ["QBits"]


@dataclass(frozen=True)
class QBits(Fitted):
    """``value = code * scale - shift``, each step rounded to the dtype of the scales (``QBitsDequantizer`` of
    ``tensor/qbits.py`` in huggingface/optimum-quanto).

    How many columns share a scale follows from their number, see :func:`..codecs.strips.shared`. Scale and
    ``-shift`` are the line of least squares through the codes, as those of :class:`.affine.Affine`.

    Args:
        bits: of a code: 4 or 2.
        scale_dtype: ``"source"``, ``"F32"``, ``"BF16"`` or ``"F16"``, that of scales and shifts, in which
            quanto computes; source means F32 for F16 and F64 sources.
        optimize: ``"mse"`` fits from nine scales and offsets of a group, and keeps the best.
    """

    name: ClassVar[str] = "qbits"
    summary: ClassVar[str] = "4 or 2-bit codes times a scale, less a shift (quanto)"
    observes: ClassVar[bool] = False
    options: ClassVar[Mapping[str, Constraint]] = {
        "bits": Constraint.among(4, 2),
        "scale_dtype": SCALE_DTYPES,
        "optimize": SEARCH,
    }

    bits: int = 4
    scale_dtype: str = "source"
    optimize: str = "none"

    @classmethod
    def variants(cls, options: Mapping[str, Any], hints: Hints) -> Iterator[Self]:
        """Each width."""
        if hints.scale in KEPT:
            for bits in cls.options["bits"].cases:
                yield cls(bits, hints.scale)

    def meaning(self, spec: Spec) -> Hashable:
        """Width: the dtype of the steps is seen."""
        return self.name, self.bits

    @property
    def multiple(self) -> tuple[int, int]:
        """Columns whose codes fill whole bytes, eight at a time."""
        return 1, 8

    def parts(self, spec: Spec) -> tuple[Part, ...]:
        """U8 codes ``[.., N, K * bits / 8]``, scales and shifts ``[groups, 1]``."""
        *outer, columns = spec.shape
        count = spec.numel // max(shared(columns), 1)
        kept = Spec(stored_scale(self.scale_dtype, spec.dtype), (count, 1))
        codes = Spec(DTYPES["U8"], (*outer, columns * self.bits // 8))
        return Part("codes", codes), Part("scale", kept), Part("shift", kept)

    def prepare(self, dtype: DType) -> None:
        """Compile what encoding tensors of this dtype needs, by encoding a small one."""
        encode_one(self.encode, dtype, self.multiple[1])

    def encode(
        self, rows: Array, spec: Spec, start: int, stats: Any, scratch: Scratch,
        weights: Array | None = None,
    ) -> Iterator[Piece]:  # fmt: skip
        """See :meth:`.core.scheme.Scheme.encode`."""
        kept, size = stored_scale(self.scale_dtype, spec.dtype), shared(spec.columns)
        line = Affine(self.bits, size, kept.name, self.optimize)
        codes, scales, offsets = fitted(rows, spec, line, kept, scratch, weights)
        at = start * (spec.columns // size) * kept.itemsize
        yield Piece("codes", start * codes.shape[1], codes)
        yield Piece("scale", at, narrowed(scales, kept, scratch))
        yield Piece("shift", at, narrowed(np.negative(offsets, out=offsets), kept, scratch))

    def decode(self, parts: Mapping[str, Array], spec: Spec, start: int, stop: int, out: Array) -> None:
        """See :meth:`.core.scheme.Scheme.decode`."""
        kept = stored_scale(self.scale_dtype, spec.dtype)
        rounded, size = ROUNDED[kept.name], shared(spec.columns)
        per = spec.columns // size
        scales, shifts = (
            widened(np.asarray(parts[role]), kept).reshape(-1, 1)[start * per : stop * per]
            for role in ("scale", "shift")
        )
        values = spread(parts["codes"], self.bits).astype(np.float32).reshape(-1, size)
        np.multiply(values, scales, out=values)
        np.subtract(rounded(values), shifts, out=values)
        out[:] = rounded(values).reshape(out.shape)
