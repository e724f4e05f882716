"""The MX formats: blocks of 32 columns under a power of two."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from typing import ClassVar

import numpy as np

from ..core.constraint import Constraint
from ..core.dtypes import DTYPES, DType
from ..core.expr import Piece
from ..core.records import dataclass
from ..core.scratch import Scratch
from ..core.spec import Part, Spec
from ..numerics.minifloat import FORMATS, Minifloat
from .base import SEARCH, Array, Base, encode_one
from .blocks import Blocks
from .grid import Grid
from .packed import code_bytes, unpacked

__all__ = ["Mxfp4", "Mxfp6", "Mxfp8"]

_OPTIONS = {"scale_mode": Constraint.among("rceil", "floor", "even", "ceil"), "optimize": SEARCH}

_BLOCK = 32


class _Mx(Base):
    """``scale = 2**(byte - 127)``, ``code = rne(x / scale)``, saturating at the format's largest value.

    Computed in float32 from the source; the scale follows the largest magnitude of a block by ``scale_mode``
    (:func:`.numerics.micro.scale_byte`). A block of zeros has scale byte 0, which stands for 2**-127, and
    codes 0: kernels that divide zero by that scale and store NaN are not followed.
    """

    options: ClassVar[Mapping[str, Constraint]] = _OPTIONS
    scale_mode: str
    optimize: str

    observes = False

    @property
    def kind(self) -> Minifloat:
        """The format of the codes."""
        raise NotImplementedError

    def grid(self, spec: Spec) -> Grid | None:
        """See :meth:`.base.Base.grid`."""
        kind = self.kind
        return Grid(kind.values(), kind.bits, kind.max, Blocks(spec, 1, _BLOCK), "power", DTYPES["F8_E8M0"])

    @property
    def weighs(self) -> bool:
        """Where scales are searched."""
        return self.optimize != "none"

    @property
    def multiple(self) -> tuple[int, int]:
        """Whole blocks of columns."""
        return 1, _BLOCK

    def parts(self, spec: Spec) -> tuple[Part, ...]:
        """Codes shaped as the tensor, in their dtype; E8M0 scales ``[.., N, K / 32]``."""
        scales = (*spec.shape[:-1], spec.shape[-1] // _BLOCK)
        return (
            Part("codes", Spec(DTYPES[self.kind.dtype], spec.shape)),
            Part("scale", Spec(DTYPES["F8_E8M0"], scales)),
        )

    def prepare(self, dtype: DType) -> None:
        """Compile what encoding tensors of this dtype needs, by encoding a small one."""
        encode_one(self.encode, dtype, _BLOCK)

    def encode(
        self, rows: Array, spec: Spec, start: int, stats: float | None, scratch: Scratch,
        weights: Array | None = None,
    ) -> Iterator[Piece]:  # fmt: skip
        """See :meth:`.core.scheme.Scheme.encode`."""
        from ..numerics.encode import mx, mx_weighted
        from ..numerics.rows import as_bits, reject

        kind = self.kind
        count, columns = rows.shape
        bits = as_bits(rows, spec.dtype, scratch)
        codes = scratch.take((count, code_bytes(spec, kind.bits)), np.uint8)
        scales = scratch.take((count, columns // _BLOCK), np.uint8)
        values, room = bits.reshape(-1), (codes.reshape(-1), scales.reshape(-1), scratch)
        if weights is None or not self.weighs:
            finite = mx(values, kind, self.scale_mode, self.weighs, *room)
        else:
            finite = mx_weighted(values, kind, self.scale_mode, weights, *room)
        if not finite:
            raise reject(rows, spec.dtype)
        yield Piece("codes", start * codes.shape[1], codes)
        yield Piece("scale", start * scales.shape[1], scales)

    def decode(self, parts: Mapping[str, Array], spec: Spec, start: int, stop: int, out: Array) -> None:
        """See :meth:`.core.scheme.Scheme.decode`; exact but where a product is subnormal in float32."""
        from ..numerics.decode import by_table

        codes = unpacked(parts["codes"], stop - start, self.kind.bits)
        scales = FORMATS["e8m0fnu"].values()[
            np.asarray(parts["scale"]).view(np.uint8).reshape(spec.rows, -1)[start:stop]
        ]
        by_table(codes, self.kind.values(), 1, _BLOCK, scales, np.zeros_like(scales), out)


@dataclass(frozen=True)
class Mxfp4(_Mx):
    """E2M1 under powers of two, OCP Microscaling Formats 1.0.

    Args:
        scale_mode: ``"even"``, ``"rceil"``, ``"floor"`` or ``"ceil"``. The default is the best of them for
            the scheme: with steps as coarse as those of E2M1, or as even as those of E2M3, a block gains more
            from finer ones than its largest value loses by saturating a little (``"even"``); with E4M3 and
            E5M2 it does not (``"rceil"``).
        optimize: ``"mse"`` also tries the next smaller and larger scale for each block, and keeps the one
            with the least squared error; all that can be better, where columns have weights.
    """

    name: ClassVar[str] = "mxfp4"
    summary: ClassVar[str] = "4-bit floats, a power of two to each 32 columns"

    scale_mode: str = "even"
    optimize: str = "none"

    @property
    def kind(self) -> Minifloat:
        """E2M1."""
        return FORMATS["e2m1"]


@dataclass(frozen=True)
class Mxfp6(_Mx):
    """E2M3 or E3M2 under powers of two; arguments as for :class:`Mxfp4`, and the format."""

    name: ClassVar[str] = "mxfp6"
    summary: ClassVar[str] = "6-bit floats, a power of two to each 32 columns"
    options: ClassVar[Mapping[str, Constraint]] = {"format": Constraint.among("e2m3", "e3m2"), **_OPTIONS}

    format: str = "e2m3"
    scale_mode: str = "even"
    optimize: str = "none"

    @property
    def kind(self) -> Minifloat:
        """As chosen."""
        return FORMATS[self.format]


@dataclass(frozen=True)
class Mxfp8(_Mx):
    """E4M3 or E5M2 under powers of two; arguments as for :class:`Mxfp4`, and the format."""

    name: ClassVar[str] = "mxfp8"
    summary: ClassVar[str] = "8-bit floats, a power of two to each 32 columns"
    options: ClassVar[Mapping[str, Constraint]] = {"format": Constraint.among("e4m3fn", "e5m2"), **_OPTIONS}

    format: str = "e4m3fn"
    scale_mode: str = "rceil"
    optimize: str = "none"

    @property
    def kind(self) -> Minifloat:
        """As chosen."""
        return FORMATS[self.format]

    def meaning(self, spec: Spec) -> Hashable:
        """That of fp8 in blocks of a row, whose scales are powers of two."""
        return self.format, 1, min(_BLOCK, spec.columns), False
