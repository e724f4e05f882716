"""nunchaku's W4A16 projection of an adaptive norm: several projections woven into one.

The projections (shift, scale, gate ...) stand one after the other in the weight, and the kernel wants those
of one channel side by side. ``1 + scale`` is folded into the biases of the scales (DeepCompressor,
``deepcompressor/backend/nunchaku/utils.py`` and ``backend/tinychat/utils.py``).
"""

from __future__ import annotations

from collections.abc import Iterator
from math import lcm
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...core.context import Context
from ...core.dtypes import DType
from ...core.event import Event
from ...core.expr import Expr, Piece
from ...core.records import dataclass
from ...core.spec import Part, Spec
from ...core.tensor import LazyTensor
from ...errors import PlanError
from ...numerics import nunchaku_layouts as layouts
from ...schemes.svdquant import W4A16
from .linear import fill_codes
from .rows import Joined, Level, narrow, padded

__all__ = ["AdaNorm"]

Array = NDArray[Any]


@dataclass(frozen=True)
class AdaNorm(Expr):
    """The projection of an adaptive norm, to be packed.

    Attributes:
        weight: ``[N, K]`` with N = splits times channels, BF16 or F16.
        scale: one for 64 columns.
        bias: ``[N]``; zeros where there is none.
        splits: how many projections: 6 where the block has a norm before attention and one before the
            feed-forward, 3 where it has one norm.
    """

    weight: Joined
    scale: Level
    bias: Joined | None
    splits: int

    def loses(self) -> str | None:
        """See :meth:`.core.expr.Expr.loses`."""
        return "it is packed for nunchaku, which rounds"

    def lazy(self, name: str, did: Event) -> LazyTensor:
        """The packed tensor."""
        return LazyTensor(
            name, self._spec, self.parts(), self, lcm(4, self.splits), self.weight.tensors[0].source,
            self.stored, fate=(did,),
        )  # fmt: skip

    @property
    def stored(self) -> W4A16:
        """How it is stored."""
        return W4A16(self._bias_dtype.name)

    @property
    def _spec(self) -> Spec:
        return Spec(self.weight.dtype, (self.weight.count, self.weight.columns))

    @property
    def _bias_dtype(self) -> DType:
        return self.weight.dtype if self.bias is None else self.bias.dtype

    def parts(self) -> tuple[Part, ...]:
        """What is stored; N is not padded."""
        return self.stored.parts(self._spec)

    def read(self, start: int, stop: int, context: Context) -> Iterator[Piece]:
        """The parts of some packed rows; scales and bias come with row 0."""
        n, k = self.weight.count, self.weight.columns
        channels = n // self.splits
        begin, end = start // self.splits, stop // self.splits
        codes = context.take((stop - start, k), np.uint8)
        one = np.ones((end - begin, 1), np.float32)
        for split in range(self.splits):
            first, last = split * channels + begin, split * channels + end
            rows = self.weight.read(first, last, context)
            scale = self.scale.read(first, last, context)
            fill_codes(self.stored, self.weight, first, rows, (one, scale), codes, (split, self.splits))
        yield Piece("codes", start * k // 2, layouts.pack_w4x16(codes))
        if start == 0:
            name = self.weight.tensors[0].source
            scales = layouts.interleave(self.scale.read(0, n, context), self.splits).T
            yield Piece("scale", 0, self._padded(scales, "the scales", name))
            yield Piece(
                "zero_point", 0, self._padded(np.float32(-7) * scales, "seven times the scales", name)
            )
            yield Piece("bias", 0, self._bias(context))

    def _padded(self, values: Array, what: str, name: str) -> Array:
        return padded(
            narrow(values, self.weight.dtype, what, name),
            (W4A16().groups(self.scale.groups), self.weight.count),
        )

    def _bias(self, context: Context) -> Array:
        n, dtype = self.weight.count, self._bias_dtype
        if self.bias is None:
            bias = np.zeros(n, np.float32)
        else:
            bias = self.bias.read(0, n, context).reshape(-1).view(dtype.numpy()).astype(np.float32)
        woven = layouts.interleave(bias, self.splits).reshape(-1, self.splits)
        woven[:, sorted({1, self.splits - 2})] += 1
        return narrow(woven.reshape(-1), dtype, "the bias", self.weight.tensors[0].source)

    def check(self) -> None:
        """Refuse what the kernels of nunchaku cannot read.

        Raises:
            PlanError: a dtype, a shape or a group size.
        """
        first = self.weight.tensors[0]
        n, k = self.weight.count, self.weight.columns
        if self.weight.dtype.name not in ("BF16", "F16") or self._bias_dtype.name not in ("BF16", "F16"):
            raise PlanError(
                f"{self.weight.dtype} weights with {self._bias_dtype} biases are not what nunchaku reads",
                tensor=first.source, hint="save them as BF16",
            )  # fmt: skip
        if self.scale.whole or k // self.scale.groups != W4A16.group:
            raise PlanError(
                f"one scale for {k // self.scale.groups} columns, an adaptive norm needs one for"
                f" {W4A16.group}",
                tensor=first.source,
                hint="quantize with that group size",
            )
        if n % self.splits or n % 4:
            raise PlanError(f"{n} rows are not {self.splits} projections, and fours", tensor=first.source)
