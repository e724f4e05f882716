"""Codes that are stored unsigned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from ..core.codec import Constraint
from ..core.expr import Piece
from ..core.records import dataclass
from ..core.scratch import Scratch
from ..core.spec import Spec
from ..core.types import Array
from ..errors import PlanError
from .base import Base

__all__ = ["Offset"]

_TOP_BITS = {8: 0x88, 128: 0x80}
"""To add half the range to a code in two's complement is to flip its top bit; bytes hold two 4-bit codes."""

_TAKES = {8: ("U8",), 128: ("I8",)}
"""Dtypes of the codes: 4-bit ones lie two in a byte."""


@dataclass(frozen=True)
class Offset(Base):
    """Half the range is added to each code, so that none is negative.

    The dtype stays: a ``view`` behind it says that 8-bit codes are unsigned now.

    Args:
        by: 8, to 4-bit codes two in a byte (U8), or 128, to 8-bit ones (I8).
    """

    name: ClassVar[str] = "offset"
    summary: ClassVar[str] = "codes plus half their range, so that none is negative"
    options: ClassVar[Mapping[str, Constraint]] = {"by": Constraint.among(8, 128)}

    by: int

    def spec(self, spec: Spec) -> Spec:
        """The same facts. Raises PlanError for codes of another width."""
        if spec.dtype.name not in _TAKES[self.by]:
            raise PlanError(f"offset {self.by} is for {' or '.join(_TAKES[self.by])}, not for {spec}")
        return spec

    def encode(self, piece: Piece, spec: Spec, scratch: Scratch) -> Piece:
        """See :class:`.core.codec.Codec`."""
        import numpy as np

        codes = piece.data.view(np.uint8)
        out = np.bitwise_xor(codes, np.uint8(_TOP_BITS[self.by]), out=scratch.take(codes.shape, np.uint8))
        return Piece(piece.role, piece.offset, out.view(spec.dtype.carrier))

    def decode(self, stored: Array, spec: Spec) -> Array:
        """See :class:`.core.codec.Codec`."""
        import numpy as np

        flipped = np.bitwise_xor(stored.view(np.uint8), np.uint8(_TOP_BITS[self.by]))
        return flipped.view(spec.dtype.carrier)
