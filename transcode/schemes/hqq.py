"""hqq: unsigned codes of few bits less a zero point, times a scale: Half-Quadratic Quantization."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from typing import Any, ClassVar

import numpy as np

from ..core.constraint import Constraint
from ..core.dtypes import DTYPES
from ..core.records import dataclass
from ..core.scheme import Hints
from ..core.spec import Part, Spec
from ..errors import DataError
from .base import GROUPS, SCALE_DTYPES, Array, Base, stored_scale, widened
from .scaled import KEPT

__all__ = ["Hqq"]

_NAME = 14
"""Bytes of the longest name of a dtype in torch."""
_NAMES = {"torch.float32": "F32", "torch.float16": "F16", "torch.bfloat16": "BF16"}


@dataclass(frozen=True)
class Hqq(Base):
    """``value = (code - zero) * scale``, each step rounded to the dtype that torch computes it in
    (``Quantizer.dequantize`` of ``hqq/core/quantize.py`` in mobiusml/hqq). It is only decoded.

    Args:
        bits: of a code: 8, 4, 3, 2 or 1.
        group_size: values that share a scale and a zero point.
        axis: 1 where a group is that many values one behind the other, over the ends of rows too; 0 where it
            is every ``n``-th value of all, ``n`` being the number of groups.
        scale_dtype: ``"source"``, ``"F32"``, ``"BF16"`` or ``"F16"``, that of scales and zero points.
    """

    name: ClassVar[str] = "hqq"
    summary: ClassVar[str] = "1 to 8-bit codes less a zero point in floats, times a scale (HQQ)"
    observes: ClassVar[bool] = False
    options: ClassVar[Mapping[str, Constraint]] = {
        "bits": Constraint.among(4, 8, 3, 2, 1),
        "group_size": Constraint("a number of values", (64, 128), lambda n: type(n) is int and n > 0),
        "axis": Constraint.among(1, 0),
        "scale_dtype": SCALE_DTYPES,
    }

    bits: int = 4
    group_size: int = 64
    axis: int = 1
    scale_dtype: str = "source"

    @classmethod
    def variants(cls, options: Mapping[str, Any], hints: Hints) -> Iterator[Hqq]:
        """Each width, size of groups and axis."""
        if hints.scale not in KEPT:
            return
        for bits in cls.options["bits"].cases:
            for size in dict.fromkeys((*sorted(hints.groups), *GROUPS, 8)):
                for axis in (1, 0):
                    yield cls(bits, size, axis, hints.scale)

    def meaning(self, spec: Spec) -> Hashable:
        """Width, groups and axis."""
        return self.name, self.bits, self.group_size, self.axis

    @property
    def multiple(self) -> tuple[int, int]:
        """Whole bytes of eight codes: groups may reach over rows."""
        return 1, 8

    def undecodable(self, spec: Spec) -> str | None:
        """See :meth:`.core.scheme.Scheme.undecodable`."""
        if len(spec.shape) != 2 or spec.numel % self.group_size:
            return f"{list(spec.shape)} is no matrix of whole groups of {self.group_size}"
        return self.refuses(spec)

    def parts(self, spec: Spec) -> tuple[Part, ...]:
        """U8 codes ``[N, K * bits / 8]``, scales and zero points ``[groups, 1]`` or ``[1, groups]``, and the
        name of the dtype that it computes in, U8.
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

    def grain(self, spec: Spec) -> int:
        """One row."""
        return 1

    def decode(self, parts: Mapping[str, Array], spec: Spec, start: int, stop: int, out: Array) -> None:
        """See :meth:`.core.scheme.Scheme.decode`. Raises DataError for a dtype that is not known."""
        from ..codecs.strips import spread

        kept = stored_scale(self.scale_dtype, spec.dtype)
        named = bytes(np.asarray(parts["compute_dtype"])).decode("ascii", "replace").strip()
        if named not in _NAMES:
            raise DataError(f"says that it computes in {named!r}", hint=f"known: {', '.join(_NAMES)}")
        rounded = _ROUNDED[_promoted(_NAMES[named], kept.name)]
        scales, zeros = (
            widened(np.asarray(parts[role]), kept).reshape(-1) for role in ("scale", "zero_point")
        )
        places = np.arange(start * spec.columns, stop * spec.columns)
        groups = places // self.group_size if self.axis else places % len(scales)
        values = spread(parts["codes"], self.bits).astype(np.float32)
        np.subtract(values, zeros[groups], out=values)
        np.multiply(rounded(values), scales[groups], out=values)
        out[:] = rounded(values).reshape(out.shape)


def _promoted(one: str, other: str) -> str:
    """The dtype that torch computes two floats in."""
    return one if one == other else "F32"


def _bf16(values: Array) -> Array:
    """To the nearest BF16, ties to even."""
    bits = values.view(np.uint32)
    bits += np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))
    bits &= np.uint32(0xFFFF0000)
    return values


def _f16(values: Array) -> Array:
    with np.errstate(over="ignore"):
        return values.astype(np.float16).astype(np.float32)


_ROUNDED = {"F32": lambda values: values, "F16": _f16, "BF16": _bf16}
