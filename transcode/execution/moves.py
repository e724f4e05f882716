"""Bytes of a plan that only move: found while planning what the workers do, and joined to large runs.

They never pass through this process where the system can copy them itself. What is small is left to the
tiles among which it lies: asking for it out of turn would make a cold disk seek.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from ..core.extent import Copyable, Extent
from ..core.records import dataclass
from ..plan.plan import Plan

__all__ = ["LEAST", "Move", "cut", "moves"]

LEAST = 1 << 20
"""Bytes of the smallest run that is worth its own call."""

_STEP = 64 << 20
"""Bytes asked for at a time: between two, a run can be stopped and tells how far it is."""

_BLOCK = 4096
"""Bytes at whose multiples file systems can share blocks."""


@dataclass(frozen=True, slots=True)
class Move:
    """Bytes that go from a file of the source to one of the output as they are.

    Attributes:
        source: where they lie.
        begin: their first byte there.
        nbytes: how many.
        file: number of the file in the plan.
        offset: of their first byte in that.
    """

    source: Copyable
    begin: int
    nbytes: int
    file: int
    offset: int

    def joined(self, extent: Extent, file: int, offset: int) -> Move | None:
        """One move with what lies and goes right behind it; None where that does not."""
        follows = (
            self.begin + self.nbytes == extent.begin
            and self.offset + self.nbytes == offset
            and self.file == file
            and self.source == extent.file
        )
        return replace(self, nbytes=self.nbytes + extent.nbytes) if follows else None


def moves(
    plan: Plan, places: Mapping[tuple[int, str], tuple[int, int]]
) -> tuple[list[Move], dict[int, frozenset[str]]]:
    """The moves of a plan, in the order of its tensors, and of which tensors they take which parts.

    Args:
        places: the plan's destinations.
    """
    every: list[Move] = []
    taken: dict[int, frozenset[str]] = {}
    run: Move | None = None
    members: list[tuple[int, str]] = []

    def finish() -> None:
        if run is not None and run.nbytes >= LEAST:
            every.append(run)
            for number, role in members:
                taken[number] = taken.get(number, frozenset()) | {role}
        members.clear()

    for number, tensor in enumerate(plan.tensors):
        for role, extents in tensor.value.extents().items():
            nbytes = sum(extent.nbytes for extent in extents)
            # Of several runs either all are moved or none, so that no byte is written twice.
            scattered = len(extents) > 1 and min(extent.nbytes for extent in extents) < LEAST
            if not 0 < nbytes == tensor.part(role).spec.nbytes or scattered:
                continue
            file, offset = places[number, role]
            for extent in extents:
                longer = None if run is None else run.joined(extent, file, offset)
                if longer is None:
                    finish()
                    longer = Move(extent.file, extent.begin, extent.nbytes, file, offset)
                run = longer
                offset += extent.nbytes
                members.append((number, role))
    finish()
    return every, taken


def cut(move: Move) -> Iterator[Move]:
    """A move in steps. Where blocks of both files can lie alike, all but the first begin at one of them."""
    begin, end = move.begin, move.begin + move.nbytes
    stop = begin + (-begin % _BLOCK or _STEP)
    while begin < end:
        stop = min(stop, end)
        yield replace(move, begin=begin, nbytes=stop - begin, offset=move.offset + begin - move.begin)
        begin, stop = stop, stop + _STEP
