"""W4A4 of rotated columns ("ConvRot"): 4-bit integers under one scale to a row."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import replace
from math import lcm
from typing import Any, ClassVar

import numpy as np

from ..core.constraint import Constraint
from ..core.dtypes import DTYPES, DType
from ..core.expr import Piece
from ..core.records import dataclass
from ..core.scheme import Hints
from ..core.scratch import Scratch
from ..core.spec import Part, Spec
from .base import SEARCH, Array, Base, encode_one
from .int4 import DIVISORS, VALUES
from .packed import unpacked
from .rotated import TURNED, line_of, rejected, smaller, turn_back

__all__ = ["W4A4"]


@dataclass(frozen=True)
class W4A4(Base):
    """4-bit integers, two's complement, two in a byte, the even column in the low nibble, of turned columns.

    ``code = clamp(rne(x / scale), -8, 7)``; the scale of a row is the largest magnitude over 7, 8 or 8.75,
    whichever loses least, in float32 (``backends/eager/convrot_w4a4.py`` of comfy_kitchen takes 7). Columns
    are a multiple of 64, of which its kernels take a group.

    Args:
        rotate: columns that are turned together before, see :mod:`.rotated`: a power of 4.
        optimize: ``"mse"`` tries 33 scales for each row, down to the largest magnitude over 14.
    """

    name: ClassVar[str] = "convrot_w4a4"
    summary: ClassVar[str] = "4-bit integers of rotated columns, one scale to a row"
    observes: ClassVar[bool] = False
    options: ClassVar[Mapping[str, Constraint]] = {"rotate": TURNED, "optimize": SEARCH}
    unseen: ClassVar[Mapping[str, Any]] = {"rotate": None}

    rotate: int = 256
    optimize: str = "none"

    @classmethod
    def variants(cls, options: Mapping[str, Any], hints: Hints) -> Iterator[W4A4]:
        """Each size of what is turned."""
        for rotate in hints.rotations:
            if rotate > 1:
                yield cls(rotate)

    def meaning(self, spec: Spec) -> Hashable:
        """What is turned."""
        return self.name, self.rotate

    @property
    def multiple(self) -> tuple[int, int]:
        """Whole groups of columns."""
        return 1, lcm(64, self.rotate)

    def instead(self, spec: Spec) -> tuple[W4A4, str] | None:
        """The same with fewer columns turned together, where that is all that stands against it."""
        fewer = smaller(spec, self.rotate)
        return None if fewer is None else (replace(self, rotate=fewer[0]), fewer[1])

    def parts(self, spec: Spec) -> tuple[Part, ...]:
        """U8 codes ``[.., N, K / 2]``, F32 scales ``[.., N]``."""
        *rows, columns = spec.shape
        return (
            Part("codes", Spec(DTYPES["U8"], (*rows, columns // 2))),
            Part("scale", Spec(DTYPES["F32"], tuple(rows))),
        )

    def prepare(self, dtype: DType) -> None:
        """Compile what encoding tensors of this dtype needs, by encoding a small one."""
        encode_one(self.encode, dtype, self.multiple[1])

    def encode(
        self, rows: Array, spec: Spec, start: int, stats: Any, scratch: Scratch,
        weights: Array | None = None,
    ) -> Iterator[Piece]:  # fmt: skip
        """See :meth:`.core.scheme.Scheme.encode`."""
        from ..numerics.hadamard import rotated_nibbles, unit_of
        from ..numerics.nibble_search import work
        from ..numerics.rows import as_bits

        bits = as_bits(rows, spec.dtype, scratch)
        codes = scratch.take((len(rows), spec.columns // 2), np.uint8)
        scales = scratch.take((len(rows),), np.float32)
        line, words = line_of(spec.columns)
        divisors = np.array(DIVISORS[self.optimize], np.float32)
        room = work(spec.columns, scratch)
        unit = unit_of(self.rotate)
        if not rotated_nibbles(bits, self.rotate, unit, line, words, divisors, room, codes, scales):
            raise rejected(rows, spec.dtype, self.rotate)
        yield Piece("codes", start * codes.shape[1], codes)
        yield Piece("scale", start * 4, scales)

    def decode(self, parts: Mapping[str, Array], spec: Spec, start: int, stop: int, out: Array) -> None:
        """See :meth:`.core.scheme.Scheme.decode`: exact but for the product with the scale, the last step."""
        np.take(VALUES, unpacked(parts["codes"], stop - start, 4), out=out)
        turn_back(out, self.rotate)
        out *= np.asarray(parts["scale"]).reshape(-1, 1)[start:stop]
