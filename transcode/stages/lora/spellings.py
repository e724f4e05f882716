"""What tensors of a model, or rows of them, are called in the other spellings of its kind."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import lru_cache

from ...catalog.family import Family
from ...catalog.lora_tables import Table
from ...catalog.rule import Rule
from ...catalog.spelling import fill
from ...core.records import dataclass

__all__ = ["Home", "Move", "Place", "Stored", "of_family", "speaks", "spelled"]


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
    """

    name: str
    rows: int | None = None
    moves: tuple[Move, ...] = ()


Home = tuple[Place, ...]
"""All tensors that hold rows of one that is named."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor of the model."""

    name: str
    shape: tuple[int, ...]


def spelled(tables: Iterable[Table], names: Mapping[str, Stored]) -> Iterator[tuple[str, Home]]:
    """The names that tensors have in other spellings, with what is meant by them.

    Args:
        tables: see :mod:`...catalog.lora_tables`.
        names: a model's tensors by their names, without what stands before them.
    """
    for table in tables:
        here, there = table.between
        by_rows = [rule for rule in table.rules if rule.by_rows]  # what else moves, no factor follows here
        if speaks(table, here, names):
            for rule in by_rows:
                yield from _from_joined(rule, names)
        if speaks(table, there, names):
            for rule in by_rows:
                yield from _from_parts(rule, names)


def of_family(family: Family, names: Mapping[str, Stored]) -> Iterator[tuple[str, Home]]:
    """As :func:`spelled`, by the rules that convert models of a family whose rows lie otherwise elsewhere.

    Args:
        family: that of the tensors, in their spelling.
        names: its tensors by their names, without what stands before them.
    """
    for (left, right), conversion in family.conversions.items():
        rules = [rule for rule in conversion.rules if rule.by_rows and not rule.renames]
        for rule in rules if left == family.spelling else ():
            yield from _from_joined(rule, names)
        for rule in rules if right == family.spelling else ():
            yield from _from_parts(rule, names)


def speaks(table: Table, spelling: str, names: Collection[str], dot: str = ".") -> bool:
    """Whether these are names of that spelling; ``dot`` is what stands for the dots in them."""
    runs = [_regex(run, dot) for run in table.when.get(spelling, ())]
    return bool(runs) and all(any(map(run.match, names)) for run in runs)


@lru_cache(maxsize=4096)
def _regex(run: str, dot: str = ".") -> re.Pattern[str]:
    words = (r"(\d+)" if word == "{i}" else re.escape(word.replace(".", dot)) for word in run.split("."))
    end = re.escape(dot)
    return re.compile(rf"{end.join(words)}(?={end}|$)")


def _matches(run: str, names: Iterable[str]) -> Iterator[tuple[str, tuple[str, ...], str]]:
    """Names that begin with a run; each with its numbers and with what follows."""
    regex = _regex(run)
    first = run.partition("{i}")[0]
    for name in names:
        if name.startswith(first) and (match := regex.match(name)):
            yield name, match.groups(), name[match.end() :]


def _from_joined(rule: Rule, names: Mapping[str, Stored]) -> Iterator[tuple[str, Home]]:
    """What the parts are called, of a model that stores them joined."""
    for name, numbers, rest in _matches(rule.left, names):
        stored = names[name]
        if len(rule.right) == 1:
            (part,) = rule.right
            if (
                part is not None
                and (home := _one(rule, stored, _columns(stored, name, rest, names))) is not None
            ):
                yield fill(part, numbers, rest), home
            continue
        columns = _columns(stored, name, rest, names)
        counts = rule.counts(stored.shape[0], columns) if stored.shape else None
        if counts is None:
            continue
        at = 0
        for part, count in zip(rule.right, counts, strict=True):
            if part is not None:
                yield fill(part, numbers, rest), (Place(stored.name, count, (Move(0, at, count),)),)
            at += count


def _from_parts(rule: Rule, names: Mapping[str, Stored]) -> Iterator[tuple[str, Home]]:
    """What the joined one is called, of a model that stores its parts."""
    if None in rule.right:
        return  # of what the other side does not name, the joined one cannot be told
    complete: dict[tuple[tuple[str, ...], str], dict[int, Stored]] = defaultdict(dict)
    for index, part in enumerate(rule.right):
        assert part is not None
        for name, numbers, rest in _matches(part, names):
            # A part's run may hold its whole name, that of its joined one then too.
            complete[numbers, rest][index] = names[name]
    for (numbers, rest), parts in complete.items():
        form = fill(rule.left, numbers, rest)
        if len(rule.right) == 1:
            if (home := _one(rule, parts[0], _columns(parts[0], parts[0].name, rest, names))) is not None:
                yield form, home
            continue
        shapes = [parts[index].shape for index in range(len(rule.right)) if index in parts]
        if len(shapes) < len(rule.right) or not all(shapes) or len({shape[1:] for shape in shapes}) > 1:
            continue
        total, at = sum(shape[0] for shape in shapes), 0
        places: list[Place] = []
        for index in range(len(rule.right)):
            count = parts[index].shape[0]
            places.append(Place(parts[index].name, total, (Move(at, 0, count),)))
            at += count
        yield form, tuple(places)


def _one(rule: Rule, stored: Stored, columns: int | None) -> Home | None:
    """The home of a name that stands for one whole tensor."""
    if not rule.swapped or (stored.shape and not rule.swaps(stored.shape[0], columns)):
        return (Place(stored.name),)
    if not stored.shape or stored.shape[0] % 2:
        return None
    half = stored.shape[0] // 2
    return (Place(stored.name, 2 * half, (Move(half, 0, half), Move(0, half, half))),)


def _columns(stored: Stored, name: str, rest: str, names: Mapping[str, Stored]) -> int | None:
    """Columns of the joined weight, be it this tensor or, for a bias, its neighbour."""
    if len(stored.shape) > 1:
        return stored.shape[1]
    beside = names.get(f"{name[: len(name) - len(rest)]}.weight")
    return beside.shape[1] if beside is not None and len(beside.shape) > 1 else None
