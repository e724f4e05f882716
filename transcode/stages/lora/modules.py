"""The modules that a LoRA's file is for: their family, and what another program calls them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property

from ...catalog.spelling import Direction, Hit
from ...core.planning import Planning
from ..facts import facts_of
from .pairs import Pairs
from .recognise import WEIGHT, own_names, recognise, text_module
from .written import STYLES, Module

__all__ = ["WEIGHT", "Modules"]

_UNETS = ("sd1", "sdxl")


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
        self._family, self._direction, names, self._spelling = recognise(file, own, to, model, planning)
        for module, name in zip(own, names, strict=True):
            self.of[module.base] = replace(module, name=name)
        self._text_numbers = {one.text for one in self.of.values() if one.text}

    @property
    def forward(self) -> bool:
        """Whether the file's spelling is the one that joins modules."""
        return self._direction is not None and self._direction.forward

    def _module(self, base: str) -> Module:
        names = self._file.names
        for prefix, number in names.text_flat_prefixes.items():
            if base.startswith(prefix):
                return Module(base, self._text(base, base[len(prefix) :]), number)
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
                return Module(base, flat, flat=flat)
        bare = base
        while prefix := next((one for one in names.prefixes if bare.startswith(one)), ""):
            bare = bare[len(prefix) :]
        return Module(base, bare)

    def _text(self, base: str, flat: str) -> str:
        """The name of a text encoder's module whose dots are underscores."""
        if (name := text_module(flat.lstrip("_"))) is not None:
            return name
        if STYLES[self._to].text == f"{base[: len(base) - len(flat)].rstrip('_')}_":
            return flat
        raise self._file.error(
            base, "is of a text encoder that is not known, so its underscores may be dots or not", "drop it"
        )

    def _own(self, name: str) -> str:
        """What the program itself calls a module that the family's authors call so: where a table of LoRAs
        says it.
        """
        if self._own_names is not None:
            hit = self._own_names.find(f"{name}{WEIGHT}")
            return name if hit is None else hit.others[0].removesuffix(WEIGHT)
        return name

    @cached_property
    def _own_names(self) -> Direction | None:
        return None if self._family is None else own_names(self._family.name, self._to, self._spelling)

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
        name = self._own(name)
        prefix = style.unet if self._family is not None and self._family.name in _UNETS else style.prefix
        return prefix + (name.replace(".", "_") if style.flat else name)

    def _is(self, family: str) -> bool:
        return self._family is not None and self._family.name == family
