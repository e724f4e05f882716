"""A LoRA of a stack of matrices, such as all experts of a layer: PEFT's ``target_parameters``."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ...core.context import Context
from ...core.records import dataclass
from ...core.spec import Spec
from ...core.tensor import LazyTensor
from .delta import LowRank, Step
from .homes import Move
from .picked import Cut, picked
from .places import Moved, Placed

__all__ = ["Stacked"]


@dataclass(frozen=True)
class Stacked:
    """``W[e] += up_e @ down_e`` for each matrix ``e`` of a stack.

    PEFT's ParamWrapper (``peft/tuners/lora/layer.py``).

    The factors of all are stored in one: ``down_e`` is ``down[e * r : (e + 1) * r]``, and ``up_e`` is every
    count-th column of ``up`` from ``e`` on. A stack may hold its matrices transposed (``[count, I, O]``):
    its shape tells, but for square ones.

    Attributes:
        file: where it comes from, for errors.
        up: ``[O, r * count]``.
        down: ``[count * r, I]``.
        rank: r.
        turned: whether the stack holds transposed matrices; None where that is not known yet.
    """

    file: Path
    up: LazyTensor
    down: LazyTensor
    rank: int
    turned: bool | None = None

    @property
    def count(self) -> int:
        """How many matrices."""
        return self.down.spec.shape[0] // self.rank

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the stack."""
        sides = (self.up.spec.shape[0], self.down.spec.shape[1])
        return (self.count, *(reversed(sides) if self.turned else sides))

    def described(self) -> str:
        """What it is, for the report."""
        return f"rank {self.rank} of {self.count} matrices"

    def disagree(self) -> str | None:
        """Why the factors do not fit each other; None if they do."""
        up, down = self.up.spec.shape, self.down.spec.shape
        if len(up) == 2 and len(down) == 2 and up[1] == down[0] and down[0] and down[0] % self.rank == 0:
            return None
        return f"up {self.up.spec}, down {self.down.spec} are no factors of a stack with rank {self.rank}"

    def turns(self, spec: Spec) -> bool | None:
        """Whether a stack of that shape holds transposed matrices; None where its shape does not tell."""
        fits = [turned for turned in (False, True) if self._turned(turned).shape == spec.shape]
        return fits[0] if len(fits) == 1 else None

    def turn(self, turned: bool) -> Stacked:
        """The same, for a stack of which that is known."""
        return self._turned(turned)

    def refuses(self, spec: Spec) -> str | None:
        """Why it cannot be added to such a tensor; None if it can."""
        if spec.shape not in (self._turned(False).shape, self._turned(True).shape):
            return f"up {self.up.spec} and down {self.down.spec} of rank {self.rank} do not make {spec}"
        return None

    def open(self, first: int, last: int, block: int, scale: np.float32, context: Context) -> Step:
        """As of any change, but rows are those of all matrices, one below the other."""
        count, rows, columns = self.shape
        # Only the matrices that are wanted: of some hundred, a tile sees a few.
        experts = range(first // rows, min(-(-last // rows), count))
        parts = tuple(Moved(self._pair(e), (Move(0, e * rows, rows),)) for e in experts)
        return Placed(parts, (count * rows, columns)).open(first, last, block, scale, context)

    def _turned(self, turned: bool) -> Stacked:
        return Stacked(self.file, self.up, self.down, self.rank, turned)

    def _pair(self, expert: int) -> LowRank:
        """The factors of one matrix, as it is stored."""
        apart = Cut(expert, None, self.count)
        together = Cut(expert * self.rank, (expert + 1) * self.rank)
        if not self.turned:
            up = picked(self.up, columns=apart)
            return LowRank(self.file, up, picked(self.down, rows=together))
        up = picked(self.down, rows=together, turned=True)
        return LowRank(self.file, up, picked(self.up, columns=apart, turned=True))
