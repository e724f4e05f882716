"""nvfp4 of columns that were divided by a scale each, by which the consumer multiplies its inputs."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from typing import Any, ClassVar

import numpy as np

from ..core.constraint import Constraint
from ..core.dtypes import DTYPES, DType
from ..core.expr import Piece
from ..core.records import dataclass
from ..core.scheme import Hints
from ..core.scratch import Scratch
from ..core.spec import Part, Spec
from .base import SCALE_DTYPES, Array, narrowed, stored_scale, widened
from .grid import Grid
from .nvfp4 import Nvfp4
from .scaled import KEPT

__all__ = ["Nvfp4Awq"]

_RANGE = 14
"""Exponents of the scales of columns lie between minus this and this, so that F16 holds them."""


@dataclass(frozen=True)
class Nvfp4Awq(Nvfp4):
    """``value = nvfp4(w / p) * p`` with a scale p of each column, which the consumer takes to its inputs.

    The scale of a column is the power of two nearest to the root of its largest magnitude over the
    geometric mean of all: half of what sticks out goes to the inputs, and as it is a power of two nothing is
    rounded.
    That is a choice from the weights alone; whose inputs are known chooses better (AWQ, SmoothQuant), and
    such files are decoded alike. Consumers call it ``pre_quant_scale``.

    Args:
        optimize, global_scale_dtype: as for :class:`.nvfp4.Nvfp4`.
        scale_dtype: dtype of the scales of columns: ``"source"``, ``"F32"``, ``"BF16"`` or ``"F16"``; source
            means F32 for F16 and F64 sources.
    """

    name: ClassVar[str] = "nvfp4_awq"
    summary: ClassVar[str] = "nvfp4 of columns that share their largest values with the inputs"
    options: ClassVar[Mapping[str, Constraint]] = {**Nvfp4.options, "scale_dtype": SCALE_DTYPES}

    scale_dtype: str = "source"

    @classmethod
    def variants(cls, options: Mapping[str, Any], hints: Hints) -> Iterator[Nvfp4Awq]:
        """Each dtype of the scales of columns."""
        for kept in KEPT:
            yield cls(**{**options, "scale_dtype": kept})

    @property
    def light(self) -> bool:
        """No: columns are scaled in float32 before they are encoded."""
        return False

    def grid(self, spec: Spec) -> Grid | None:
        """None: columns have scales too."""
        return None

    def meaning(self, spec: Spec) -> Hashable:
        """Its name: dtypes are seen."""
        return self.name

    def parts(self, spec: Spec) -> tuple[Part, ...]:
        """Those of nvfp4, and the scales of columns ``[K]``."""
        kept = stored_scale(self.scale_dtype, spec.dtype)
        return (*super().parts(spec), Part("column_scale", Spec(kept, spec.shape[-1:])))

    def observe(self, rows: Array, dtype: DType) -> Array:
        """Largest magnitude in each column, float32 ``[K]``. Raises ``NonFinite``."""
        from ..numerics.rows import as_bits, reject

        bits = as_bits(rows, dtype)
        sizes = (bits & bits.dtype.type((1 << (8 * bits.dtype.itemsize - 1)) - 1)).max(0)
        peaks = _values(sizes, np.empty(sizes.shape, np.float32))
        if not np.isfinite(peaks).all():
            raise reject(rows, dtype)
        return peaks

    def merge(self, one: Array, other: Array) -> Array:
        """The larger ones."""
        return np.maximum(one, other)

    def encode(
        self, rows: Array, spec: Spec, start: int, stats: Any, scratch: Scratch,
        weights: Array | None = None,
    ) -> Iterator[Piece]:  # fmt: skip
        """See :meth:`.core.scheme.Scheme.encode`; ``stats`` are the peaks of columns."""
        from ..numerics.rows import as_bits

        columns = _column_scales(stats)
        bits = as_bits(rows, spec.dtype, scratch)
        wide = _values(bits, scratch.take(bits.shape, np.float32))
        wide *= 1 / columns
        wide.setflags(write=False)
        inner = Spec(DTYPES["F32"], spec.shape)
        if weights is not None:  # what is lost of a column is multiplied by its scale
            weights = weights * np.square(columns)
        yield from super().encode(wide, inner, start, float((stats / columns).max()), scratch, weights)
        if start == 0:
            yield Piece(
                "column_scale", 0, narrowed(columns, stored_scale(self.scale_dtype, spec.dtype), scratch)
            )

    def decode(self, parts: Mapping[str, Array], spec: Spec, start: int, stop: int, out: Array) -> None:
        """See :meth:`.core.scheme.Scheme.decode`: the value of nvfp4 times the scale of its column."""
        super().decode(parts, spec, start, stop, out)
        kept = stored_scale(self.scale_dtype, spec.dtype)
        out *= widened(np.asarray(parts["column_scale"]), kept).reshape(-1)


def _values(bits: Array, out: Array) -> Array:
    """What bits mean that kernels take, float32; see :func:`..numerics.rows.as_bits`."""
    if bits.dtype == np.uint16:
        np.left_shift(bits, np.uint32(16), out=out.view(np.uint32), dtype=np.uint32, casting="unsafe")
    else:
        with np.errstate(invalid="ignore"):
            np.copyto(out, bits.view(np.float16 if bits.dtype == np.int16 else np.float32))
    return out


def _column_scales(peaks: Array) -> Array:
    """The scales of columns for their peaks, float32 ``[K]``: powers of two, 1 for a column of zeros."""
    filled = peaks > 0
    logarithms = np.log2(peaks, out=np.zeros(peaks.shape), where=filled, dtype=np.float64)
    mean = logarithms.sum() / max(int(filled.sum()), 1)
    exponents = np.where(filled, np.clip(np.rint((logarithms - mean) / 2), -_RANGE, _RANGE), 0)
    return np.ldexp(np.float32(1), exponents.astype(np.int32)).astype(np.float32)
