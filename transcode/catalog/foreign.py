"""Loads ``formats/foreign/names.yaml``: how files are quantized that are recognised and not decoded."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from ..core.dtypes import FLOATS
from ..core.records import dataclass
from . import strict
from .folders import find
from .proven import proven

__all__ = ["Foreign", "foreign"]


@dataclass(frozen=True, slots=True)
class Foreign:
    """Names by which other ways to quantize are known.

    Attributes:
        methods: ``quant_method`` of config.json -> what it is called.
        parts: what it is called -> lists of name endings that one module then has, all of a list; the first
            is that of the codes.
    """

    methods: Mapping[str, str]
    parts: Mapping[str, tuple[tuple[str, ...], ...]]

    def recognise(self, stored: Mapping[str, str]) -> dict[str, tuple[str, tuple[str, ...]]]:
        """Modules that are quantized so: module -> what it is called, and the endings that tell it.

        Args:
            stored: dtype of each name in the file. Plain floats are no codes.
        """
        known = {ending for lists in self.parts.values() for endings in lists for ending in endings}
        has: dict[str, set[str]] = defaultdict(set)
        for name in stored:
            # An ending has one or two components.
            parent, _, leaf = name.rpartition(".")
            module, _, above = parent.rpartition(".")
            for before, ending in ((parent, f".{leaf}"), (module, f".{above}.{leaf}")):
                if ending in known:
                    has[before].add(ending)
        recognised = {}
        fitting: dict[frozenset[str], list[tuple[str, tuple[str, ...]]]] = {}  # modules are alike
        for module, endings in has.items():
            key = frozenset(endings)
            if key not in fitting:
                fitting[key] = [
                    (title, wanted)
                    for title, lists in self.parts.items()
                    for wanted in lists
                    if key.issuperset(wanted)
                ]
            for title, wanted in fitting[key]:
                if stored[module + wanted[0]] not in FLOATS:
                    recognised[module] = (title, wanted)
                    break
        return recognised


def foreign() -> Foreign:
    """The table in use.

    Raises:
        RecipeError: a mistake in the file, with its line.
    """
    return proven(_foreign, find("foreign", "names"))


def _foreign(path: Path) -> Foreign:
    top = strict.catalog_file(path, "foreign")
    table = Foreign(
        methods={key: child.string() for key, child in top.need("methods").mapping().items()},
        parts={
            key: tuple(tuple(endings.strings()) for endings in child.sequence())
            for key, child in top.need("parts").mapping().items()
        },
    )
    top.reject_unknown()
    return table
