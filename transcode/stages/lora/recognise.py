"""Which family's modules a LoRA's file is for, and in which direction they are converted."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ... import catalog
from ...catalog.family import Family
from ...catalog.lora_modules import lora_modules
from ...catalog.lora_tables import lora_tables
from ...catalog.spelling import Conversion, Direction
from ...core.planning import Planning
from ...voice import called
from .pairs import Pairs
from .written import STYLES, Module, words_of

__all__ = ["WEIGHT", "Recognised", "own_names", "recognise", "text_module"]

WEIGHT = ".weight"

_KOHYA = {"sd1": "diffusers"}
"""Families whose modules kohya spells otherwise than ComfyUI."""

_LIKELY = {"flux": 38}
"""A family that is meant where others have the same modules but more blocks -> how many blocks it has."""

_DIFFUSERS = "diffusers"
_TEXTS = ("clip", "t5")


_NUMBER = re.compile(r"(?<![^.])\d+(?![^.])")


class Recognised(NamedTuple):
    """What all modules of a file can be.

    Attributes:
        family: None where none is known.
        direction: None where they keep their names.
        names: of the modules, with dots.
        spelling: of the family that they have then; empty where it is not known.
    """

    family: Family | None
    direction: Direction | None
    names: tuple[str, ...]
    spelling: str = ""


def recognise(
    file: Pairs, own: Sequence[Module], to: str, model: str | None, planning: Planning
) -> Recognised:
    """The family that has all modules, and the direction to the spelling that is asked for.

    Args:
        file: of the LoRA, for errors.
        own: its modules, but those of text encoders.
        to: one of :data:`.written.STYLES`.
        model: family; None to tell it by the names of modules.

    Raises:
        PlanError: which family it is is not known, and names depend on it; or some are no modules of it.
    """
    return _Recognising(file, own, to, model, planning).all()


def text_module(flat: str) -> str | None:
    """The name of a text encoder's module whose dots are underscores; None where none is known."""
    known = lora_modules()
    spellings = (one for family in _TEXTS for one in known.get(family, {}).values())
    names = {name for one in spellings if (name := one.dotted(flat)) is not None}
    return names.pop() if len(names) == 1 else None


def own_names(family: str, to: str, spelling: str) -> Direction | None:
    """From a family's modules as its authors call them to a program's names, where a table of LoRAs has any.

    Args:
        family: its name.
        to: the program, as the table calls it.
        spelling: of the authors.
    """
    for table in lora_tables():
        here, there = table.between
        if table.family == family and (here, there) == (spelling, to):
            return Direction(Conversion(table.rules), True)
    return None


class _Recognising:
    def __init__(
        self, file: Pairs, own: Sequence[Module], to: str, model: str | None, planning: Planning
    ) -> None:
        self._file, self._own, self._to, self._model, self._planning = file, own, to, model, planning
        self._near: tuple[int, str, str] = (0, "", "")
        """Most modules that a family has, it, and one that it has not."""
        self._listed_whole = False
        """Whether a family has all of them."""

    def all(self) -> Recognised:
        """See :func:`recognise`."""
        families = [self._model] if self._model is not None else [*catalog.families()]
        fitting = [one for key in families for one in self._listed(catalog.family(key))]
        if not fitting and not self._listed_whole:
            fitting = [one for key in families for one in self._by_rules(catalog.family(key))]
        # Of families that share modules, those that have such a spelling come before those of one alone.
        fitting = [one for one in fitting if one.family and self._wanted(one.family)] or fitting
        spelled = [self._spelled(one) for one in fitting]
        likely = [one for one in fitting if self._likely(one)]
        if len({*spelled}) > 1 and likely:
            one = likely[0].family
            assert one is not None
            others = [name for name in _names(fitting) if name != one.name]
            self._planning.warn(
                f"convert a LoRA to {self._to}: taken for {one.name}; {', '.join(others)} have"
                f" such modules too: if it is for one of them, say which with {called('model')}"
            )
            fitting = likely[:1]
        elif len({*spelled}) > 1:
            several = ", ".join(_names(fitting))
            raise self._file.error(
                self._own[0].base, f"may be of any of {several}", f"say which with {called('model')}"
            )
        if fitting:
            chosen = fitting[0]
            assert chosen.family is not None
            way = chosen.direction
            how = "keep their names" if way is None else f"as {self._target(chosen.family, way)} has them"
            self._planning.note(f"convert a LoRA to {self._to}: family {chosen.family.name}, modules {how}")
            return chosen
        flat = next((one for one in self._own if one.flat), None)
        count, family, lacking = self._near
        if flat is not None and not STYLES[self._to].flat:
            what = "is of no known family, so its underscores may be dots or not"
            if 2 * count > len(self._own):
                what += f"; {family} has most of the file's modules, but not {lacking!r}"
            raise self._file.error(flat.base, what, f"name the family with {called('model')}, or drop it")
        if self._model is not None and lacking:
            raise self._file.error(
                lacking,
                f"is no module of {self._model} that has a name for {self._to}",
                "drop it, or name another family",
            )
        unknown = f"convert a LoRA to {self._to}: of no known family, modules keep their names"
        if 2 * count > len(self._own):
            self._planning.warn(f"{unknown}; {family} has most of them, but not {lacking!r}")
        else:
            self._planning.note(unknown)
        return Recognised(None, None, tuple(one.name for one in self._own))

    def _listed(self, family: Family) -> Iterator[Recognised]:
        """The spellings of a family that have all modules, with the ways to the one that is asked for."""
        for spelling, modules in lora_modules().get(family.name, {}).items():
            names = [modules.dotted(one.flat) if one.flat else one.name for one in self._own]
            held = [name if name is not None and modules.holds(name) else None for name in names]
            if None in held and (theirs := own_names(family.name, "comfyui", spelling)) is not None:
                back = Direction(theirs.conversion, False)
                hits = [None if name is None else back.find(f"{name}{WEIGHT}") for name in names]
                names = [
                    name if hit is None else hit.others[0].removesuffix(WEIGHT)
                    for name, hit in zip(names, hits, strict=True)
                ]
                held = [name if name is not None and modules.holds(name) else None for name in names]
            if None in held:
                self._lacks(family, held)
            elif held and spelling in family.spellings:
                self._listed_whole = True
                yield from self._ways(family, spelling, tuple(map(str, held)))

    def _ways(self, family: Family, spelling: str, names: tuple[str, ...]) -> Iterator[Recognised]:
        """The ways from one spelling of a family to that which is asked for."""
        wanted = self._wanted(family)
        if wanted is None or spelling == wanted:
            yield Recognised(family, None, names, spelling)
            return
        ways = {
            other: Direction(conversion, spelling == left)
            for (left, right), conversion in family.conversions.items()
            for other in ([right] if spelling == left else [left] if spelling == right else [])
        }
        if wanted not in ways and spelling != _DIFFUSERS:
            if wanted != _DIFFUSERS:  # that of another model of the family
                yield Recognised(family, None, names, spelling)
            return
        if wanted == _DIFFUSERS:
            ways = {wanted: ways[wanted]}
        for other in sorted(ways, key=lambda other: other != wanted):
            hits = [ways[other].find(f"{name}{WEIGHT}") for name in names]
            if None not in hits:
                yield Recognised(family, ways[other], names, other)
                return
            self._lacks(family, hits)

    def _by_rules(self, family: Family) -> Iterator[Recognised]:
        """As :meth:`_ways`, of modules that are in no list: the rules tell which there may be. Of underscores
        in what follows a run they say nothing, so flat names are not for families that are listed.
        """
        if not self._own or (family.name in lora_modules() and any(one.flat for one in self._own)):
            return
        wanted = self._wanted(family)
        for (left, right), conversion in family.conversions.items():
            for spelling, other, forward in ((left, right, True), (right, left, False)):
                way = Direction(conversion, forward)
                words = words_of(conversion.rules, left=forward)
                names = tuple(one.named(words) for one in self._own)
                hits = [way.find(f"{name}{WEIGHT}") for name in names]
                if wanted not in (spelling, other):
                    continue
                if None in hits:
                    self._lacks(family, hits)
                else:
                    yield Recognised(family, None if wanted == spelling else way, names)

    def _likely(self, candidate: Recognised) -> bool:
        most = 0 if candidate.family is None else _LIKELY.get(candidate.family.name, 0)
        return all(int(number) < most for name in candidate.names for number in _NUMBER.findall(name))

    def _lacks(self, family: Family, hits: Sequence[object]) -> None:
        known = len(hits) - hits.count(None)
        self._near = max(self._near, (known, family.name, self._own[hits.index(None)].base))

    def _wanted(self, family: Family) -> str | None:
        """The spelling that a program's LoRAs for a family have; None where it has but one."""
        if self._to == "kohya" and family.name in _KOHYA:
            return _KOHYA[family.name]
        if self._to in ("diffusers", "peft"):
            return _DIFFUSERS if _DIFFUSERS in family.spellings else None
        return next((name for name, one in family.spellings.items() if "ComfyUI" in one.title), None)

    def _target(self, family: Family, way: Direction) -> str:
        for (left, right), conversion in family.conversions.items():
            if conversion is way.conversion:
                return right if way.forward else left
        raise AssertionError(family.name)

    def _spelled(self, candidate: Recognised) -> object:
        """What the modules become, to compare."""
        spelled: list[tuple[str, ...]] = [(name,) for name in candidate.names]
        if candidate.direction is not None:
            hits = [candidate.direction.find(f"{name}{WEIGHT}") for name in candidate.names]
            spelled = [
                tuple(one.removesuffix(WEIGHT) for one in hit.others) for hit in hits if hit is not None
            ]
        if STYLES[self._to].flat:
            spelled = [tuple(one.replace(".", "_") for one in some) for some in spelled]
        return tuple(spelled)


def _names(candidates: Sequence[Recognised]) -> list[str]:
    """Of the families, each once."""
    return [*dict.fromkeys(one.family.name for one in candidates if one.family is not None)]
