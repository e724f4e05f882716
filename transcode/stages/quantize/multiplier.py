"""The scale of a whole tensor as a file has it: what values are multiplied by, or divided."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...core.records import dataclass
from ..dequantize import Decoding
from ..stored_parts import StoredPart

__all__ = ["Multiplier", "multiplier"]


@dataclass(frozen=True, slots=True)
class Multiplier:
    """A stored scale of a tensor.

    Attributes:
        stored: where it is.
        exactly: it is stored as what is multiplied by; else its reciprocal is, and is rounded once.
    """

    stored: StoredPart
    exactly: bool

    def value(self) -> NDArray[np.float32]:
        """What values are multiplied by, float32 ``[n]``: one, or one to each matrix of a stack."""
        with np.errstate(divide="ignore"):
            return self._numbers() if self.exactly else np.float32(1) / self._numbers()

    def invertible(self) -> bool:
        """Whether reciprocals are exact: of powers of two."""
        return bool((np.abs(np.frexp(self._numbers())[0]) == 0.5).all())

    def _numbers(self) -> NDArray[np.float32]:
        return self.stored.numbers().reshape(-1)


def multiplier(decoding: Decoding) -> Multiplier | None:
    """That of a tensor, None where it has none."""
    for one in decoding.others:
        if one.part.role == "tensor_scale":
            return Multiplier(one, True)
        if one.part.role == "global_scale":  # what is divided by, unless a codec stores its reciprocal
            return Multiplier(one, one.inverted)
    return None
