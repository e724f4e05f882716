"""The fates of a plan's tensors, folded into rows as tables show them."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace

from ...core.event import Event
from ...plan.fates import Fate, Section
from ...plan.plan import Plan
from ..folding import Row, fold, starred

__all__ = ["fates", "rows_of", "story"]

_RESPELLED = ("rename", "split", "join", "rearrange")
"""Deeds of which the new name says most."""


def fates(plan: Plan) -> list[Fate]:
    """What becomes of every tensor of a plan; of what is respelled alone, the reason is its new name."""
    everything = plan.fates()
    written, gone = everything[: len(plan.tensors)], everything[len(plan.tensors) :]
    if all(fate.deed not in _RESPELLED for fate in written):
        return everything
    names = starred([fate.tensor.name for fate in written])
    named = [
        replace(fate, why=f"-> {name}") if fate.deed in _RESPELLED else fate
        for fate, name in zip(written, names, strict=True)
    ]
    return named + gone


def rows_of(parts: Sequence[Section]) -> list[list[Row[Fate]]]:
    """The tensors of each section, folded: those of a row have one shape and one story."""
    kind = _Kinds()
    named = [
        (fate.name, (number, kind(fate)), fate) for number, part in enumerate(parts) for fate in part.fates
    ]
    rows: list[list[Row[Fate]]] = [[] for _ in parts]
    numbers: dict[Hashable, int] = {key: key[0] for _, key, _ in named}
    for row in fold(named):
        rows[numbers[row.key]].append(row)
    return rows


class _Kinds:
    """A number for each shape and story that tensors have, found once for all whose facts are one object."""

    def __init__(self) -> None:
        self._numbers: dict[object, int] = {}
        self._known: dict[object, int] = {}

    def __call__(self, fate: Fate) -> int:
        tensor = fate.tensor
        same = id(fate.before), fate.why, id(tensor.parts), *map(id, tensor.fate)
        number = self._known.get(same)
        if number is None:
            alike = _shape(fate), fate.why, story(fate, folded=True)
            number = self._known[same] = self._numbers.setdefault(alike, len(self._numbers))
        return number


def story(fate: Fate, *, folded: bool = False) -> str:
    """All that was done to a tensor. Folded: without the numbers of its own names."""
    events = "; ".join(_folded(event) if folded else str(event) for event in fate.tensor.fate)
    return events or "keep"


def _shape(fate: Fate) -> tuple[object, ...]:
    return (fate.before and fate.before.shape, tuple((part.role, part.spec) for part in fate.tensor.parts))


def _folded(event: Event) -> str:
    """An event without what is of one tensor: its names, the peak of its inputs."""
    if event.kind in ("rename", "absorb", "calibrate") or (event.kind == "convert" and event.what):
        return event.label
    return str(event)
