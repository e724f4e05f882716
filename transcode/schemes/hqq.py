"""hqq: unsigned codes of few bits less a zero point, times a scale: Half-Quadratic Quantization."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from typing import Any, ClassVar, Self

import numpy as np

from ..core.constraint import Constraint
from ..core.dtypes import DTYPES, DType
from ..core.expr import Piece
from ..core.records import dataclass
from ..core.scheme import Hints
from ..core.scratch import Scratch
from ..core.spec import Part, Spec
from ..errors import DataError
from .affine import fitted, seconds
from .base import GROUPS, SCALE_DTYPES, SEARCH, Array, Fitted, encode_one, narrowed, stored_scale, widened
from .rounding import ROUNDED
from .scaled import KEPT

__all__ = ["Hqq", "HqqColumns"]

_NAME = 14
"""Bytes of the longest name of a dtype in torch."""
_BITS = (4, 8, 3, 2, 1)
_FINE = np.float32(1 / 16)
"""Share of a step that the rounding of a zero point may move a line by, before codes are looked for anew."""
_NAMES = {"torch.float32": "F32", "torch.float16": "F16", "torch.bfloat16": "BF16"}


@dataclass(frozen=True)
class Hqq(Fitted):
    """``value = (code - zero) * scale``, each step rounded to the dtype that torch computes it in
    (``Quantizer.dequantize`` of ``hqq/core/quantize.py`` in mobiusml/hqq), which is that of the scales where
    it is made here.

    Scale and ``-zero * scale`` are the line of least squares through the codes, as those of
    :class:`.affine.Affine`, whose codes are these.

    Args:
        bits: of a code: 8, 4, 3, 2 or 1.
        group_size: values that share a scale and a zero point: one behind the other, in files of others over
            the ends of rows too.
        scale_dtype: ``"source"``, ``"F32"``, ``"BF16"`` or ``"F16"``, that of scales and zero points; source
            means F32 for F16 and F64 sources.
        optimize: ``"mse"`` fits from nine scales and offsets of a group, and keeps the best.
    """

    name: ClassVar[str] = "hqq"
    summary: ClassVar[str] = "1 to 8-bit codes less a zero point in floats, times a scale (HQQ)"
    observes: ClassVar[bool] = False
    options: ClassVar[Mapping[str, Constraint]] = {
        "bits": Constraint("8, 4, 3, 2 or 1", (4, 3), lambda n: type(n) is int and n in _BITS),
        "group_size": Constraint(
            "a multiple of 8 columns", (64, 32), lambda n: type(n) is int and n > 0 and not n % 8
        ),
        "scale_dtype": SCALE_DTYPES,
        "optimize": SEARCH,
    }
    axis: ClassVar[int] = 1

    bits: int = 4
    group_size: int = 64
    scale_dtype: str = "source"
    optimize: str = "none"

    @classmethod
    def variants(cls, options: Mapping[str, Any], hints: Hints) -> Iterator[Self]:
        """Each width and size of groups."""
        if hints.scale not in KEPT:
            return
        for bits in _BITS:
            for size in dict.fromkeys((*sorted(hints.groups), *GROUPS, 8)):
                if cls.options["group_size"].holds(size):
                    yield cls(bits, size, hints.scale)

    def meaning(self, spec: Spec) -> Hashable:
        """Width and groups."""
        return self.name, self.bits, self.group_size

    @property
    def search_seconds(self) -> float:
        """See :func:`.affine.seconds`."""
        return seconds(self.optimize)

    @property
    def multiple(self) -> tuple[int, int]:
        """Whole groups of columns."""
        return 1, self.group_size

    def refuses(self, spec: Spec) -> str | None:
        """See :meth:`.core.scheme.Scheme.refuses`: also rows whose groups cannot be cut into runs."""
        runs = 8 // self.bits if self.bits != 3 else 1
        groups = spec.numel // self.group_size
        if len(spec.shape) == 2 and groups % runs:
            return f"{groups} groups are not a multiple of {runs}, codes of a byte"
        return super().refuses(spec)

    def undecodable(self, spec: Spec) -> str | None:
        """See :meth:`.core.scheme.Scheme.undecodable`: groups may reach over rows."""
        if len(spec.shape) != 2 or not spec.numel or spec.numel % self.group_size or spec.columns % 8:
            return f"{list(spec.shape)} is no matrix of whole groups of {self.group_size}"
        return None

    def parts(self, spec: Spec) -> tuple[Part, ...]:
        """U8 codes ``[.., N, K * bits / 8]``, scales and zero points ``[groups, 1]`` or ``[1, groups]``, and
        the name of the dtype that it computes in, U8.
        """
        count = spec.numel // self.group_size
        kept = Spec(stored_scale(self.scale_dtype, spec.dtype), (count, 1) if self.axis else (1, count))
        *outer, columns = spec.shape
        return (
            Part("codes", Spec(DTYPES["U8"], (*outer, columns * self.bits // 8))),
            Part("scale", kept),
            Part("zero_point", kept),
            Part("compute_dtype", Spec(DTYPES["U8"], (_NAME,))),
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
        codes, scales, offsets = fitted(rows, spec, self, kept, scratch, weights)
        zeros = self._zeros(rows, spec, codes, scales, offsets, kept, scratch)
        yield Piece("codes", start * codes.shape[1], codes)
        at = start * (spec.columns // self.group_size) * kept.itemsize
        yield Piece("scale", at, narrowed(scales, kept, scratch))
        yield Piece("zero_point", at, narrowed(zeros, kept, scratch))
        if start == 0:
            yield Piece("compute_dtype", 0, _named(kept))

    def _zeros(
        self, rows: Array, spec: Spec, codes: Array, scales: Array, offsets: Array, kept: DType,
        scratch: Scratch,
    ) -> Array:  # fmt: skip
        """Zero points of lines; where rounding one moves its line, other codes or another scale."""
        from ..codecs.strips import joined
        from ..numerics.rows import as_float32

        rounded, top = ROUNDED[kept.name], np.float32(2**self.bits - 1)
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            zeros: Array = rounded(-offsets / scales)
            moved = np.abs(zeros * scales + offsets) / scales
        if (rough := ~(moved <= _FINE)).any():
            values = as_float32(rows, spec.dtype, scratch).reshape(len(scales), -1)[rough]
            # Far from zero, where values hardly differ: all are the scale, less a zero point of -1.
            far = ~(moved[rough] <= top / 4)
            middle = rounded(values.min(1) / 2 + values.max(1) / 2)
            scales[rough] = np.where(far, middle, scales[rough])
            zeros[rough] = np.where(far, np.float32(-1), zeros[rough])
            with np.errstate(divide="ignore", invalid="ignore"):  # a scale of 0 is of a group of zeros
                steps = np.rint(values / scales[rough, None] + zeros[rough, None])
            those = joined(np.clip(steps, 0, top).astype(np.uint8), self.bits)
            codes.reshape(len(scales), -1)[rough] = those.reshape(int(rough.sum()), -1)
        return zeros

    def decode(self, parts: Mapping[str, Array], spec: Spec, start: int, stop: int, out: Array) -> None:
        """See :meth:`.core.scheme.Scheme.decode`. Raises DataError for a dtype that is not known."""
        from ..codecs.strips import spread

        kept = stored_scale(self.scale_dtype, spec.dtype)
        named = bytes(np.asarray(parts["compute_dtype"])).decode("ascii", "replace").strip()
        if named not in _NAMES:
            raise DataError(f"says that it computes in {named!r}", hint=f"known: {', '.join(_NAMES)}")
        rounded = ROUNDED[_promoted(_NAMES[named], kept.name)]
        scales, zeros = (
            widened(np.asarray(parts[role]), kept).reshape(-1) for role in ("scale", "zero_point")
        )
        places = np.arange(start * spec.columns, stop * spec.columns)
        groups = places // self.group_size if self.axis else places % len(scales)
        values = spread(parts["codes"], self.bits).astype(np.float32)
        np.subtract(values, zeros[groups], out=values)
        np.multiply(rounded(values), scales[groups], out=values)
        out[:] = rounded(values).reshape(out.shape)


@dataclass(frozen=True)
class HqqColumns(Hqq):
    """The same with groups of every ``n``-th value of all, ``n`` being the number of groups (``axis=0`` of
    hqq). It is only decoded: no row holds a group.
    """

    name: ClassVar[str] = "hqq_columns"
    summary: ClassVar[str] = "HQQ, in groups of every n-th value"
    axis: ClassVar[int] = 0


def _named(dtype: DType) -> Array:
    """What torch calls a dtype, with blanks behind it."""
    called = next(name for name, known in _NAMES.items() if known == dtype.name)
    return np.frombuffer(called.ljust(_NAME).encode(), np.uint8)


def _promoted(one: str, other: str) -> str:
    """The dtype that torch computes two floats in."""
    return one if one == other else "F32"
