"""Scales that are stored as another number."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from ..core.dtypes import DTYPES
from ..core.expr import Piece
from ..core.records import dataclass
from ..core.scratch import Scratch
from ..core.spec import Spec
from ..core.types import Array
from ..errors import DataError
from .base import Base

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Powers", "Reciprocal"]


@dataclass(frozen=True)
class Reciprocal(Base):
    """One over each number, rounded to float32; there and back is within one rounding of the number."""

    name: ClassVar[str] = "reciprocal"
    summary: ClassVar[str] = "one over the scheme's number"
    exact: ClassVar[bool] = False
    takes: ClassVar[tuple[str, ...]] = ("F32",)

    def encode(self, piece: Piece, spec: Spec, scratch: Scratch) -> Piece:
        """See :class:`.core.codec.Codec`.

        Raises:
            DataError: a number or its reciprocal is zero or not finite.
        """
        import numpy as np

        out = _inverted(piece.data, scratch.take(piece.data.shape, np.float32))
        wrong = ~np.isfinite(out) | (out == 0)
        if wrong.any():
            bad = piece.data.reshape(-1)[int(np.argmax(wrong))]
            raise DataError(f"its {piece.role} holds {bad}, and one over it is zero or not finite in float32")
        return Piece(piece.role, piece.offset, out)

    def decode(self, stored: Array, spec: Spec) -> Array:
        """See :class:`.core.codec.Codec`; zero comes back as infinity."""
        import numpy as np

        return _inverted(stored, np.empty(stored.shape, np.float32))


def _inverted(numbers: Array, out: Array) -> Array:
    import numpy as np

    with np.errstate(divide="ignore", over="ignore"):
        np.divide(np.float32(1), numbers, out=out)
    return out


@dataclass(frozen=True)
class Powers(Base):
    """F32 powers of two as their exponents, F8_E8M0 (OCP Microscaling Formats 1.0): byte ``b`` is
    ``2**(b - 127)``, 255 is NaN.
    """

    name: ClassVar[str] = "powers"
    summary: ClassVar[str] = "powers of two as their exponents (E8M0)"
    takes: ClassVar[tuple[str, ...]] = ("F32",)

    def spec(self, spec: Spec) -> Spec:
        """The same shape, F8_E8M0. Raises PlanError for another dtype than F32."""
        return replace(super().spec(spec), dtype=DTYPES["F8_E8M0"])

    def encode(self, piece: Piece, spec: Spec, scratch: Scratch) -> Piece:
        """See :class:`.core.codec.Codec`.

        Raises:
            DataError: a number is no power of two, or out of its range.
        """
        import numpy as np

        from ..numerics.minifloat import FORMATS, to_e8m0

        numbers = piece.data
        out = to_e8m0(numbers)
        wrong = (FORMATS["e8m0fnu"].values()[out] != numbers) & ~np.isnan(numbers)
        if wrong.any():
            bad = numbers.reshape(-1)[int(np.argmax(wrong))]
            raise DataError(f"its {piece.role} holds {bad}, which is no power of two that E8M0 has")
        return Piece(piece.role, piece.offset // 4, out)

    def decode(self, stored: Array, spec: Spec) -> Array:
        """See :class:`.core.codec.Codec`."""
        import numpy as np

        from ..numerics.minifloat import FORMATS

        decoded: NDArray[np.float32] = FORMATS["e8m0fnu"].values()[stored.view(np.uint8)]
        return decoded
