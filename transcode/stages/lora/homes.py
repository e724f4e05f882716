"""Where in a model lies what a LoRA names: which tensors, and which rows of them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache

from ...core.records import dataclass

__all__ = ["Home", "Move", "Place", "Stored", "matches", "regex_of"]


@dataclass(frozen=True, slots=True)
class Move:
    """Rows ``source`` to ``source + count`` of what is named become rows from ``target`` on of a tensor."""

    source: int
    target: int
    count: int


@dataclass(frozen=True, slots=True)
class Place:
    """A tensor of the model that holds rows of what is named.

    Attributes:
        name: of the tensor.
        rows: how many rows what is named has, in all; None where it is the tensor, row for row.
        moves: which of them lie where; empty where it is the tensor, row for row.
        turned: the tensor is the transpose of what is named.
        rows_of_stack: the rows that are named lie among those of all the tensor's matrices.
        stack: what is named is a stack of so many matrices, of which the tensor holds some rows; else 0.
    """

    name: str
    rows: int | None = None
    moves: tuple[Move, ...] = ()
    turned: bool = False
    rows_of_stack: bool = False
    stack: int = 0


Home = tuple[Place, ...]
"""All tensors that hold rows of one that is named."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor of the model."""

    name: str
    shape: tuple[int, ...]


@lru_cache(maxsize=4096)
def regex_of(run: str, dot: str = ".") -> re.Pattern[str]:
    words = (r"(\d+)" if word == "{i}" else re.escape(word.replace(".", dot)) for word in run.split("."))
    end = re.escape(dot)
    return re.compile(rf"{end.join(words)}(?={end}|$)")


def matches(run: str, names: Iterable[str]) -> Iterator[tuple[str, tuple[str, ...], str]]:
    """Names that begin with a run; each with its numbers and with what follows."""
    regex = regex_of(run)
    first = run.partition("{i}")[0]
    for name in names:
        if name.startswith(first) and (match := regex.match(name)):
            yield name, match.groups(), name[match.end() :]
