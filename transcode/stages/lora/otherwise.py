"""Names of what the model has turned over, as a stack, or as matrices of one that the LoRA names."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping

from ...catalog.rule import MEMBER, Rule
from ...catalog.spelling import fill
from .homes import Home, Move, Place, Stored, matches

__all__ = ["follows", "otherwise"]


def follows(rule: Rule) -> bool:
    """Whether changes can go where such a rule has the elements: as the transpose of one matrix, or among the
    rows of a stack.
    """
    if rule.add or any(rule.shapes):
        return False
    if rule.stacks:
        return rule.grid is None
    return rule.grid is not None and rule.grid.turns and len(rule.right) == 1


def otherwise(rule: Rule, names: Mapping[str, Stored], *, left: bool) -> Iterator[tuple[str, Home]]:
    """What the transposes of a model's matrices are called in the other spelling; what the matrices of its
    stacks are called one by one; or its matrices as a stack, in their order.

    Args:
        rule: one that :func:`follows`.
        names: the model's tensors, without what stands before them.
        left: the model has the left names.
    """
    if rule.stacks:
        return _listed(rule, names) if left else _stacked(rule, names)
    return _turned(rule, names, left)


def _turned(rule: Rule, names: Mapping[str, Stored], left: bool) -> Iterator[tuple[str, Home]]:
    (right,) = rule.right
    assert right is not None
    here, there = (rule.left, right) if left else (right, rule.left)
    for name, numbers, rest in matches(here, names):
        if len(names[name].shape) == 2:
            yield fill(there, numbers, rest), (Place(names[name].name, turned=True),)


def _listed(rule: Rule, names: Mapping[str, Stored]) -> Iterator[tuple[str, Home]]:
    for name, numbers, rest in matches(rule.left, names):
        stored = names[name]
        if len(stored.shape) != 3:
            continue
        depth, rows, columns = stored.shape
        counts = rule.counts(rows, columns)
        for member in range(depth if counts is not None else 0):
            at = member * rows
            for part, count in zip(rule.right, counts or (), strict=True):
                if part is not None:
                    form = _member(fill(part, numbers, rest), member)
                    yield form, (Place(stored.name, count, (Move(0, at, count),), rows_of_stack=True),)
                at += count


def _stacked(rule: Rule, names: Mapping[str, Stored]) -> Iterator[tuple[str, Home]]:
    stacks: dict[tuple[tuple[str, ...], str], dict[tuple[int, int], Stored]] = defaultdict(dict)
    for index, part in enumerate(rule.right):
        if part is None:
            return
        place = [word for word in part.split(".") if "{" in word].index(MEMBER)
        for name, numbers, rest in matches(part.replace(MEMBER, "{i}"), names):
            others = numbers[:place] + numbers[place + 1 :]
            if len(names[name].shape) == 2:
                stacks[others, rest][int(numbers[place]), index] = names[name]
    for (numbers, rest), parts in stacks.items():
        heights = [parts[0, index].shape[0] for index in range(len(rule.right)) if (0, index) in parts]
        depth, each = len(parts) // len(rule.right), sum(heights)
        order = [(member, index) for member in range(depth) for index in range(len(rule.right))]
        if sorted(parts) != order or len({parts[key].shape[1] for key in order}) != 1:
            continue
        at, places = 0, []
        for key in order:
            count = parts[key].shape[0]
            places.append(Place(parts[key].name, depth * each, (Move(at, 0, count),), stack=depth))
            at += count
        if at == depth * each:
            yield fill(rule.left, numbers, rest), tuple(places)


def _member(name: str, member: int) -> str:
    return ".".join(str(member) if word == MEMBER else word for word in name.split("."))
