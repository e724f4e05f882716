"""Loads ``formats/foreign/names.yaml``: how files are quantized that are recognised and not decoded."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ..core.dtypes import FLOATS
from . import strict
from .folders import find

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
        known = sorted({ending for lists in self.parts.values() for endings in lists for ending in endings})
        has: dict[str, set[str]] = defaultdict(set)
        for name in stored:
            for ending in known:
                if name.endswith(ending):
                    has[name.removesuffix(ending)].add(ending)
        found = {}
        for module, endings in has.items():
            for title, lists in self.parts.items():
                fitting = next(
                    (
                        wanted
                        for wanted in lists
                        if endings.issuperset(wanted) and stored[module + wanted[0]] not in FLOATS
                    ),
                    None,
                )
                if fitting is not None:
                    found[module] = (title, fitting)
                    break
        return found


def foreign() -> Foreign:
    """The table in use.

    Raises:
        RecipeError: a mistake in the file, with its line.
    """
    path = find("foreign", "names")
    facts = path.stat()
    return _parsed(path, (facts.st_mtime_ns, facts.st_size))


@lru_cache(maxsize=8)
def _parsed(path: Path, _version: tuple[int, int]) -> Foreign:
    top = strict.load(path).mapping()
    node = top.need("foreign")
    if node.string() != path.stem:
        raise node.error(f"{node.string()!r} is not the name of the file", f"call it {path.stem!r}")
    table = Foreign(
        methods={key: child.string() for key, child in top.need("methods").mapping().items()},
        parts={
            key: tuple(tuple(endings.strings()) for endings in child.sequence())
            for key, child in top.need("parts").mapping().items()
        },
    )
    top.reject_unknown()
    return table
