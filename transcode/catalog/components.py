"""Loads ``formats/foreign/components.yaml``: which models one file holds, and below which prefixes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field
from functools import cached_property
from pathlib import Path

from ..core.nearest import guess
from ..core.records import dataclass
from ..errors import PlanError
from ..voice import called
from . import strict
from .folders import find
from .proven import proven

__all__ = ["OTHER", "Component", "ComponentTable", "Components", "component_table"]

OTHER = "other"
"""What is called that belongs to no component."""

_DENOISER, _UNET = "transformer", "unet"


@dataclass(frozen=True, slots=True)
class Component:
    """One model of an all-in-one file.

    Attributes:
        name: e.g. ``"clip_l"``.
        prefix: what begins all of its names, with its dot; empty for what belongs to no component.
        folder: of a pipeline in Diffusers' layout, e.g. ``"text_encoder_2"``.
        stem: of its file there.
        names: what it is called besides.
        tensors: how many it has.
    """

    name: str
    prefix: str
    folder: str
    stem: str
    names: tuple[str, ...] = ()
    tensors: int = 0

    @property
    def file(self) -> str:
        """Its file in a pipeline's folder."""
        return f"{self.folder}/{self.stem}.safetensors"

    def called(self, name: str) -> bool:
        """Whether it goes by that name."""
        return name in (self.name, self.folder, *self.names)


@dataclass(frozen=True)
class Components:
    """The components of one file.

    Attributes:
        all: in the order of the table; what belongs to none comes last.
    """

    all: tuple[Component, ...]
    _table: ComponentTable = field(repr=False)

    def of(self, name: str) -> Component | None:
        """The component that a tensor belongs to, :data:`OTHER` among them; None where there are none."""
        return self._by_name.get(self._table.owner(name) or OTHER)

    def find(self, name: str, what: str) -> Component:
        """The component of a name, such as ``transformer``, ``vae``, ``text_encoder_2``, ``clip_l``.

        Args:
            what: who asks, for the error.

        Raises:
            PlanError: there is none.
        """
        exact = [one for one in self.all if name in (one.folder, one.name)]
        meant = exact or [one for one in self.all if one.called(name)]
        if meant:
            return meant[0]
        held = [one.folder for one in self.all if one.name != OTHER]
        if not held:
            raise PlanError(
                f"{what} {name}: no tensor's name begins as those of a component",
                hint=f"it is one model: leave {called('component')} out",
            )
        raise PlanError(f"{what} {name}: it holds {', '.join(held)}{guess(name, held)}")

    @cached_property
    def several(self) -> bool:
        """Whether there are models beside the one that denoises, or beside each other."""
        return len([one for one in self.all if one.name != OTHER]) > 1

    @cached_property
    def _by_name(self) -> dict[str, Component]:
        return {one.name: one for one in self.all}


@dataclass(frozen=True)
class _Entry:
    """What the table says of one component."""

    prefixes: tuple[str, ...]
    folder: str
    stem: str
    names: tuple[str, ...]
    unet: tuple[str, ...]
    whole: bool

    @property
    def usual(self) -> str:
        """The prefix that a file without a word of it gets."""
        return "" if self.whole else self.prefixes[0]


@dataclass(frozen=True)
class ComponentTable:
    """Names by which the components of a file are told from each other.

    Attributes:
        entries: by name.
        beside: names below a component's prefix that are none of its own, ``*`` for one name component.
    """

    entries: Mapping[str, _Entry]
    beside: tuple[str, ...] = ()

    def held(self, names: Iterable[str]) -> Components:
        """The components of a file.

        Args:
            names: of its tensors.
        """
        names = list(names)
        groups: dict[str, list[str]] = {}
        for name in names:
            groups.setdefault(self.owner(name) or OTHER, []).append(name)
        order = {key: at for at, key in enumerate(self.entries)}
        keys = sorted(groups, key=lambda key: (key == OTHER, order.get(key, len(order)), key))
        folders: Counter[str] = Counter()
        components: list[Component] = []
        for key in keys:
            if key == OTHER:
                components.append(Component(OTHER, "", OTHER, "model", tensors=len(groups[key])))
                continue
            entry = self.entries.get(key) or next(one for one in self.entries.values() if _wild(one))
            prefix = self._prefix(key, entry, groups[key])
            runs = tuple(f"{prefix}{run}." for run in entry.unet)
            unet = bool(runs) and any(name.startswith(runs) for name in groups[key])
            folder = _UNET if unet else entry.folder
            folders[folder] += 1
            numbered = folder if folders[folder] == 1 else f"{folder}_{folders[folder]}"
            components.append(Component(key, prefix, numbered, entry.stem, entry.names, len(groups[key])))
        return Components(tuple(components), self)

    def owner(self, name: str) -> str | None:
        """The component that a tensor is of, by its name; None where it is of none."""
        if not name.startswith(self._beginnings):
            return None  # nearly all tensors
        regex, keys = self._prefixed
        match = regex.match(name)
        if match is None or (self.beside and self._beside.fullmatch(name)):
            return None
        return match[match.lastindex] if match.lastindex else keys[match[0]]

    def holds(self, folder: str) -> bool:
        """Whether a subfolder of that name holds a model, in Diffusers' layout, numbered or not."""
        name = re.sub(r"_[0-9]+$", "", folder)
        return any(name in (entry.folder, _UNET) for entry in self.entries.values())

    def served(self, names: Sequence[str]) -> Sequence[str]:
        """The names of the model that denoises, where a file holds others that serve it; else all names."""
        own = [name for name in names if self.owner(name) == _DENOISER]
        return own or names

    def _prefix(self, key: str, entry: _Entry, names: Sequence[str]) -> str:
        """The longest prefix that all names of a component begin with; empty where there is none."""
        if entry.whole:
            return ""
        known = (prefix.replace("*", key) for prefix in entry.prefixes)
        fitting = [prefix for prefix in known if all(name.startswith(prefix) for name in names)]
        return max(fitting, key=len, default="")

    @cached_property
    def _beginnings(self) -> tuple[str, ...]:
        """Texts with one of which all names begin that have a prefix, as few as will do."""
        prefixes = (prefix for entry in self.entries.values() for prefix in entry.prefixes)
        texts: list[str] = []
        for text in sorted(prefix.partition("*")[0] for prefix in prefixes):
            if not text.startswith(tuple(texts)):
                texts.append(text)
        return tuple(texts)

    @cached_property
    def _prefixed(self) -> tuple[re.Pattern[str], dict[str, str]]:
        """What names begin with as one expression, and the component of each prefix. The longest stands
        first; those in which the component says its name itself come behind the others.
        """
        keys: dict[str, str] = {}
        for key, entry in self.entries.items():
            for prefix in entry.prefixes:
                keys.setdefault(prefix, key)
        ordered = sorted(keys, key=lambda prefix: ("*" in prefix, -len(prefix)))
        wild = [re.escape(prefix).replace(r"\*", "([^.]+)") for prefix in ordered if "*" in prefix]
        texts = [re.escape(prefix) for prefix in ordered if "*" not in prefix]
        return re.compile("|".join((*texts, *wild))), keys

    @cached_property
    def _beside(self) -> re.Pattern[str]:
        return re.compile("|".join(re.escape(name).replace(r"\*", "[^.]+") for name in self.beside))

    def __reduce__(self) -> tuple[type[ComponentTable], tuple[dict[str, _Entry], tuple[str, ...]]]:
        return ComponentTable, (dict(self.entries), self.beside)


def _wild(entry: _Entry) -> bool:
    return any("*" in prefix for prefix in entry.prefixes)


def component_table() -> ComponentTable:
    """The table in use.

    Raises:
        RecipeError: a mistake in the file, with its line.
    """
    return proven(_table, find("foreign", "components"))


def _table(path: Path) -> ComponentTable:
    top = strict.catalog_file(path, "foreign")
    entries: dict[str, _Entry] = {}
    for name, child in top.need("components").mapping().items():
        entry = child.mapping()
        entries[name] = _Entry(
            tuple(_prefix(one) for one in entry.need("prefixes").sequence()),
            entry.need("folder").string(),
            entry.need("stem").string(),
            tuple(entry.get("names", strict.Node.strings, ())),
            tuple(entry.get("unet", strict.Node.strings, ())),
            entry.get("whole", strict.Node.boolean, False),
        )
        entry.reject_unknown()
    beside = tuple(top.get("beside", strict.Node.strings, ()))
    top.reject_unknown()
    if sum(map(_wild, entries.values())) > 1:
        raise top.need("components").error("more than one component takes its name from a prefix")
    return ComponentTable(entries, beside)


def _prefix(node: strict.Node) -> str:
    text = node.string()
    if not text.endswith(".") or text.startswith(".") or text.count("*") > 1:
        raise node.error(f"{text!r} is no prefix", "whole components with their dots, one * at most")
    return text
