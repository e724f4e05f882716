"""What tensors of a model, or rows of them, are called in the other spellings of its kind."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

from ...catalog.family import Family
from ...catalog.lora_tables import Table
from ...catalog.rule import MEMBER, NUMBER, Rule
from ...catalog.spelling import fill
from ...errors import PlanError
from .homes import Home, Move, Place, Stored, matches, regex_of
from .otherwise import follows, otherwise
from .reordered import order_of

__all__ = ["Facts", "begins", "of_family", "speaks", "spelled"]


Facts = Mapping[str, object]
"""Keys of the model's config.json."""


def spelled(tables: Iterable[Table], names: Mapping[str, Stored]) -> Iterator[tuple[str, Home]]:
    """The names that tensors have in other spellings, with what is meant by them.

    Args:
        tables: see :mod:`...catalog.lora_tables`.
        names: a model's tensors by their names, without what stands before them.
    """
    for table in tables:
        here, there = table.between
        # What else moves asks for a configuration.
        by_rows = [rule for rule in table.rules if rule.by_rows]
        others = [rule for rule in table.rules if follows(rule)]
        for spelling, of in ((here, _from_joined), (there, _from_parts)):
            if speaks(table, spelling, names):
                for rule in by_rows:
                    yield from of(rule, names, {})
                for rule in others:
                    yield from otherwise(rule, names, left=spelling == here)


def of_family(
    family: Family, names: Mapping[str, Stored], known: Callable[[], Facts], unknown: dict[str, PlanError]
) -> Iterator[tuple[str, Home]]:
    """As :func:`spelled`, by the rules that convert models of a family whose rows lie otherwise elsewhere.

    Args:
        family: that of the tensors, in their spelling.
        names: its tensors by their names, without what stands before them.
        known: gives keys of the model's config.json, of which rules may speak.
        unknown: takes names of which it is not known where their rows lie, and why.
    """
    tables = [
        (left, conversion)
        for (left, right), conversion in (*family.conversions.items(), *family.others)
        if family.spelling in (left, right)
    ]
    facts = known() if any(rule.grid for _, one in tables for rule in one.rules) else {}
    for left, conversion in tables:
        if not conversion.may_hold_for(facts):
            continue
        of = _from_joined if left == family.spelling else _from_parts
        for rule in conversion.rules:
            if follows(rule):
                yield from otherwise(rule, names, left=left == family.spelling)
            elif not rule.renames:
                try:
                    if not rule.keeps_rows:
                        raise _lies_otherwise(rule)
                    yield from of(rule, names, facts)
                except PlanError as error:
                    runs = rule.right if left == family.spelling else (rule.left,)
                    unknown.update((str(run).replace(MEMBER, NUMBER), error) for run in runs)


def _lies_otherwise(rule: Rule) -> PlanError:
    what = "in a stack whose matrices are turned over or lie otherwise" if rule.stacks else "in another order"
    return PlanError(f"is of elements that the model has {what}")


def speaks(table: Table, spelling: str, names: Collection[str], dot: str = ".") -> bool:
    """Whether these are names of that spelling; ``dot`` is what stands for the dots in them."""
    runs = [regex_of(run, dot) for run in table.when.get(spelling, ())]
    return bool(runs) and all(any(map(run.match, names)) for run in runs)


def begins(run: str, name: str) -> bool:
    """Whether a name begins with a run."""
    return regex_of(run).match(name) is not None


def _from_joined(rule: Rule, names: Mapping[str, Stored], facts: Facts) -> Iterator[tuple[str, Home]]:
    """What the parts are called, of a model that stores them joined."""
    for name, numbers, rest in matches(rule.left, names):
        stored = names[name]
        columns = _columns(stored, name, rest, names)
        if len(rule.right) == 1 and rule.grid is None:
            (part,) = rule.right
            if part is not None and (home := _one(rule, stored, columns)) is not None:
                yield fill(part, numbers, rest), home
            continue
        counts = rule.counts(stored.shape[0], columns) if stored.shape else None
        if counts is None:
            continue
        order = order_of(rule, counts, stored.shape[1:], lambda: facts, stored.name)
        at = 0
        for part, count in zip(rule.right, counts, strict=True):
            if part is not None:
                moves: tuple[Move, ...] = (Move(0, at, count),)
                if order is not None:
                    moves = _moves((of - at, row) for row, of in enumerate(order) if at <= of < at + count)
                yield fill(part, numbers, rest), (Place(stored.name, count, moves),)
            at += count


def _from_parts(rule: Rule, names: Mapping[str, Stored], facts: Facts) -> Iterator[tuple[str, Home]]:
    """What the joined one is called, of a model that stores its parts."""
    if None in rule.right:
        return  # of what the other side does not name, the joined one cannot be told
    complete: dict[tuple[tuple[str, ...], str], dict[int, Stored]] = defaultdict(dict)
    for index, part in enumerate(rule.right):
        assert part is not None
        for name, numbers, rest in matches(part, names):
            # A part's run may hold its whole name, that of its joined one then too.
            complete[numbers, rest][index] = names[name]
    for (numbers, rest), parts in complete.items():
        form = fill(rule.left, numbers, rest)
        if len(rule.right) == 1 and rule.grid is None:
            if (home := _one(rule, parts[0], _columns(parts[0], parts[0].name, rest, names))) is not None:
                yield form, home
            continue
        shapes = [parts[index].shape for index in range(len(rule.right)) if index in parts]
        if len(shapes) < len(rule.right) or not all(shapes) or len({shape[1:] for shape in shapes}) > 1:
            continue
        counts = [shape[0] for shape in shapes]
        order = order_of(rule, counts, parts[0].shape[1:], lambda: facts, parts[0].name)
        total, at = sum(counts), 0
        places: list[Place] = []
        for index, count in enumerate(counts):
            moves: tuple[Move, ...] = (Move(at, 0, count),)
            if order is not None:
                moves = _moves((row, of - at) for row, of in enumerate(order) if at <= of < at + count)
            places.append(Place(parts[index].name, total, moves))
            at += count
        yield form, tuple(places)


def _moves(pairs: Iterable[tuple[int, int]]) -> tuple[Move, ...]:
    """Rows of what is named, and of the tensor where they lie, as runs."""
    runs: list[Move] = []
    for source, target in pairs:
        last = runs[-1] if runs else None
        if last is not None and (source, target) == (last.source + last.count, last.target + last.count):
            runs[-1] = Move(last.source, last.target, last.count + 1)
        else:
            runs.append(Move(source, target, 1))
    return tuple(runs)


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
