"""nvfp4: E2M1 in blocks of 16 columns under an E4M3 scale, and one scale for the tensor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

import numpy as np

from ..core.constraint import Constraint
from ..core.dtypes import DTYPES, DType
from ..core.expr import Piece
from ..core.records import dataclass
from ..core.scratch import Scratch
from ..core.spec import Part, Spec
from ..numerics.minifloat import FORMATS, PLAIN
from .base import Array, Base
from .blocks import Blocks
from .grid import Grid
from .packed import code_bytes, unpacked

__all__ = ["Nvfp4"]

_BLOCK = 16
_MULTIPLIER = "one_over_global_scale"
_REACH = np.float32(FORMATS["e2m1"].max * FORMATS["e4m3fn"].max)
"""6 * 448: the largest code under the largest block scale."""

_BF16_MAX = np.float32(PLAIN["BF16"].max)

_SEARCH = {"four_over_six": (-1, 0), "mse": (4, 7)}
"""Scales to try below and above, see :func:`.numerics.micro.nv`."""


@dataclass(frozen=True)
class Nvfp4(Base):
    """``scale = rne_e4m3((peak / 6) / g)``, ``code = rne_e2m1(x / (g * scale))``, with ``g = amax / 2688``.

    Everything in float32 from the source, with true divisions: the shortcuts of GPU kernels (a product with
    1/6, approximate reciprocals, a global scale in BF16) are not followed. What is stored as the global scale
    is the divisor ``2688 / amax``, so ``value = code * (scale / global_scale)``. A scale that was rounded to
    zero is 2**-9, the smallest of E4M3, if that keeps any of its block. A block of zeros has scale 0 and
    codes 0; a tensor of zeros has global scale 1. ``amax`` is that of the tensor, or the largest of those
    that share it.

    Args:
        optimize: ``"four_over_six"`` also tries the scale that maps the largest value of a block to 4 instead
            of 6, where the steps are finer; ``"mse"`` all scales from four E4M3 steps below to seven above
            the plain one, outside of which none is better (of subnormal scales, some could be). Kept is the
            one with the least squared error. Where columns have weights, a better one may lie further below
            the plain one; all are tried.
        global_scale_dtype: ``"F32"`` or ``"BF16"``: what the divisor is rounded to before codes are computed,
            for consumers that read it so; ``g`` is then one over it. It is stored as F32.
    """

    name: ClassVar[str] = "nvfp4"
    summary: ClassVar[str] = "4-bit floats, an E4M3 scale to each 16 columns and one scale to the tensor"
    observes: ClassVar[bool] = True
    options: ClassVar[Mapping[str, Constraint]] = {
        "optimize": Constraint.among("none", *_SEARCH),
        "global_scale_dtype": Constraint.among("F32", "BF16"),
    }

    optimize: str = "none"
    global_scale_dtype: str = "F32"

    @property
    def search_seconds(self) -> float:
        """Measured where twelve scales are tried; a second one costs little."""
        return 0.9 if self.optimize == "mse" else 0.0

    def grid(self, spec: Spec) -> Grid | None:
        """See :meth:`.base.Base.grid`."""
        kind = FORMATS["e2m1"]
        return Grid(kind.values(), 4, kind.max, Blocks(spec, 1, _BLOCK), "split", DTYPES["F8_E4M3"])

    @property
    def weighs(self) -> bool:
        """Where scales are searched."""
        return self.optimize != "none"

    @property
    def multiple(self) -> tuple[int, int]:
        """Whole blocks of columns."""
        return 1, _BLOCK

    def parts(self, spec: Spec) -> tuple[Part, ...]:
        """F4 codes shaped as the tensor, E4M3 scales ``[.., N, K / 16]``, the F32 global scale ``[]``."""
        scales = (*spec.shape[:-1], spec.shape[-1] // _BLOCK)
        return (
            Part("codes", Spec(DTYPES["F4"], spec.shape)),
            Part("scale", Spec(DTYPES["F8_E4M3"], scales)),
            Part("global_scale", Spec(DTYPES["F32"], ())),
        )

    def prepare(self, dtype: DType) -> None:
        """Compile what encoding tensors of this dtype needs, by encoding a small one."""
        spec = Spec(dtype, (1, _BLOCK))
        rows = np.zeros(spec.shape, dtype.carrier)
        for _ in self.encode(rows, spec, 0, self.observe(rows, dtype), Scratch()):
            pass

    def encode(
        self, rows: Array, spec: Spec, start: int, stats: float | None, scratch: Scratch,
        weights: Array | None = None,
    ) -> Iterator[Piece]:  # fmt: skip
        """See :meth:`.core.scheme.Scheme.encode`; ``stats`` is the peak of the tensor, or of its group."""
        from ..numerics.encode import nv, nv_weighted
        from ..numerics.rows import as_bits, reject

        assert stats is not None
        count, columns = rows.shape
        shared, divisor = _global(np.float32(stats), self.global_scale_dtype)
        bits = as_bits(rows, spec.dtype, scratch)
        codes = scratch.take((count, code_bytes(spec, 4)), np.uint8)
        scales = scratch.take((count, columns // _BLOCK), np.uint8)
        search = _SEARCH.get(self.optimize)
        room = codes.reshape(-1), scales.reshape(-1), scratch
        if weights is None or search is None:
            finite = nv(bits.reshape(-1), shared, search, *room)
        else:
            finite = nv_weighted(bits.reshape(-1), shared, self.optimize != "mse", weights, *room)
        if not finite:
            raise reject(rows, spec.dtype)
        yield Piece("codes", start * codes.shape[1], codes)
        yield Piece("scale", start * scales.shape[1], scales)
        yield Piece("global_scale", 0, divisor)

    def decode(self, parts: Mapping[str, Array], spec: Spec, start: int, stop: int, out: Array) -> None:
        """See :meth:`.core.scheme.Scheme.decode`: ``code * (scale / global_scale)``, each step rounded to
        float32, in the order of those who load it (``dequantize_nvfp4`` of comfy_kitchen, ``dequantize`` of
        compressed-tensors and torchao).

        Where one over the global scale is what is stored, the block scale is multiplied by that. Of a stack
        that was put together there may be one to each matrix.
        """
        from ..numerics.decode import by_table

        codes = unpacked(parts["codes"], stop - start, 4)
        stored = np.asarray(parts["scale"]).view(np.uint8).reshape(spec.rows, -1)[start:stop]
        scales = FORMATS["e4m3fn"].values()[stored]
        given = _MULTIPLIER in parts
        shared = np.asarray(parts[_MULTIPLIER if given else "global_scale"], np.float32).reshape(-1, 1)
        if len(shared) > 1:
            shared = shared[np.arange(start, stop) // spec.shape[-2]]
        if given:
            scales *= shared
        else:
            scales /= shared
        by_table(codes, FORMATS["e2m1"].values(), 1, _BLOCK, scales, np.zeros_like(scales), out)


def _global(peak: np.float32, kept: str) -> tuple[np.float32, Array]:
    """Multiplier and stored divisor of a tensor with that largest magnitude; both finite, neither zero."""
    if peak == 0:
        return np.float32(1), np.ones(1, np.float32)
    most = np.finfo(np.float32).max
    with np.errstate(over="ignore", under="ignore"):
        # Below 2**-116 the divisor would be infinite: there both stay where it ends.
        divisor = np.float32(min(_REACH / peak, most))
        if kept == "F32":
            return max(peak / _REACH, np.float32(1) / most), np.array([divisor], np.float32)
        bits = int(divisor.view(np.uint32))  # a positive number, to nearest even
        rounded = np.uint32((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).view(np.float32)
        divisor = min(rounded, _BF16_MAX)
        return np.float32(1) / divisor, np.array([divisor], np.float32)
