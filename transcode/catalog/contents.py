"""Loads ``formats/foreign/contents.yaml``: what checkpoints are, or hold beside other things."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path

from ..core.patterns import Pattern
from ..core.records import dataclass
from . import strict
from .folders import find
from .indexes import any_indexes, tells_indexes
from .proven import proven

__all__ = ["Contents", "contents"]


@dataclass(frozen=True)
class Contents:
    """Names by which it is told what a checkpoint is.

    Attributes:
        whole: what it is called -> patterns, of which one tensor tells that the checkpoint is one.
        part: what it is called -> patterns of the tensors that belong to one.
        families: families that are one of these.
    """

    whole: Mapping[str, tuple[Pattern, ...]]
    part: Mapping[str, tuple[Pattern, ...]]
    families: Mapping[str, str]

    def held(self, names: Sequence[str], family: str | None = None) -> list[str]:
        """What a checkpoint is or holds, in words: ``VAE``, ``VAE inside``.

        Args:
            names: of its tensors.
            family: the one that it is of, where one is known.
        """
        said = [] if family is None or family not in self.families else [self.families[family]]
        kinds = Counter(any_indexes(names) if self._counts_alike else names)
        alike = list(kinds)
        for title in dict.fromkeys((*self.whole, *self.part)):
            whole, part = self.whole.get(title, ()), self.part.get(title, ())
            fitting = sum(kinds[kind] for kind in {one for pattern in part for one in pattern.among(alike)})
            if 2 * fitting > len(names) or any(pattern.among(alike) for pattern in whole):
                said.append(title)
            elif fitting:
                said.append(f"{title} inside")
        return list(dict.fromkeys(said))

    @cached_property
    def _counts_alike(self) -> bool:
        """Whether no pattern tells indexes of two digits and more from each other."""
        groups = (*self.whole.values(), *self.part.values())
        return not any(tells_indexes(pattern.text) for group in groups for pattern in group)


def contents() -> Contents:
    """The table in use.

    Raises:
        RecipeError: a mistake in the file, with its line.
    """
    return proven(_contents, find("foreign", "contents"))


def _contents(path: Path) -> Contents:
    top = strict.catalog_file(path, "foreign")
    whole: dict[str, tuple[Pattern, ...]] = {}
    part: dict[str, tuple[Pattern, ...]] = {}
    for title, child in top.need("contents").mapping().items():
        rules = child.mapping()
        for key, patterns in (("whole", whole), ("part", part)):
            if texts := rules.get(key, strict.Node.strings, ()):
                patterns[title] = child.at(partial(_patterns, texts))
        rules.reject_unknown()
    families = {key: child.string() for key, child in top.need("families").mapping().items()}
    top.reject_unknown()
    return Contents(whole, part, families)


def _patterns(texts: list[str]) -> tuple[Pattern, ...]:
    return tuple(map(Pattern, texts))
