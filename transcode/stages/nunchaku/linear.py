"""nunchaku's W4A4 linear layer: residual weight in 4 bits, smoothing factors, a low-rank branch of 16 bits.

The parts and their arithmetic are those of DeepCompressor (``deepcompressor/backend/nunchaku/convert.py``);
their orders are in :mod:`~transcode.numerics.nunchaku_layouts`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...core.context import Context
from ...core.dtypes import DTYPES, DType
from ...core.event import Event
from ...core.expr import Expr, Piece
from ...core.records import dataclass
from ...core.spec import Part, Spec
from ...core.tensor import LazyTensor
from ...errors import DataError, PlanError
from ...numerics import nunchaku_layouts as layouts
from ...schemes.svdquant import Calibrated, SvdqFp4, SvdqInt4
from ...voice import called
from .rows import Joined, Level, elements, narrow, padded

__all__ = ["Linear", "fill_codes"]

Array = NDArray[Any]

_OTHER = {
    SvdqFp4.group: f"pass {called('float_point')} if it is FP4",
    SvdqInt4.group: f"leave out {called('float_point')} if it is INT4",
}

_WARP = layouts.WARP


@dataclass(frozen=True)
class Linear(Expr):
    """A linear layer to be packed; all shapes have been checked against ``weight``, ``[N, K]``.

    Attributes:
        encoding: as it is asked for; :attr:`stored` has its levels of scales and its rank.
        weight: what the low-rank branch leaves of the weight, BF16 or F16.
        outer: first of two levels of scales, or ones.
        inner: the finer level, or the only one.
        bias: ``[N]``; zeros where there is none.
        smooth: ``[K]``, divides activations; ones where there is none.
        down: ``[R, K]`` of the low-rank branch, or None.
        up: ``[N, R]`` of it.
        shift: of the activations, one element or ``[K]``; goes through the branch into the bias.
        fused: whether the layer before has taken the smoothing factors in.
    """

    encoding: SvdqInt4 | SvdqFp4
    weight: Joined
    outer: Level
    inner: Level
    bias: Joined | None = None
    smooth: LazyTensor | None = None
    down: LazyTensor | None = None
    up: LazyTensor | None = None
    shift: LazyTensor | None = None
    fused: bool = False

    def loses(self) -> str | None:
        """See :meth:`.core.expr.Expr.loses`."""
        return "it is packed for nunchaku, which rounds"

    def lazy(self, name: str, did: Event) -> LazyTensor:
        """The packed tensor. Rows are read in 128s."""
        return LazyTensor(
            name, self._spec, self.parts(), self, _WARP, self.weight.tensors[0].source, self.stored,
            fate=(did,),
        )  # fmt: skip

    @property
    def stored(self) -> SvdqInt4 | SvdqFp4:
        """How it is stored."""
        rank = 0 if self.down is None else self.down.spec.shape[0]
        return replace(self.encoding, levels=tuple(role for role, _ in self._levels()), rank=rank)

    @property
    def _spec(self) -> Spec:
        return Spec(self.dtype, (self.weight.count, self.weight.columns))

    @property
    def dtype(self) -> DType:
        """Of the weight, and of all 16-bit parts."""
        return self.weight.dtype

    @property
    def rank(self) -> int:
        """Of the low-rank branch, padded to 16s; 0 without one."""
        return 0 if self.down is None else _up(self.down.spec.shape[0], 16)

    def parts(self) -> tuple[Part, ...]:
        """What is stored: N padded to 128s, K to 128s, the rank to 16s."""
        return self.stored.parts(self._spec)

    def read(self, start: int, stop: int, context: Context) -> Iterator[Piece]:
        """The parts of some rows; what goes by columns comes with row 0."""
        yield Piece("codes", start * _up(self.weight.columns, _WARP) // 2, self._codes(start, stop, context))
        for role, level in self._levels():
            if role == "global_scale":
                if start == 0:
                    scale = level.read(0, 1, context).reshape(1)
                    yield Piece(role, 0, narrow(scale, self.dtype, "the scale", self._source(level)))
            else:
                data = self._scales(level, start, stop, context)
                yield Piece(
                    role,
                    start * (self.encoding.groups(level.groups) if role == "scale" else 1) * data.itemsize,
                    data,
                )
        yield Piece("bias", start * 2, self._bias(start, stop, context))
        if self.up is not None:
            yield Piece("lora_up", start * self.rank * 2, self._lora_up(start, stop, context))
        if start == 0:
            real = self._smooth(context)
            yield Piece("smooth_orig", 0, real)
            one = narrow(np.ones(real.shape, np.float32), self.dtype, "", "")
            yield Piece("smooth", 0, one if self.fused else real)
            if self.down is not None:
                yield Piece("lora_down", 0, self._lora_down(context))

    def _codes(self, start: int, stop: int, context: Context) -> Array:
        rows = self.weight.read(start, stop, context)
        outer, inner = self.outer.read(start, stop, context), self.inner.read(start, stop, context)
        codes = context.take((_up(stop - start, _WARP), _up(self.weight.columns, _WARP)), np.uint8)
        codes[stop - start :] = 0
        codes[:, self.weight.columns :] = 0
        fill_codes(self.encoding, self.weight, start, rows, (outer, inner), codes)
        return layouts.pack_w4x4(codes)

    def _scales(self, level: Level, start: int, stop: int, context: Context) -> Array:
        name = self._source(level)
        scales = narrow(level.read(start, stop, context), self.dtype, "the scales", name)
        n = _up(stop - start, _WARP)
        one = narrow(np.ones(1, np.float32), self.dtype, "", "")[0]
        if level.groups == 1:
            return layouts.pack_vector(padded(scales.reshape(-1), (n,), one))
        scales = padded(scales, (n, self.encoding.groups(level.groups)), one)
        if self.encoding.scale_dtype is None:
            return layouts.pack_scale(scales)
        numbers = scales.view(self.dtype.numpy()).astype(np.float32)
        if np.abs(numbers).max() > 448:
            raise DataError(
                f"the scale {float(np.abs(numbers).max())!r} is beyond E4M3's 448", tensor=name,
                hint="is the first level of scales missing?",
            )  # fmt: skip
        return layouts.pack_micro_scale(numbers.astype(DTYPES["F8_E4M3"].numpy()).view(np.uint8))

    def _bias(self, start: int, stop: int, context: Context) -> Array:
        if self.bias is None:
            bias = np.zeros(stop - start, np.float64)
        else:
            bits = self.bias.read(start, stop, context).reshape(-1)
            bias = bits.view(self.bias.dtype.numpy()).astype(np.float64)
        if self.shift is not None and self.up is not None:
            rank = self.up.spec.shape[1]
            rows = elements(self.up, start * rank, stop * rank, context).astype(np.float64).reshape(-1, rank)
            bias += (rows * self._shift(context)).sum(axis=1)
        made = narrow(bias, self.dtype, "the bias", self.weight.locate(start)[0].source)
        one = narrow(np.ones(1, np.float32), self.dtype, "", "")[0]
        return layouts.pack_vector(padded(made, (_up(stop - start, _WARP),), one))

    def _shift(self, context: Context) -> Array:
        """What a shift of all activations gives behind ``down``: float64 ``[R]``."""
        assert self.shift is not None
        shift = self.shift

        def shifted() -> Array:
            values = elements(shift, 0, shift.spec.numel, context).astype(np.float64)
            summed: Array = (self._unsmoothed(context) * values).sum(axis=1)
            return summed

        return context.run.factors.get(self, shifted)

    def _unsmoothed(self, context: Context) -> Array:
        """``down`` for activations that are not divided by ``smooth`` any more: float64 ``[R, K]``."""
        assert self.down is not None
        shape = self.down.spec.shape
        down: Array = elements(self.down, 0, self.down.spec.numel, context).astype(np.float64).reshape(shape)
        if self.smooth is not None and not self.fused:
            with np.errstate(divide="ignore", invalid="ignore"):
                down /= elements(self.smooth, 0, shape[1], context).astype(np.float64)
        return down

    def _smooth(self, context: Context) -> Array:
        k = self.weight.columns
        smooth = np.ones(k, np.float32) if self.smooth is None else elements(self.smooth, 0, k, context)
        name = "" if self.smooth is None else self.smooth.source
        made = narrow(smooth, self.dtype, "a smoothing factor", name)
        one = narrow(np.ones(1, np.float32), self.dtype, "", "")[0]
        return layouts.pack_vector(padded(made, (_up(k, _WARP),), one))

    def _lora_down(self, context: Context) -> Array:
        assert self.down is not None
        made = narrow(
            self._unsmoothed(context), self.dtype, "the branch, over its smoothing factors,", self.down.source
        )
        return layouts.pack_lowrank(padded(made.T, (_up(self.weight.columns, _WARP), self.rank)), down=True)

    def _lora_up(self, start: int, stop: int, context: Context) -> Array:
        assert self.up is not None
        rank = self.up.spec.shape[1]
        rows = elements(self.up, start * rank, stop * rank, context).reshape(-1, rank)
        made = narrow(rows, self.dtype, "the branch", self.up.source)
        return layouts.pack_lowrank(padded(made, (_up(stop - start, _WARP), self.rank)), down=False)

    def _levels(self) -> list[tuple[str, Level]]:
        """The levels of scales, each with its role."""
        return [(self._role(level), level) for level in (self.outer, self.inner) if level.tensors is not None]

    def _role(self, level: Level) -> str:
        if level.whole and len(level.rows) == 1:
            return "global_scale"
        return "channel_scale" if level.groups == 1 else "scale"

    def _source(self, level: Level) -> str:
        return level.tensors[0].source if level.tensors else ""

    def check(self) -> None:
        """Refuse what the kernels of nunchaku cannot read.

        Raises:
            PlanError: a dtype, a shape or a group size.
        """
        first = self.weight.tensors[0]
        n, k = self.weight.count, self.weight.columns
        if self.dtype.name not in ("BF16", "F16"):
            raise PlanError(
                f"{self.dtype} weights are not what nunchaku reads",
                tensor=first.source,
                hint="save them as BF16",
            )
        group, wanted = k // self.inner.groups, self.encoding.group
        if group != wanted:
            raise PlanError(
                f"one scale for {group} columns, {self.encoding.name} needs one for {wanted}",
                tensor=first.source,
                hint=_OTHER.get(group, "quantize with that group size"),
            )
        if self.outer.groups > 1:
            raise PlanError(
                f"the first of two levels of scales has {self.outer.groups} groups, it can have one",
                tensor=self._source(self.outer),
            )
        self._expect(self.smooth, {k}, "smoothing factors")
        self._expect(self.shift, {1, k}, "shift")
        if self.down is None or self.up is None:
            return
        down, up = self.down.spec.shape, self.up.spec.shape
        if len(down) != 2 or len(up) != 2 or down[1] != k or up[0] != n or down[0] != up[1] or down[0] == 0:
            raise PlanError(
                f"a branch of {list(down)} and {list(up)} does not fit the weight [{n}, {k}]",
                tensor=self.down.source,
                hint="it must be [rank, columns] and [rows, rank]",
            )

    def _expect(self, tensor: LazyTensor | None, sizes: set[int], what: str) -> None:
        if tensor is not None and tensor.spec.numel not in sizes:
            raise PlanError(
                f"{what} of {tensor.spec.numel} elements for {self.weight.columns} columns",
                tensor=tensor.source,
            )


def fill_codes(
    encoding: Calibrated,
    weight: Joined,
    start: int,
    rows: Array,
    scales: tuple[Array, Array],
    codes: Array,
    places: tuple[int, int] = (0, 1),
) -> None:
    """Fill ``codes``: row i of ``rows``, which is row ``start + i`` of the weight, at ``first + i * step``.

    Args:
        scales: outer and inner ones of those rows.
        places: first and step.

    Raises:
        DataError: a value has no code.
    """
    from ...numerics.rows import as_bits

    bad = encoding.kernel(as_bits(rows, weight.dtype), *scales, codes, *places)
    if bad < 0:
        return
    k = weight.columns
    outer, inner = (np.repeat(scale[bad], k // scale.shape[1]) for scale in scales)
    x = np.ascontiguousarray(rows[bad]).view(weight.dtype.numpy()).astype(np.float32)
    y, fits = encoding.quotients(x, outer, inner)
    column = int(np.argmin(fits))
    tensor, row = weight.locate(start + bad)
    raise DataError(
        f"{float(x[column]):g} at row {row}, column {column} over its scale is {float(y[column]):g},"
        f" not in {encoding.codes}",
        tensor=tensor.source,
        hint="are model.pt and scale.pt of one run?",
    )


def _up(size: int, step: int) -> int:
    return -(-size // step) * step
