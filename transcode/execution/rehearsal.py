"""A run that writes nothing: whether all values can be converted, found before what they were is deleted.

Facts are all known while planning, values are not: a NaN, a number too large for its new dtype, a scale that
has no code are met by reading them. Nobody can repair a source whose other shards are gone.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..core.tensor import LazyTensor
from ..plan.plan import Plan
from . import journal
from .moves import Move

__all__ = ["Rehearsal", "is_stored"]


class Rehearsal:
    """The files of a plan, which are not made; see :class:`.staged.Staged`.

    Attributes:
        order: the tensors of which more is done than to copy bytes, by their numbers.
        ledger: what is done: of no use to anybody.
        rehearses: see :class:`.core.context.Run`.
    """

    rehearses = True

    def __init__(self, plan: Plan) -> None:
        self.order = [number for number, tensor in enumerate(plan.tensors) if not is_stored(tensor)]
        self.ledger = journal.Ledger()

    def keep(self) -> bool:
        """Nothing is kept."""
        return False

    def copy(self, move: Move) -> int:
        """All of it: bytes that only move cannot be refused."""
        return move.nbytes

    def write(self, file: int, offset: int, data: NDArray[np.uint8]) -> None:
        """Nothing."""


def is_stored(tensor: LazyTensor) -> bool:
    """Whether all parts of a tensor are bytes of files as they lie there."""
    return tensor.value.extents().keys() >= {part.role for part in tensor.parts}
