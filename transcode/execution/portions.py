"""Which bytes of a plan's files are sent together, when each such portion is whole, and how many wait."""

from __future__ import annotations

from ..core.output import PlannedFile
from ..io.remote.target import Target
from ..plan.plan import Plan

__all__ = ["Portions", "order", "waiting"]


def order(plan: Plan) -> list[int]:
    """The numbers of a plan's tensors as they lie in its files: each by the largest of its parts."""
    largest: dict[int, tuple[int, int, int]] = {}
    for number, file in enumerate(plan.files):
        for place in file.places:
            nbytes = place.end - place.begin
            if place.tensor not in largest or nbytes > largest[place.tensor][0]:
                largest[place.tensor] = nbytes, number, place.begin
    return sorted(range(len(plan.tensors)), key=lambda tensor: largest.get(tensor, (0, 0, 0))[1:])


def waiting(plan: Plan, place: Target, hashed: bool = False) -> int:
    """The most bytes of parts that are in memory at a time, between two tensors.

    Args:
        hashed: whether files are hashed, which takes their bytes in order.
    """
    parts = [Portions(file, place.part(file.size), place.ordered or hashed) for file in plan.files]
    pieces: dict[int, list[tuple[int, int, int]]] = {}
    for number, file in enumerate(plan.files):
        for one in file.places:
            begin = len(file.header) + one.begin
            pieces.setdefault(one.tensor, []).append((number, begin, begin + one.end - one.begin))
    held = most = 0
    for tensor in order(plan):
        for number, begin, end in pieces.get(tensor, ()):
            before = parts[number].held
            parts[number].fill(begin, end)
            held += parts[number].held - before
        most = max(most, held)
    return most * place.copies


class Portions:
    """The parts of one file, and how much of each is there.

    Attributes:
        held: bytes of the parts that something is there of and that are not to be sent yet.
    """

    def __init__(self, file: PlannedFile, nbytes: int, ordered: bool) -> None:
        self.nbytes = nbytes
        self.size = file.size
        self._ordered = ordered
        self.held = 0
        self._left = [self.length(number) for number in range(max(-(-file.size // nbytes), 1))]
        self._begun: set[int] = set()
        self._next = 0
        known = [(0, len(file.header)), (file.size - len(file.tail), file.size)]
        for begin, end in [*known, *_gaps(file)]:
            self._take(begin, end)
        self._whole = {number for number, left in enumerate(self._left) if not left}

    def _take(self, begin: int, end: int) -> list[int]:
        """Count a range; returns the parts that it is in."""
        numbers = []
        while begin < end:
            number = begin // self.nbytes
            stop = min(end, (number + 1) * self.nbytes)
            self._left[number] -= stop - begin
            numbers.append(number)
            begin = stop
        return numbers

    def fill(self, begin: int, end: int) -> list[int]:
        """Note that a range is there; returns the parts that are to be sent now, in order."""
        for number in self._take(begin, end):
            if number not in self._begun:
                self._begun.add(number)
                self.held += self.length(number)
            if not self._left[number]:
                self._whole.add(number)
        ready = [] if self._ordered else sorted(self._whole)
        while self._ordered and self._next in self._whole:
            ready.append(self._next)
            self._next += 1
        self._whole.difference_update(ready)
        self.held -= sum(self.length(number) for number in self._begun.intersection(ready))
        return ready

    def length(self, number: int) -> int:
        """Bytes of a part."""
        return min(self.nbytes, self.size - number * self.nbytes)


def _gaps(file: PlannedFile) -> list[tuple[int, int]]:
    """What a format leaves between parts: zeros that nobody writes."""
    gaps = []
    at = len(file.header)
    for place in file.places:
        begin = len(file.header) + place.begin
        if begin > at:
            gaps.append((at, begin))
        at = max(at, len(file.header) + place.end)
    end = file.size - len(file.tail)
    return [*gaps, (at, end)] if end > at else gaps
