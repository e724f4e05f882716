"""Recognising an architecture from the names of its tensors."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import field
from functools import cached_property, lru_cache

from ..core.patterns import glob_regex, whole_glob
from ..core.records import dataclass
from ..errors import RecipeError

__all__ = ["Signature", "fold"]

_LONGEST = 512
_MOST_KINDS = 20_000
_MOST_PREFIXES = 100  # models in one file; all names are looked at for each
_LITERAL = re.compile(r"[\w.]+(?![^\[]*\])")
_FOLDED = re.compile(r"(?<![^.\n])\d{2,}(?![^.\n])")


def fold(names: Iterable[str]) -> list[str]:
    """Each kind of name once: indexes above 9 become 9. Sorted.

    Names and lists of kinds that are longer than those of any model are cut: no architecture has them, and
    looking at a name takes the square of its length.

    A model of 60 blocks of 256 experts has 50,000 names of 20 kinds; recognition looks at kinds.
    """
    return list(_folded("\n".join([name for name in names if len(name) <= _LONGEST])))


@lru_cache(maxsize=1)  # stage after stage asks the same of the same names
def _folded(text: str) -> list[str]:
    return sorted(set(_FOLDED.sub("9", text).split("\n")))[:_MOST_KINDS]


@lru_cache(maxsize=1)  # spelling after spelling asks the same of the same names
def _text(names: tuple[str, ...]) -> str:
    return "\n".join(names)


@dataclass(frozen=True)
class Signature:
    """What the names of an architecture have that no other's have.

    Globs (``*`` may span dots) fit a name from its beginning, behind a prefix that all share, up to the end
    of a component. Indexes above 9 are not to be relied on (see :func:`fold`).

    Attributes:
        all: each fits some name; of several with `` | `` between them one does. The first finds the prefix.
        none: none of these fits any name.
        shapes: glob -> shape of what it fits, None for any length.
    """

    all: tuple[str, ...]
    none: tuple[str, ...] = ()
    shapes: Mapping[str, tuple[int | None, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.all:
            raise RecipeError("a signature needs a pattern that fits")
        for glob in (*self.all, *self.none, *self.shapes):
            if _FOLDED.search(glob):
                raise RecipeError(
                    f"{glob!r}: indexes above 9 cannot be recognised", hint="use a smaller one, or *"
                )
            if "[" in glob:
                glob_regex(glob)  # no other glob can be bad; compiling all of them is felt at every call

    @cached_property
    def _find(self) -> re.Pattern[str]:
        return re.compile(whole_glob(self.all[0], r"((?:[^.]+\.)*?)"))

    @cached_property
    def _literal(self) -> str:
        """The longest text that a name must have which the first glob fits."""
        return max(_LITERAL.findall(self.all[0]), key=len, default="")

    @cached_property
    def _all(self) -> list[re.Pattern[str]]:
        return [_either(glob) for glob in self.all[1:]]

    @cached_property
    def _none(self) -> list[re.Pattern[str]]:
        return [_whole(glob) for glob in self.none]

    def fit(self, names: Collection[str], shapes: Mapping[str, tuple[int, ...]] | None = None) -> str | None:
        """The prefix of the names when they are of this architecture, else None.

        Args:
            names: all names of a checkpoint.
            shapes: shape of each, where known; without them conditions on shapes count as met.
        """
        return self.fit_folded(fold(names), shapes)

    def fit_folded(self, names: list[str], shapes: Mapping[str, tuple[int, ...]] | None = None) -> str | None:
        """As :meth:`fit`, of names that are folded already."""
        if self._literal not in _text(tuple(names)):
            return None  # no expression is compiled for the many that are nothing like it
        prefixes = dict.fromkeys(match[1] for match in map(self._find.match, names) if match)
        for prefix in sorted(prefixes, key=len)[:_MOST_PREFIXES]:
            if self._fits(prefix, names) and self._has_shapes(prefix, shapes):
                return prefix
        return None

    def _fits(self, prefix: str, names: list[str]) -> bool:
        within = [name[len(prefix) :] for name in names if name.startswith(prefix)]
        return all(any(map(regex.match, within)) for regex in self._all) and not any(
            any(map(regex.match, within)) for regex in self._none
        )

    def _has_shapes(self, prefix: str, shapes: Mapping[str, tuple[int, ...]] | None) -> bool:
        if shapes is None:
            return True
        for glob, wanted in self.shapes.items():
            regex = _whole(glob)
            for name, shape in shapes.items():
                if name.startswith(prefix) and regex.match(name, len(prefix)):
                    if len(shape) != len(wanted):
                        return False
                    if any(want not in (None, length) for want, length in zip(wanted, shape, strict=True)):
                        return False
        return True


def _either(globs: str) -> re.Pattern[str]:
    return re.compile("|".join(f"(?:{whole_glob(glob)})" for glob in globs.split(" | ")))


def _whole(glob: str) -> re.Pattern[str]:
    return re.compile(whole_glob(glob))
