"""Loads ``formats/foreign/twins.yaml``: how the two models lie that take turns, and what tells them apart."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from ..core.records import dataclass
from . import strict
from .folders import find
from .proven import proven

__all__ = ["NOISES", "Arrangement", "arrangements", "noise_of", "pairs_of"]

NOISES = ("high", "low")
"""Which steps a model takes: those of high noise come first."""


@dataclass(frozen=True, slots=True)
class Arrangement:
    """How a program has the two models.

    Attributes:
        names: noise -> its folder; or, of files, the stem of its name, where ``{stem}`` is that of all.
        files: they are files beside each other.
        spellings: of the tensors' names, for which it is.
        conventions: of how tensors are stored, for which it is.
    """

    names: Mapping[str, str]
    files: bool = False
    spellings: tuple[str, ...] = ()
    conventions: tuple[str, ...] = ()

    def fits(self, spelling: str | None, convention: str) -> bool:
        """Whether it is for a model that is spelled and stored so."""
        anything = not self.spellings and not self.conventions
        return anything or spelling in self.spellings or convention in self.conventions


def arrangements() -> tuple[Arrangement, ...]:
    """All, in the order in which the first that fits is taken.

    Raises:
        RecipeError: a mistake in the file, with its line.
    """
    return proven(_table, find("foreign", "twins"))


def _table(path: Path) -> tuple[Arrangement, ...]:
    top = strict.catalog_file(path, "foreign")
    table = tuple(_arrangement(child) for _, child in top.need("arrangements").mapping().items())
    top.reject_unknown()
    return table


def _arrangement(node: strict.Node) -> Arrangement:
    top = node.mapping()
    files = top.find("files")
    names = (top.need("folders") if files is None else files).mapping()
    arrangement = Arrangement(
        {noise: names.need(noise).string() for noise in NOISES},
        files is not None,
        tuple(top.get("spellings", strict.Node.strings, ())),
        tuple(top.get("conventions", strict.Node.strings, ())),
    )
    names.reject_unknown()
    top.reject_unknown()
    return arrangement


_WORD = r"(?i)(?<![a-z])(high|low)(?=[-_. ]?noise|[-_. ]|$)"
"""A word of a name that tells two files from each other: ``high_noise``, ``HighNoise``, ``HIGH``."""

_SURE = r"(?i)(?<![a-z])(high|low)[-_. ]?noise"
"""What tells it of one file alone: ``high`` may be that of a quality."""


def noise_of(name: str) -> str | None:
    """Which of the two models a name says that it is, or is for; None where it says neither."""
    said = {match[1].lower() for match in re.finditer(_SURE, name)}
    return said.pop() if len(said) == 1 else None


def pairs_of(names: Iterable[str]) -> list[dict[str, str]]:
    """Names of folders or files that are two models which take turns, as noise -> name.

    They are told apart by a word for their noise alone, or are folders of one of :func:`arrangements`.
    """
    names = list(names)
    known = [dict(one.names) for one in arrangements() if not one.files]
    pairs = [pair for pair in known if set(pair.values()) <= set(names)]
    alike: dict[str, dict[str, str]] = {}
    for name in names:
        said = {match[1].lower() for match in re.finditer(_WORD, name)}
        if len(said) == 1:
            alike.setdefault(re.sub(_WORD, "\0", name).lower(), {}).setdefault(said.pop(), name)
    worded = [{noise: pair[noise] for noise in NOISES} for pair in alike.values() if len(pair) > 1]
    return pairs + [pair for pair in worded if pair not in pairs]
