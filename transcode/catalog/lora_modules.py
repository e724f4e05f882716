"""Loads ``formats/lora/modules.yaml``: the modules that models of each family have."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path

from ..core.records import dataclass
from . import strict
from .folders import find
from .proven import proven
from .rule import NUMBER

__all__ = ["MODULES", "ModuleNames", "lora_modules"]

MODULES = "modules"
"""Name of the file."""

_IN_DOTS = re.compile(r"(?<![^.])\d+(?=\.)")
_IN_EITHER = re.compile(r"(?<![^._])(?:\d+|\{i\})(?![^._])")


@dataclass(frozen=True)
class ModuleNames:
    """The modules of one family's models in one spelling.

    Attributes:
        runs: their names, ``{i}`` for numbers but the last component.
    """

    runs: frozenset[str]

    def holds(self, name: str) -> bool:
        """Whether it is the name of one."""
        return _IN_DOTS.sub(NUMBER, name) in self.runs

    def dotted(self, flat: str) -> str | None:
        """The name of the one whose name is this where dots are underscores; None where none or several are.

        >>> ModuleNames(frozenset(["a_b.{i}.c_1"])).dotted("a_b_7_c_1")
        'a_b.7.c_1'
        """
        numbers = _IN_EITHER.findall(flat)
        fitting = set()
        for run in self._flat.get(_IN_EITHER.sub(NUMBER, flat), ()):
            said = _IN_EITHER.findall(run)
            if all(one in (NUMBER, number) for one, number in zip(said, numbers, strict=True)):
                first, *rest = _IN_EITHER.split(run)
                fitting.add(first + "".join(map("".join, zip(numbers, rest, strict=True))))
        return fitting.pop() if len(fitting) == 1 else None

    @cached_property
    def _flat(self) -> Mapping[str, list[str]]:
        flat: dict[str, list[str]] = defaultdict(list)
        for run in self.runs:
            flat[_IN_EITHER.sub(NUMBER, run.replace(".", "_"))].append(run)
        return flat


def lora_modules() -> Mapping[str, Mapping[str, ModuleNames]]:
    """Family -> spelling -> the modules of its models. Raises RecipeError: a mistake in the file."""
    return proven(_families, find("lora", MODULES))


def _families(path: Path) -> dict[str, dict[str, ModuleNames]]:
    top = strict.catalog_file(path, "lora")
    families = {
        family: {
            spelling: ModuleNames(frozenset(_modules(node))) for spelling, node in child.mapping().items()
        }
        for family, child in top.need("families").mapping().items()
    }
    top.reject_unknown()
    return families


def _modules(node: strict.Node) -> Iterable[str]:
    for head, leaves in node.mapping().items():
        for leaf in leaves.strings():
            yield f"{head}.{leaf}" if head else leaf
