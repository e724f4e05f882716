"""A plan shared out: who does what, so that nobody waits for another and all do about as much.

What only moves and what is computed are shared out each for itself, as the one costs the disk and the other
the processors. Each is a line in the order of the source's bytes that is cut into stretches of as many bytes;
so a share reads and writes in few places. Tensors that need a look at the whole, or that share a scale with
others that do, are not cut: whoever encodes them is who looks. All follows from the plan alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import field
from typing import Any

from ..core.context import Statistic
from ..core.records import dataclass
from ..plan.plan import Plan
from . import journal
from .journal import Key, Ranges
from .moves import moves

__all__ = ["Shares", "nbytes"]

_STEP = 1 << 20
"""Bytes of a file at whose multiples moves are cut: pages of the output have one writer."""


@dataclass
class _Item:
    """Something to do that may be cut, or several that may not.

    Attributes:
        spans: of the journal.
        weight: how many bytes count for each one of it.
        step: bytes at whose multiples it may be cut; 0 for nowhere.
    """

    spans: list[journal.Span]
    weight: int = 1
    step: int = 0

    @property
    def nbytes(self) -> int:
        return sum(end - begin for _, begin, end in self.spans) * self.weight


@dataclass
class _Line:
    """Items in their order."""

    items: list[_Item] = field(default_factory=list)

    def stretch(self, number: int, count: int) -> Iterator[journal.Span]:
        """The spans of stretch ``number``, from 0 on, of ``count``."""
        total = sum(item.nbytes for item in self.items)
        low, high = total * number // count, total * (number + 1) // count
        at = 0
        for item in self.items:
            size = item.nbytes
            if not item.step:
                middle = at + size // 2
                if low <= middle < high:
                    yield from item.spans
            elif at < high and at + size > low:
                ((key, begin, end),) = item.spans
                first, last = (
                    _cut(begin, end, (bound - at) // item.weight, item.step) for bound in (low, high)
                )
                if first < last:
                    yield key, first, last
            at += size


def _cut(begin: int, end: int, into: int, step: int) -> int:
    """Where a span is cut about ``into`` bytes from its beginning."""
    if into <= 0:
        return begin
    if begin + into >= end:
        return end
    return max((begin + into) // step * step, begin)


class Shares:
    """The shares of a plan."""

    def __init__(self, plan: Plan) -> None:
        self._lines = _lines(plan)

    def part(self, number: int, count: int) -> journal.Share:
        """What part ``number``, from 1 on, of ``count`` does. All parts together do all, and each once."""
        ranges: dict[Key, Ranges] = {}
        for line in self._lines:
            for key, begin, end in line.stretch(number - 1, count):
                ranges.setdefault(key, Ranges()).add(begin, end)
        return ranges

    def whole(self) -> journal.Share:
        """All that there is to do."""
        return self.part(1, 1)


def nbytes(share: journal.Share) -> int:
    """Bytes of a share: of values, and of what is moved."""
    return sum(end - begin for ranges in share.values() for begin, end in ranges)


def _lines(plan: Plan) -> tuple[_Line, _Line]:
    """What moves, and what is computed."""
    every, taken = moves(plan, plan.destinations())
    moved = _Line()
    for move in every:
        key, end = journal.moved(move.file), move.offset + move.nbytes
        moved.items.append(_Item([(key, move.offset, end)], step=_STEP))
    computed = _Line()
    groups = _groups([tensor.needs for tensor in plan.tensors])
    together: dict[int, _Item] = {}
    for number, tensor in enumerate(plan.tensors):
        if not tensor.spec.nbytes or len(taken.get(number, ())) == len(tensor.parts):
            continue
        span = journal.values(number), 0, tensor.spec.nbytes
        group = groups[number]
        if group is None:
            step = tensor.spec.row_offset(min(tensor.grain, tensor.spec.rows))
            computed.items.append(_Item([span], step=step))
        elif group in together:
            together[group].spans.append(span)
        else:
            together[group] = _Item([span], weight=2)  # looked at, and encoded
            computed.items.append(together[group])
    return moved, computed


def _groups(needs: Sequence[tuple[Statistic[Any], ...]]) -> list[int | None]:
    """For each tensor the first of those that a look is shared with, over others too; None without a look."""
    parents = list(range(len(needs)))

    def first(number: int) -> int:
        while parents[number] != number:
            parents[number] = parents[parents[number]]
            number = parents[number]
        return number

    seen: dict[Statistic[Any], int] = {}
    for number, wanted in enumerate(needs):
        for statistic in wanted:
            one, other = first(seen.setdefault(statistic, number)), first(number)
            parents[max(one, other)] = min(one, other)
    return [first(number) if wanted else None for number, wanted in enumerate(needs)]
