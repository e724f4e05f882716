"""int8: codes -127 to 127 times a scale, or -128 to 127 with a zero point."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import numpy as np

from ..core.constraint import Constraint
from ..core.dtypes import DTYPES, DType
from ..core.spec import Spec
from ..errors import RecipeError
from .base import GROUPS, SCALE_DTYPES, Array
from .blocks import Blocks
from .scaled import KEPT, Scaled

__all__ = ["Int8"]


@dataclass(frozen=True)
class Int8(Scaled):
    """8-bit integers.

    Symmetric: ``scale = amax / 127``, ``code = clamp(rne(x / scale), -127, 127)``. With a zero point: the
    range is stretched to hold 0, ``scale = (max - min) / 255``, ``zero_point = clamp(rne(-128 - min / scale),
    -128, 127)``, ``code = clamp(rne(x / scale) + zero_point, -128, 127)``, ``value = (code - zero_point) *
    scale``.

    Args:
        granularity: what shares a scale: ``"channel"`` (a row), ``"group"`` (``group_size`` columns of a row;
            the last group may be smaller) or ``"tensor"`` (symmetric only).
        group_size: columns of a group.
        symmetric: whether there is no zero point.
        scale_dtype: ``"source"``, ``"F32"``, ``"BF16"`` or ``"F16"``; source means F32 for F16 and F64
            sources.

    Raises:
        RecipeError: an option has no such value.
    """

    name: ClassVar[str] = "int8"
    summary: ClassVar[str] = "8-bit integers, one scale to a row, group of columns or tensor"
    options: ClassVar[Mapping[str, Constraint]] = {
        "granularity": Constraint.among("channel", "tensor", "group"),
        "symmetric": Constraint.among(True, False),
        "scale_dtype": SCALE_DTYPES,
        "group_size": Constraint("a number of columns", (128, 48, 32), lambda n: type(n) is int and n > 0),
    }
    only_with: ClassVar[Mapping[str, tuple[str, Any]]] = {"group_size": ("granularity", "group")}

    granularity: str = "channel"
    group_size: int = 128
    symmetric: bool = True
    scale_dtype: str = "source"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.zeroed and self.observes:
            raise RecipeError(
                "int8: a zero point for the whole tensor is not offered",
                hint="use granularity channel or group",
            )

    @classmethod
    def variants(
        cls,
        options: Mapping[str, Any],
        scale: str,
        *,
        groups: Collection[int] = (),
        blocks: Collection[tuple[int, int]] = (),
    ) -> Iterator[Int8]:
        """Each granularity, with a zero point and without; groups of usual sizes."""
        if scale not in KEPT:
            return
        yield cls("tensor", scale_dtype=scale)
        for symmetric in (True, False):
            yield cls("channel", symmetric=symmetric, scale_dtype=scale)
            for size in sorted(groups) or GROUPS:
                yield cls("group", size, symmetric, scale)

    @property
    def zeroed(self) -> bool:  # type: ignore[override]
        """Whether there is a zero point."""
        return not self.symmetric

    @property
    def code_dtype(self) -> DType:
        """I8."""
        return DTYPES["I8"]

    def extent(self, spec: Spec) -> tuple[int, int]:
        """One row, or one group of it."""
        return 1, spec.columns if self.granularity == "channel" else min(self.group_size, spec.columns)

    def given_scale(self, peak: float, stored: int) -> float:
        """``amax / 127``, as it will be stored."""
        from ..numerics.lanes import fitted

        return float(fitted(np.float32(peak), np.float32(127), np.float32(127.5), stored))

    def encode_block(
        self,
        bits: Array,
        blocks: Blocks,
        stored: int,
        given: np.float32,
        codes: Array,
        scales: Array,
        zeros: Array,
    ) -> bool:
        """See :meth:`Scaled.encode_block`."""
        from ..numerics.integer import symmetric, with_zero

        if self.symmetric:
            return bool(
                symmetric(bits, blocks.height, blocks.width, stored, given, np.float32(127), codes, scales)
            )
        return bool(with_zero(bits, blocks.width, stored, np.float32(255), codes, scales, zeros))

    @property
    def reach(self) -> float:
        """127, or half of 255."""
        return 127 if self.symmetric else 127.5

    def table(self) -> Array:
        """The integers, in two's complement."""
        return _integers()


@cache
def _integers() -> Array:
    return np.arange(256, dtype=np.uint8).view(np.int8).astype(np.float32)
