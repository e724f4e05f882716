"""int4: codes -8 to 7 times a scale for each group of columns, or with a zero point."""

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
from ..errors import RecipeError
from .base import SCALE_DTYPES, SEARCH, Array, Base, encode_one, fitting, narrowed, stored_scale, widened
from .blocks import Blocks
from .grid import Grid
from .packed import unpacked
from .scaled import KEPT

__all__ = ["DIVISORS", "VALUES", "WEIGHTED", "Int4"]

DIVISORS = {
    "none": (7, 8, 8.75),
    "mse": (*(7 + k / 8 for k in range(25)), *(10 + k / 2 for k in range(1, 9))),
}
"""What ``amax`` is divided by to try a scale.

Under ``amax / 7`` nothing saturates; ``amax / 8`` suits groups whose largest value is negative; from there on
the largest values give way to finer steps for all the others.
"""

WEIGHTED = (*DIVISORS["mse"], *(14 * 4 ** (k / 31) for k in range(1, 32)))
"""The same where columns have weights: a largest value that hardly weighs may be cut to a quarter and less.
"""


@dataclass(frozen=True)
class Int4(Base):
    """4-bit integers, two's complement, two in a byte, the even column in the low nibble.

    Symmetric: ``code = clamp(rne(x / scale), -8, 7)``, where the scale is ``amax`` over 7, 8 or 8.75: the
    first of those with the least squared error in its group, or 7 where ``amax`` is below 2**-56. With a zero
    point: the range is stretched to hold 0, ``scale = (max - min) / 15``, ``zero_point = clamp(rne(-8 - min /
    scale), -8, 7)``, ``code = clamp(rne(x / scale) + zero_point, -8, 7)``, ``value = (code - zero_point) *
    scale``. Scales are treated as those of int8: rounded to their stored dtype first, 1 for a group of zeros.
    Consumers that keep unsigned nibbles add 8 to code and zero point.

    Args:
        group_size: columns that share a scale: 32, 64 or 128.
        symmetric: whether there is no zero point.
        scale_dtype: ``"source"``, ``"F32"``, ``"BF16"`` or ``"F16"``; source means F32 for F16 and F64
            sources.
        optimize: ``"mse"`` tries 33 scales instead of three, down to ``amax / 14``; 64, down to ``amax /
            56``, where columns have weights. With a zero point it tries 16 shares of the range, down to half
            of it, and fits the best one to its codes by least squares. ``"signed"`` tries 32 (or 64) scales
            of either sign, and fits likewise (symmetric only): consumers must not take scales for positive.
    """

    name: ClassVar[str] = "int4"
    summary: ClassVar[str] = "4-bit integers, one scale to a group of columns"
    observes: ClassVar[bool] = False
    options: ClassVar[Mapping[str, Constraint]] = {
        "group_size": Constraint.among(32, 64, 128),
        "symmetric": Constraint.among(True, False),
        "scale_dtype": SCALE_DTYPES,
        "optimize": Constraint.among(*SEARCH.cases, "signed"),
    }

    group_size: int = 64
    symmetric: bool = True
    scale_dtype: str = "source"
    optimize: str = "none"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.optimize == "signed" and not self.symmetric:
            raise RecipeError(
                "int4: optimize cannot be 'signed' of codes with a zero point",
                hint="leave out one of optimize and asymmetric, or use optimize mse",
            )

    @classmethod
    def variants(cls, options: Mapping[str, Any], hints: Hints) -> Iterator[Int4]:
        """Each group size, with a zero point and without."""
        if hints.scale not in KEPT:
            return
        for symmetric in (True, False):
            for size in cls.options["group_size"].cases:
                if not hints.groups or size in hints.groups:
                    yield cls(size, symmetric, hints.scale)

    @property
    def search_seconds(self) -> float:
        """Measured where 33 scales are tried; the other searches have no kernel for GPUs."""
        return 2.5 if self.optimize == "mse" and self.symmetric else 0.0

    def meaning(self, spec: Spec) -> Hashable:
        """Groups, and whether there is a zero point."""
        return self.name, self.group_size, self.symmetric

    def grid(self, spec: Spec) -> Grid | None:
        """See :meth:`.base.Base.grid`."""
        kept = stored_scale(self.scale_dtype, spec.dtype)
        blocks = Blocks(spec, 1, self.group_size)
        return Grid(VALUES, 4, 8.0, blocks, "float", kept, not self.symmetric)

    @property
    def weighs(self) -> bool:
        """Where scales are searched."""
        return self.optimize != "none"

    @property
    def multiple(self) -> tuple[int, int]:
        """Whole blocks of columns."""
        return 1, self.group_size

    def parts(self, spec: Spec) -> tuple[Part, ...]:
        """U8 codes ``[.., N, K / 2]``, scales (and I8 zero points) ``[.., N, K / group_size]``."""
        groups = (*spec.shape[:-1], spec.shape[-1] // self.group_size)
        parts = [
            Part("codes", Spec(DTYPES["U8"], (*spec.shape[:-1], spec.shape[-1] // 2))),
            Part("scale", Spec(stored_scale(self.scale_dtype, spec.dtype), groups)),
        ]
        if not self.symmetric:
            parts.append(Part("zero_point", Spec(DTYPES["I8"], groups)))
        return tuple(parts)

    def prepare(self, dtype: DType) -> None:
        """Compile what encoding tensors of this dtype needs, by encoding a small one."""
        encode_one(self.encode, dtype, self.group_size)

    def encode(
        self, rows: Array, spec: Spec, start: int, stats: float | None, scratch: Scratch,
        weights: Array | None = None,
    ) -> Iterator[Piece]:  # fmt: skip
        """See :meth:`.core.scheme.Scheme.encode`."""
        from ..numerics.encode import integers, integers_signed, integers_weighted, integers_zeroed
        from ..numerics.lanes import STORED
        from ..numerics.rows import as_bits, reject

        kept = stored_scale(self.scale_dtype, spec.dtype)
        stored = STORED[kept.name]
        # A group is as good as a row of its own, and spares the kernel the cutting of rows.
        bits = as_bits(rows, spec.dtype, scratch).reshape(-1, self.group_size)
        codes = scratch.take((len(rows), spec.columns // 2), np.uint8)
        scales = scratch.take((len(bits), 1), np.float32)
        zeros = None if self.symmetric else scratch.take((len(bits), 1), np.int8)
        packed = codes.reshape(-1)
        divisors = np.array(self._tried(weights), np.float32)
        columns = np.ones(spec.columns, np.float32) if weights is None else weights
        if self.optimize == "signed":
            finite = integers_signed(bits, stored, divisors, columns, packed, scales, scratch)
        elif self.weighs and zeros is not None:
            finite = integers_zeroed(bits, stored, columns, packed, scales, zeros, scratch)
        elif self.weighs and weights is not None:
            finite = integers_weighted(bits, stored, divisors, weights, packed, scales, scratch)
        else:
            finite = integers(bits, stored, divisors, packed, scales, zeros, scratch)
        if not finite:
            raise reject(rows, spec.dtype)
        sizes = np.abs(scales) if self.optimize == "signed" else scales
        fitting(rows, spec.dtype, sizes, kept, 7 if self.symmetric else 7.5)
        groups = start * (spec.columns // self.group_size)
        yield Piece("codes", start * codes.shape[1], codes)
        yield Piece("scale", groups * kept.itemsize, narrowed(scales, kept, scratch))
        if zeros is not None:
            yield Piece("zero_point", groups, zeros)

    def _tried(self, weights: Array | None) -> tuple[float, ...]:
        """What the largest magnitude of a group is divided by to try a scale."""
        from ..numerics.nibble_scales import SIGNED

        if weights is not None and self.weighs:
            return WEIGHTED
        return SIGNED if self.optimize == "signed" else DIVISORS[self.optimize]

    def decode(self, parts: Mapping[str, Array], spec: Spec, start: int, stop: int, out: Array) -> None:
        """See :meth:`.core.scheme.Scheme.decode`: the product of code and scale, rounded once to float32."""
        from ..numerics.decode import by_table

        kept = stored_scale(self.scale_dtype, spec.dtype)
        codes = unpacked(parts["codes"], stop - start, 4)
        scales = widened(np.asarray(parts["scale"]), kept).reshape(spec.rows, -1)[start:stop]
        if self.symmetric:
            zeros = np.zeros_like(scales)
        else:
            zeros = np.asarray(parts["zero_point"]).reshape(spec.rows, -1)[start:stop].astype(np.float32)
        by_table(codes, VALUES, 1, self.group_size, np.ascontiguousarray(scales), zeros, out)


VALUES = np.array([*range(8), *range(-8, 0)], np.float32)
"""Value of each nibble."""
