"""The modules that a LoRA's file is for: their family, and what another program calls them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ... import catalog
from ...catalog.family import Family
from ...catalog.spelling import Direction, Hit
from ...core.planning import Planning
from ...voice import called
from ..facts import facts_of
from .pairs import Pairs
from .written import STYLES, Module, dotted, words_of

__all__ = ["WEIGHT", "Modules"]

WEIGHT = ".weight"

_UNETS = ("sd1", "sdxl")
_KOHYA = {"sd1": "diffusers"}
"""Families whose modules kohya spells otherwise than ComfyUI."""


class Modules:
    """The modules of a file, by the names that it has for them.

    Args:
        file: it.
        to: one of :data:`.written.STYLES`.
        model: family; None to tell it by the names of modules.

    Attributes:
        of: what is known of each.

    Raises:
        PlanError: which family it is is not known, and names depend on it.
    """

    def __init__(self, file: Pairs, to: str, model: str | None, planning: Planning) -> None:
        self._to, self._style, self._planning, self._file = to, STYLES[to], planning, file
        bases = [*file.sorted.adapted, *(base for base, _, _ in file.sorted.differences)]
        self.of = {base: self._module(base) for base in bases}
        own = [one for one in self.of.values() if not one.text]
        self._family, self._direction = self._recognise(own, model)
        self._text_numbers = {one.text for one in self.of.values() if one.text}

    @property
    def forward(self) -> bool:
        """Whether the file's spelling is the one that joins modules."""
        return self._direction is not None and self._direction.forward

    def _module(self, base: str) -> Module:
        names = self._file.names
        for prefix, number in names.text_flat_prefixes.items():
            if base.startswith(prefix):
                return Module(base, dotted(base[len(prefix) :], frozenset()), number)
        for prefix, numbers in names.text_prefixes.items():
            if base.startswith(prefix):
                if len(numbers) > 1:
                    raise self._file.error(
                        self._file.key(base),
                        "is of a text encoder whose number no name tells",
                        "rename it first",
                    )
                return Module(base, base[len(prefix) :], numbers[0])
        for prefix in names.flat_prefixes:
            if base.startswith(prefix):
                flat = base[len(prefix) :].lstrip("_")
                return Module(base, dotted(flat, frozenset()), flat=flat)
        bare = base
        while prefix := next((one for one in names.prefixes if bare.startswith(one)), ""):
            bare = bare[len(prefix) :]
        return Module(base, bare)

    def _recognise(self, own: list[Module], model: str | None) -> tuple[Family | None, Direction | None]:
        """The family whose rules know all modules, and the direction to the spelling that is asked for."""
        fitting: list[tuple[Family, Direction | None, tuple[str, ...], object]] = []
        near: tuple[int, str, str] = (
            0,
            "",
            "",
        )  # most modules that a family knows, it, and one that it does not
        for key in [model] if model is not None else catalog.families():
            family = catalog.family(key)
            wanted = self._spelling(family)
            for (left, right), conversion in family.conversions.items():
                for spelling, other, forward in ((left, right, True), (right, left, False)):
                    direction = Direction(conversion, forward)
                    words = words_of(conversion.rules, left=forward)
                    names = tuple(one.named(words) for one in own)
                    hits = [direction.find(f"{name}{WEIGHT}") for name in names]
                    if not names or wanted not in (spelling, other):
                        continue
                    if None in hits:
                        known = len(hits) - hits.count(None)
                        near = max(near, (known, family.name, own[hits.index(None)].base))
                        continue
                    spellings: tuple[tuple[str, ...], ...] = tuple((name,) for name in names)
                    if wanted != spelling:
                        spellings = tuple(tuple(map(_bare, hit.others)) for hit in hits if hit is not None)
                    if self._style.flat:
                        spellings = tuple(tuple(one.replace(".", "_") for one in some) for some in spellings)
                    fitting.append((family, None if wanted == spelling else direction, names, spellings))
        if len({spellings for _, _, _, spellings in fitting}) > 1:
            families = ", ".join(dict.fromkeys(family.name for family, _, _, _ in fitting))
            raise self._file.error(
                next(iter(self.of)), f"may be of any of {families}", f"say which with {called('model')}"
            )
        if fitting:
            family, chosen, names, _ = fitting[0]
            for module, name in zip(own, names, strict=True):
                self.of[module.base] = replace(module, name=name)
            how = "keep their names" if chosen is None else f"as {self._spelling(family)} has them"
            self._planning.note(f"convert a LoRA to {self._to}: family {family.name}, modules {how}")
            return family, chosen
        if any(base.startswith(self._file.names.flat_prefixes) for base in self.of) and not self._style.flat:
            raise self._file.error(
                next(iter(self.of)),
                "is of no known family, so its underscores may be dots or not",
                f"name the family with {called('model')}",
            )
        if model is not None and near[2]:
            raise self._file.error(
                near[2],
                f"is no module of {model} that has a name for {self._to}",
                "drop it, or name another family",
            )
        unknown = f"convert a LoRA to {self._to}: of no known family, modules keep their names"
        if 2 * near[0] > len(own):
            self._planning.warn(f"{unknown}; {near[1]} has most of them, but not {near[2]!r}")
        else:
            self._planning.note(unknown)
        return None, None

    def _spelling(self, family: Family) -> str | None:
        if self._to == "kohya" and family.name in _KOHYA:
            return _KOHYA[family.name]
        if self._to in ("diffusers", "peft"):
            return "diffusers" if "diffusers" in family.spellings else None
        return next((name for name, one in family.spellings.items() if "ComfyUI" in one.title), None)

    def facts(self) -> Mapping[str, object]:
        """Keys of the model's config.json, where one came with the file."""
        return facts_of(self._planning)

    def moves_rows(self, hit: Hit) -> bool:
        """Whether rows are all that moves, so that what is said of them can go along."""
        return hit.rule.keeps_rows and not any(hit.rule.shapes)

    def hit(self, module: Module) -> Hit | None:
        if module.text or self._direction is None:
            return None
        return self._direction.find(f"{module.name}{WEIGHT}")

    def renamed(self, module: Module, hit: Hit | None) -> str:
        return module.name if hit is None else hit.others[0].removesuffix(WEIGHT)

    def spelled(self, name: str, text: int, key: str) -> str:
        """A module as the program spells it, with what stands before."""
        style = self._style
        if text:
            if style.text is None:
                raise self._file.error(
                    key,
                    f"is of a text encoder, and {self._to} keeps one model in a file",
                    "drop it, or convert it by itself",
                )
            number = "" if text == 1 and self._text_numbers == {1} and self._is("sd1") else str(text)
            prefix = style.text.replace("{n}", number).replace("{_n}", "" if text == 1 else f"_{text}")
            return prefix + (name.replace(".", "_") if prefix.startswith("lora_te") else name)
        prefix = style.unet if self._family is not None and self._family.name in _UNETS else style.prefix
        return prefix + (name.replace(".", "_") if style.flat else name)

    def _is(self, family: str) -> bool:
        return self._family is not None and self._family.name == family


def _bare(name: str) -> str:
    return name.removesuffix(WEIGHT)
