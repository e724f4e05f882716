"""int8: codes -127 to 127 times a scale, or -128 to 127 with a zero point."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import replace
from functools import cache
from typing import Any, ClassVar

import numpy as np

from ..core.constraint import Constraint
from ..core.dtypes import DTYPES, DType
from ..core.records import dataclass
from ..core.scheme import Hints
from ..core.spec import Spec
from ..errors import RecipeError
from ..numerics.errors import NonFinite
from .base import GROUPS, SCALE_DTYPES, SEARCH, Array, stored_scale, widened
from .blocks import Blocks
from .grid import Grid
from .rotated import ROTATE, encode_turned, largest, rejected, turn_back, turned, unturned
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
        optimize: ``"mse"`` tries 16 scales, from the plain one down to four fifths of it, and keeps that with
            the least squared error: the largest values of a block may saturate. For scales of rows and
            groups, without a zero point, of columns that are not turned.
        rotate: columns that are turned together by a regular Hadamard matrix before they are encoded, see
            :mod:`.rotated`; 1 for none. What is decoded is turned back.

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
        "rotate": ROTATE,
        "optimize": SEARCH,
    }
    unseen: ClassVar[Mapping[str, Any]] = {"rotate": 1}
    only_with: ClassVar[Mapping[str, tuple[str, Any]]] = {"group_size": ("granularity", "group")}

    granularity: str = "channel"
    group_size: int = 128
    symmetric: bool = True
    scale_dtype: str = "source"
    rotate: int = 1
    optimize: str = "none"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weighs and (what := self._unsearched):
            raise RecipeError(
                f"int8: optimize cannot be {self.optimize!r} of {what}",
                hint="use granularity channel or group, symmetric and not rotated, or leave out optimize",
            )
        if self.zeroed and self.observes:
            raise RecipeError(
                "int8: a zero point for the whole tensor is not offered",
                hint="use granularity channel or group",
            )

    @classmethod
    def variants(cls, options: Mapping[str, Any], hints: Hints) -> Iterator[Int8]:
        """Each granularity, with a zero point and without; groups of usual sizes; turned or not."""
        if hints.scale not in KEPT:
            return
        for rotate in hints.rotations:
            yield cls("tensor", scale_dtype=hints.scale, rotate=rotate)
            for symmetric in (True, False):
                yield cls("channel", symmetric=symmetric, scale_dtype=hints.scale, rotate=rotate)
                for size in sorted(hints.groups) or GROUPS:
                    yield cls("group", size, symmetric, hints.scale, rotate)

    @property
    def zeroed(self) -> bool:  # type: ignore[override]
        """Whether there is a zero point."""
        return not self.symmetric

    @property
    def weighs(self) -> bool:
        """Where scales are searched."""
        return self.optimize != "none"

    @property
    def _unsearched(self) -> str | None:
        """What of its options no scales are searched for."""
        if self.observes:
            return "one scale for the whole tensor"
        if self.zeroed:
            return "codes with a zero point"
        return "rotated columns" if self.rotate > 1 else None

    @property
    def code_dtype(self) -> DType:
        """I8."""
        return DTYPES["I8"]

    def grid(self, spec: Spec) -> Grid | None:
        """See :meth:`.base.Base.grid`."""
        return super().grid(spec) if self.rotate == 1 else None

    def meaning(self, spec: Spec) -> Hashable:
        """That of all with scales for blocks, and what is turned."""
        said = super().meaning(spec)
        return said if self.rotate == 1 else (said, self.rotate)

    @property
    def multiple(self) -> tuple[int, int]:
        """Whole groups of columns that are turned."""
        return 1, self.rotate

    def instead(self, spec: Spec) -> tuple[Int8, str] | None:
        """The same without turning, where the columns do not allow it."""
        if spec.columns % self.rotate == 0:
            return None
        return replace(self, rotate=1), unturned(spec, self.rotate)

    def observe(self, rows: Array, dtype: DType) -> float:
        """Largest magnitude of what is encoded. Raises ``NonFinite``."""
        return super().observe(rows, dtype) if self.rotate == 1 else largest(rows, dtype, self.rotate)

    def rejected(self, rows: Array, dtype: DType) -> NonFinite:
        """See :meth:`.scaled.Scaled.rejected`."""
        return super().rejected(rows, dtype) if self.rotate == 1 else rejected(rows, dtype, self.rotate)

    def check_scales(self, rows: Array, dtype: DType, scales: Array, kept: DType) -> None:
        """See :meth:`.scaled.Scaled.check_scales`."""
        if self.rotate > 1 and kept.name == "F16":
            rows, dtype = turned(rows, dtype, self.rotate), DTYPES["F32"]
        super().check_scales(rows, dtype, scales, kept)

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
        weights: Array | None,
    ) -> bool:
        """See :meth:`Scaled.encode_block`."""
        from ..numerics.integer import symmetric, with_zero

        if self.rotate > 1:
            return encode_turned(
                bits,
                self.rotate,
                blocks.width,
                stored,
                given,
                codes,
                scales,
                None if self.symmetric else zeros,
            )
        if self.weighs:
            return self._search(bits, blocks, stored, codes, scales, weights)
        if self.symmetric:
            return bool(
                symmetric(bits, blocks.height, blocks.width, stored, given, np.float32(127), codes, scales)
            )
        return bool(with_zero(bits, blocks.width, stored, np.float32(255), codes, scales, zeros))

    def _search(
        self, bits: Array, blocks: Blocks, stored: int, codes: Array, scales: Array, weights: Array | None
    ) -> bool:
        from ..numerics.integer_scales import SHARES, integer_scales, symmetric_under
        from ..numerics.weighted import balanced

        where = bits, blocks.height, blocks.width, stored, np.float32(127)
        heavy = balanced(np.ones(bits.shape[1], np.float32) if weights is None else weights)
        shares, work = np.array(SHARES, np.float32), np.empty(48, np.float32)
        finite = bool(integer_scales(*where, shares, heavy, work, scales))
        if finite:
            symmetric_under(*where, codes, scales)
        return finite

    def decode(self, parts: Mapping[str, Array], spec: Spec, start: int, stop: int, out: Array) -> None:
        """See :meth:`.scaled.Scaled.decode`.

        Where a row has one scale, codes are turned back as integers, which is exact, and the scale comes
        last: what comes out is the value of the codes, rounded once.
        """
        if self.rotate == 1:
            super().decode(parts, spec, start, stop, out)
        elif self.blocks(spec).across > 1:
            super().decode(parts, spec, start, stop, out)
            turn_back(out, self.rotate)
        else:
            scale = np.asarray(parts["scale"])
            integers = replace(self, scale_dtype="F32", rotate=1)
            plain = {**parts, "scale": np.ones(scale.shape, np.float32)}
            integers.decode(plain, spec, start, stop, out)
            turn_back(out, self.rotate)
            scales = widened(scale, stored_scale(self.scale_dtype, spec.dtype)).reshape(-1, 1)
            out *= scales if self.observes else scales[start:stop]

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
