"""Words of 4-bit numbers, each stored less one."""

from __future__ import annotations

from typing import ClassVar

from ..core.expr import Piece
from ..core.records import dataclass
from ..core.scratch import Scratch
from ..core.spec import Spec
from ..core.types import Array
from ..errors import DataError
from .base import Base

__all__ = ["LessOne"]

_ONES = 0x1111_1111
"""A one for each of eight numbers."""


@dataclass(frozen=True)
class LessOne(Base):
    """Eight 4-bit numbers of a 32-bit word, each stored less one, as GPTQ's first layout has zero points.

    A number of 0 has no such place: GPTQModel subtracts from the whole word, so that it takes one of its
    neighbour, and adds to the whole word when it reads (``convert_gptq_v1_to_v2_format_module`` of its
    ``utils/model.py``), while kernels of others add to each number by itself. So 0 is not written; reading is
    that of GPTQModel.
    """

    name: ClassVar[str] = "less_one"
    summary: ClassVar[str] = "eight 4-bit numbers of a word, 1 to 15, each less one"
    takes: ClassVar[tuple[str, ...]] = ("I32", "U32")

    def encode(self, piece: Piece, spec: Spec, scratch: Scratch) -> Piece:
        """See :class:`.core.codec.Codec`. Raises DataError where a number is 0."""
        import numpy as np

        words = piece.data.view(np.uint32)
        # The top bit of a nibble of (w - ones) & ~w is set where something was borrowed; all but the lowest
        # of a word may be wrong, one is enough.
        if ((words - np.uint32(_ONES)) & ~words & np.uint32(0x8888_8888)).any():
            raise DataError(
                f"its {piece.role} holds a number of 0, which has no place one below",
                hint="choose a convention that stores it as it is, such as gptq_v2",
            )
        out = np.subtract(words, np.uint32(_ONES), out=scratch.take(words.shape, np.uint32))
        return Piece(piece.role, piece.offset, out.view(spec.dtype.carrier))

    def decode(self, stored: Array, spec: Spec) -> Array:
        """See :class:`.core.codec.Codec`."""
        import numpy as np

        words = np.add(stored.view(np.uint32), np.uint32(_ONES), dtype=np.uint32)
        return words.view(spec.dtype.carrier)
