"""SVDQuant's encodings, as nunchaku keeps them: 4-bit codes by scales that come from a calibration.

Layouts are those of DeepCompressor (``deepcompressor/backend/nunchaku/convert.py`` and
``backend/tinychat/utils.py``).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import ClassVar

import numpy as np

from ..core.dtypes import DTYPES, DType
from ..core.records import dataclass
from ..core.spec import Part, Spec
from .base import Array

__all__ = ["W4A16", "Calibrated", "SvdqFp4", "SvdqInt4"]

_WARP = 128
_RANKS = 16


class Calibrated:
    """What the three have alike: their scales are given, so codes must fit.

    Attributes:
        group: columns that share a scale, which is all that nunchaku's kernels know.
        tile: groups of a row are stored in multiples of this.
        codes: what the codes can hold, in words.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    made_by: ClassVar[str] = "make it with `transcode nunchaku convert`, of what DeepCompressor saved"
    group: ClassVar[int]
    tile: ClassVar[int]
    codes: ClassVar[str]

    @property
    @abstractmethod
    def kernel(self) -> Callable[..., int]:
        """What makes the codes, see :mod:`~transcode.numerics.nunchaku`."""

    @abstractmethod
    def quotients(self, values: Array, outer: Array, inner: Array) -> tuple[Array, Array]:
        """Float32 values over their scales, as the kernel rounds them, and which of them have a code."""

    def groups(self, count: int) -> int:
        """Groups of a row as they are stored."""
        return _up(count, self.tile)

    @property
    def search_seconds(self) -> float:
        """Nothing is searched: scales are given."""
        return 0.0

    @property
    def light(self) -> bool:
        """Nothing is searched: scales are given."""
        return True

    def prepare(self, dtype: DType) -> None:
        """Compile the kernel for weights of this dtype."""
        from ..numerics.rows import as_bits

        one = np.ones((1, 1), np.float32)
        rows = as_bits(np.zeros((1, 16), dtype.carrier), dtype)
        self.kernel(rows, one, one, np.empty((1, 16), np.uint8), 0, 1)


@dataclass(frozen=True)
class _Linear(Calibrated):
    """A linear layer: residual weight in 4 bits, smoothing factors, a low-rank branch of 16 bits.

    Args:
        levels: roles of its levels of scales, the coarser first.
        rank: of the low-rank branch, 0 where there is none.
    """

    scale_dtype: ClassVar[str | None] = None
    """Dtype of the scales of groups; None for that of the weight."""

    levels: tuple[str, ...] = ("scale",)
    rank: int = 0

    def parts(self, spec: Spec) -> tuple[Part, ...]:
        """Those of a weight ``[N, K]``: N and K padded to 128s, the rank to 16s."""
        rows, columns = spec.shape
        n, k, rank = _up(rows, _WARP), _up(columns, _WARP), _up(self.rank, _RANKS)
        shapes: dict[str, tuple[int, ...]] = {
            "global_scale": (1,),
            "channel_scale": (n,),
            "scale": (self.groups(columns // self.group), n),
        }
        parts = [Part("codes", Spec(DTYPES["I8"], (n, k // 2)))]
        for role in self.levels:
            own = spec.dtype if role != "scale" or self.scale_dtype is None else DTYPES[self.scale_dtype]
            parts.append(Part(role, Spec(own, shapes[role])))
        others: dict[str, tuple[int, ...]] = {"bias": (n,), "smooth": (k,), "smooth_orig": (k,)}
        if rank:
            others |= {"lora_down": (k, rank), "lora_up": (n, rank)}
        return (*parts, *(Part(role, Spec(spec.dtype, shape)) for role, shape in others.items()))


@dataclass(frozen=True)
class SvdqInt4(_Linear):
    """W4A4: codes -8 to 7, a scale of 16 bits to each 64 columns; arguments as for :class:`_Linear`."""

    name: ClassVar[str] = "svdq_int4"
    summary: ClassVar[str] = "4-bit integers, and a low-rank branch"
    group: ClassVar[int] = 64
    tile: ClassVar[int] = 2
    codes: ClassVar[str] = "-8..7"

    @property
    def kernel(self) -> Callable[..., int]:
        """:func:`.numerics.nunchaku.int4`."""
        from ..numerics.nunchaku import int4

        return int4

    def quotients(self, values: Array, outer: Array, inner: Array) -> tuple[Array, Array]:
        """Over the outer scale, then over the inner one; -8 to 7 once rounded."""
        over = _over(values, outer, inner)
        whole = np.rint(over)
        return over, (whole >= -8) & (whole <= 7)


@dataclass(frozen=True)
class SvdqFp4(_Linear):
    """W4A4: E2M1, an E4M3 scale to each 16 columns; arguments as for :class:`_Linear`."""

    name: ClassVar[str] = "svdq_fp4"
    summary: ClassVar[str] = "4-bit floats under E4M3 scales, and a low-rank branch"
    group: ClassVar[int] = 16
    tile: ClassVar[int] = 4
    codes: ClassVar[str] = "the finite numbers"
    scale_dtype: ClassVar[str | None] = "F8_E4M3"

    @property
    def kernel(self) -> Callable[..., int]:
        """:func:`.numerics.nunchaku.fp4`."""
        from ..numerics.nunchaku import fp4

        return fp4

    def quotients(self, values: Array, outer: Array, inner: Array) -> tuple[Array, Array]:
        """Over the outer scale, then over the inner one; what is finite saturates."""
        over = _over(values, outer, inner)
        return over, np.isfinite(over)


@dataclass(frozen=True)
class W4A16(Calibrated):
    """A projection whose inputs stay in 16 bits: codes 0 to 15, a scale and a zero point to each 64 columns.

    Args:
        bias_dtype: dtype of the bias; ``"source"`` for that of the weight.
    """

    name: ClassVar[str] = "w4a16"
    summary: ClassVar[str] = "4-bit integers with zero points, for inputs of 16 bits"
    group: ClassVar[int] = 64
    tile: ClassVar[int] = 16
    codes: ClassVar[str] = "0..15"

    bias_dtype: str = "source"

    @property
    def kernel(self) -> Callable[..., int]:
        """:func:`.numerics.nunchaku.with_offset`."""
        from ..numerics.nunchaku import with_offset

        return with_offset

    def quotients(self, values: Array, outer: Array, inner: Array) -> tuple[Array, Array]:
        """Seven scales are added before the division; 0 to 15 once rounded. There is no outer scale."""
        with np.errstate(all="ignore"):
            seven = np.float32(7)
            over = np.where((values == 0) & (inner == 0), seven, (values + seven * inner) / inner)
            whole = np.rint(over)
        return over, (whole >= 0) & (whole <= 15)

    def parts(self, spec: Spec) -> tuple[Part, ...]:
        """Those of a weight ``[N, K]``; N is not padded."""
        rows, columns = spec.shape
        scales = Spec(spec.dtype, (self.groups(columns // self.group), rows))
        bias = spec.dtype if self.bias_dtype == "source" else DTYPES[self.bias_dtype]
        return (
            Part("codes", Spec(DTYPES["I32"], (rows // 4, columns // 2))),
            Part("scale", scales),
            Part("zero_point", scales),
            Part("bias", Spec(bias, (rows,))),
        )


def _over(values: Array, outer: Array, inner: Array) -> Array:
    with np.errstate(all="ignore"):
        return np.where(values == 0, np.float32(0), values / outer / inner)


def _up(size: int, step: int) -> int:
    return -(-size // step) * step
