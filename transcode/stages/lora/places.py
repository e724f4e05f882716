"""Changes that concern some rows of a tensor only, and tensors that are replaced as a whole."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from math import prod
from pathlib import Path
from typing import NamedTuple, TypeGuard

import numpy as np
from numpy.typing import NDArray

from ...core.context import Context
from ...core.records import dataclass
from ...core.spec import Spec
from ...core.tensor import LazyTensor
from .delta import Delta, Difference, F32Array, LowRank, Mix, OneForOne, Step, bare
from .homes import Move
from .products import Hadamard, Kronecker
from .rows import Decomposed, Generalized, Scaled
from .turned_inputs import InputBlocks, InputButterflies

__all__ = ["Moved", "Placed", "Tokens", "Whole", "adds", "by_rows"]


@dataclass(frozen=True)
class Whole(OneForOne):
    """A tensor that was trained whole: it takes the place of the model's.

    At a strength ``s`` the model's goes so far of the way: ``W = s * new + (1 - s) * W`` in float32; at 1 it
    is the new one, bit for bit but for the rounding to the tensor's own dtype.
    """

    def described(self) -> str:
        return "replaced"

    def misfit(self, spec: Spec) -> str:
        return f"a whole tensor {self.values.spec} does not take the place of {spec}"

    def change(self, elements: F32Array, by: F32Array, scale: np.float32) -> None:
        from ...numerics.lora import add

        if scale == 1:
            elements[...] = by
            return
        elements *= np.float32(1) - scale
        add(by, scale, elements)


class Moved(NamedTuple):
    """A change, and which of its rows lie where in a tensor."""

    delta: Delta
    moves: tuple[Move, ...]


@dataclass(frozen=True)
class Placed:
    """Changes of rows: what each says of a row is done to that row, wherever it lies; others stay.

    Attributes:
        parts: no two of them are for one row.
        shape: of the tensor, flattened to rows where each has as many elements as those of the parts.
    """

    parts: tuple[Moved, ...]
    shape: tuple[int, ...]

    def described(self) -> str:
        """What it is, for the report."""
        return self.parts[0].delta.described()

    def refuses(self, spec: Spec) -> str | None:
        """The parts were looked at when they were placed."""
        if bare(spec.shape) != bare(self.shape):
            return f"rows of {list(self.shape)} do not lie in {spec}"
        return None

    def open(self, first: int, last: int, block: int, scale: np.float32, context: Context) -> Step:
        from ...numerics.lora import padded

        width = prod(self.shape[1:])
        # The rows of a part are computed in bands that begin where they do for it, not where they lie here.
        rows = padded(block // max(width, 1)) + padded(1)
        work = context.take((rows, width), np.float32)
        opened: list[tuple[_Lying, int, Step]] = []
        for delta, moves in self.parts:
            lying = _Lying(moves, first, last)
            if lying.targets.size:
                begin, end = int(lying.sources.min()), int(lying.sources.max()) + 1
                opened.append((lying, begin, delta.open(begin, end, work.size, scale, context)))

        def step(row: int, out: F32Array) -> None:
            for lying, begin, inner in opened:
                for source, targets in lying.runs(row, min(row + out.shape[0], last)):
                    skip, count = (source - begin) % padded(1), len(targets)
                    some = work[: padded(skip + count)]
                    some[:skip] = 1  # thrown away; zeros would have no direction
                    some[skip + count :] = 1
                    some[skip : skip + count] = out[targets - row]
                    inner(source - skip, some)
                    out[targets - row] = some[skip : skip + count]

        return step


@dataclass(frozen=True)
class Tokens:
    """Rows of an embedding that were trained by themselves: they take the place of the model's.

    PEFT's trainable tokens (``peft/tuners/trainable_tokens/layer.py``; whole rows, though named "delta"). A
    strength other than 1 means what it does for :class:`Whole`.

    Attributes:
        file: where they come from, for errors.
        values: ``[count, D]``.
        rows: which rows of the embedding they are; all differ.
    """

    file: Path
    values: LazyTensor
    rows: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the rows."""
        return self.values.spec.shape

    def described(self) -> str:
        """What it is, for the report."""
        return f"{len(self.rows)} rows replaced"

    def refuses(self, spec: Spec) -> str | None:
        """Why they are no rows of such a tensor; None if they are."""
        if len(spec.shape) != 2 or spec.shape[1:] != self.shape[1:]:
            return f"rows {self.values.spec} are none of {spec}"
        if max(self.rows) >= spec.shape[0]:
            return f"there is no row {max(self.rows)} (the vocabulary was enlarged) in {spec}"
        return None

    def open(self, first: int, last: int, block: int, scale: np.float32, context: Context) -> Step:
        """See :class:`Delta`."""
        order = sorted(range(len(self.rows)), key=self.rows.__getitem__)
        moves = tuple(Move(at, self.rows[at], 1) for at in order)
        parts = (Moved(Whole(self.file, self.values), moves),)
        return Placed(parts, (self.rows[order[-1]] + 1, self.shape[1])).open(
            first, last, block, scale, context
        )


def adds(delta: Delta | Mix) -> bool:
    """Whether a change only adds, whatever the tensor holds: such changes may come in any order."""
    return isinstance(delta, LowRank | Difference | Hadamard | Kronecker)


def by_rows(delta: Delta | Mix, spec: Spec) -> TypeGuard[Delta]:
    """Whether rows of a change stand for themselves, so that they can lie elsewhere: not where each is made
    of several, nor where columns of all of them together decide.

    Args:
        delta: it.
        spec: of the tensor that it is for, where its rows lie together.
    """
    if isinstance(delta, Decomposed):
        return delta.observed(spec) is None
    return adds(delta) or isinstance(delta, Whole | Scaled | Generalized | InputBlocks | InputButterflies)


class _Lying:
    """Where each row of a change lies, of those that lie in some rows of a tensor.

    Args:
        moves: of all rows, sorted by their targets.
        first, last: the rows of the tensor.

    Attributes:
        targets: int64 ``[n]``, ascending.
        sources: int64 ``[n]``, the row of the change for each.
    """

    def __init__(self, moves: Sequence[Move], first: int, last: int) -> None:
        inside = moves[bisect_right(moves, first, key=lambda move: move.target + move.count) :]
        inside = inside[: bisect_left(inside, last, key=lambda move: move.target)]
        counts = np.array([move.count for move in inside], np.int64)
        within = np.arange(counts.sum()) - np.repeat(counts.cumsum() - counts, counts)
        targets = np.repeat(np.array([move.target for move in inside], np.int64), counts) + within
        sources = np.repeat(np.array([move.source for move in inside], np.int64), counts) + within
        wanted = slice(*np.searchsorted(targets, (first, last)))
        self.targets, self.sources = targets[wanted], sources[wanted]

    def runs(self, first: int, last: int) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """Of rows ``first`` to ``last`` of the tensor: where rows of the change begin that follow each other,
        and the row of the tensor for each of them.
        """
        begin, end = np.searchsorted(self.targets, (first, last))
        order = np.argsort(self.sources[begin:end])
        sources, targets = self.sources[begin:end][order], self.targets[begin:end][order]
        for run in np.split(np.arange(sources.size), np.flatnonzero(np.diff(sources) != 1) + 1):
            if run.size:
                yield int(sources[run[0]]), targets[run]
