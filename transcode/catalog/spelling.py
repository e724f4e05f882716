"""Conversion between two spellings of a family: one table, read in both directions."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import field
from typing import NamedTuple

from ..core.records import dataclass
from ..errors import RecipeError
from .rule import MEMBER, NUMBER, Rule

__all__ = ["Conversion", "Direction", "Hit", "fill"]

_DIGITS = 6
"""Of the number of an expert."""

_Sides = Callable[[Rule], tuple[str | None, ...]]


def _left(rule: Rule) -> tuple[str | None, ...]:
    return (rule.left,)


def _right(rule: Rule) -> tuple[str | None, ...]:
    return rule.right


class Hit(NamedTuple):
    """The rule that a name is converted by.

    Attributes:
        rule: it.
        part: which of the names on this side of it fits.
        numbers: what stands for each ``{i}``.
        rest: what follows the run, with its dot.
        others: the names on the other side; those of a stack with ``{e}``.
        member: which of the tensors of a stack it is; 0 for all others.
    """

    rule: Rule
    part: int
    numbers: tuple[str, ...]
    rest: str
    others: tuple[str, ...]
    member: int = 0


@dataclass
class _Step:
    """A node of the tree of one side's runs."""

    words: dict[str, _Step] = field(default_factory=dict)
    number: _Step | None = None
    rule: Rule | None = None
    part: int = 0

    def next(self, word: str) -> _Step | None:
        following = self.words.get(word)
        return self.number if following is None and word.isdecimal() else following


class Conversion:
    """A table of rules, proven to be a bijection.

    A name is converted by the longest rule that fits it, and by no other: rules never see another's output,
    so neither their order nor a chance resemblance matters. Whether rows that are joined can be told apart
    again is a question of shapes, which is asked where they are known (:meth:`.rule.Rule.counts`).

    Args:
        rules: the table.
        only: runs of names that one spelling has and the other not, first and second: they are left out.
            ``{i}`` in them stands for a number.
        holds: key of config.json -> the values for which the rules hold; for all models without one.

    Raises:
        RecipeError: two names could become one, or a name would not come back.
    """

    def __init__(
        self,
        rules: Iterable[Rule],
        only: tuple[Collection[str], Collection[str]] = ((), ()),
        holds: Mapping[str, Collection[object]] | None = None,
    ) -> None:
        self.rules = tuple(rules)
        self.only = only
        self.holds = dict(holds or {})
        self._forward = _Step()
        self._backward = _Step()
        for rule in self.rules:
            for part, run in enumerate(rule.right):
                if run is None:
                    raise RecipeError(f"{rule}: rows that have no name would not come back", hint="name them")
                if rule.left.split(".").count(NUMBER) != run.split(".").count(NUMBER):
                    raise RecipeError(f"{rule}: both sides need the same count of {{i}}")
                _plant(self._backward, run, rule, part)
            _plant(self._forward, rule.left, rule, 0)
        for rule in self.rules:
            for name in rule.right:
                _check_numbers(rule, _beside(self._forward, rule.left), _beside(self._backward, str(name)))
        _check_nested(self.rules, _left, _right)
        _check_nested(self.rules, _right, _left)

    def holds_for(self, facts: Mapping[str, object]) -> bool:
        """Whether a model with these keys of config.json is one for which the rules are."""
        return all(facts.get(key) in values for key, values in self.holds.items())

    def may_hold_for(self, facts: Mapping[str, object]) -> bool:
        """As :meth:`holds_for`, or a key that would tell is not known."""
        return all(key not in facts or facts[key] in values for key, values in self.holds.items())

    def forward(self, name: str) -> str | None:
        """A name of the first spelling in the second; None when no rule knows it, or it is not row for row
        one tensor there.
        """
        return Direction(self, True).rename(name)

    def backward(self, name: str) -> str | None:
        """As :meth:`forward`, of a name of the second spelling in the first."""
        return Direction(self, False).rename(name)


@dataclass(frozen=True)
class Direction:
    """A conversion in one direction.

    Attributes:
        conversion: the table.
        forward: whether from its left sides to its right ones.
    """

    conversion: Conversion
    forward: bool

    def find(self, name: str) -> Hit | None:
        """The rule for a name, None when none knows it."""
        root = self.conversion._forward if self.forward else self.conversion._backward
        return _find(name, root, _right if self.forward else _left)

    def lacks(self, name: str) -> bool:
        """Whether the other spelling has no such tensor, as the family says."""
        return _among(name, self.conversion.only[0 if self.forward else 1])

    def one_sided(self, name: str) -> bool:
        """Whether only one of the two spellings has such a tensor, whichever it is."""
        return any(_among(name, runs) for runs in self.conversion.only)

    def rename(self, name: str) -> str | None:
        """The name in the other spelling; None when no rule knows it, or it is not row for row one tensor."""
        hit = self.find(name)
        return hit.others[0] if hit is not None and hit.rule.renames else None


def _among(name: str, runs: Iterable[str]) -> bool:
    """Whether a name begins with one of some runs, ``{i}`` of which stands for a number."""
    words = name.split(".")
    return any(
        len(run) <= len(words)
        and all(
            word == other or (other == NUMBER and word.isdecimal())
            for word, other in zip(words, run, strict=False)
        )
        for run in (text.split(".") for text in runs)
    )


def _plant(root: _Step, run: str, rule: Rule, part: int) -> None:
    step = root
    for word in run.split("."):
        if not word or ("{" in word and word not in (NUMBER, MEMBER)):
            raise RecipeError(
                f"{rule}: {run!r} is not a run of components", hint="{i} stands for a whole one"
            )
        if word in (NUMBER, MEMBER):
            below = step.number = step.number or _Step()
        else:
            below = step.words.setdefault(word, _Step())
        step = below
    if step.rule is not None:
        other = "this" if step.rule is rule else "another"
        raise RecipeError(f"{rule}: {run!r} is in {other} rule too, {step.rule}")
    step.rule, step.part = rule, part


def _beside(root: _Step, run: str) -> list[frozenset[str]]:
    """For each number of a run, those that have rules of their own in its place; last those of ``{e}``."""
    step, numbered = root, []
    member: frozenset[str] = frozenset()
    for word in run.split("."):
        if word in (NUMBER, MEMBER):
            own = frozenset(filter(str.isdecimal, step.words))
            if word == MEMBER:
                member = own
            else:
                numbered.append(own)
            assert step.number is not None
            step = step.number
        else:
            step = step.words[word]
    return [*numbered, member]


def _check_numbers(rule: Rule, here: list[frozenset[str]], there: list[frozenset[str]]) -> None:
    """A number with rules of its own goes before ``{i}``, so it must have them on both sides: then no rule
    with ``{i}`` makes or takes a name with it.
    """
    if here[-1] or there[-1]:
        raise RecipeError(f"{rule}: {{e}} and a number stand in the same place")
    for ours, theirs in zip(here, there, strict=True):
        if ours != theirs:
            raise RecipeError(
                f"{rule}: a number and {{i}} stand in the same place, on one side only",
                hint=f"{', '.join(sorted(ours ^ theirs))}: let both sides have rules of its own, or neither",
            )


def _check_nested(rules: Iterable[Rule], here: _Sides, there: _Sides) -> None:
    """Where one run begins another, the other sides must differ by the same components.

    Else a name that one rule converts could look, on the other side, like one that another made. Rules that
    move rows do not nest at all.
    """
    by_run = {run.replace(MEMBER, NUMBER): rule for rule in rules for run in here(rule) if run is not None}
    for run, longer in by_run.items():
        words = run.split(".")
        for depth in range(1, len(words)):
            nested = by_run.get(".".join(words[:depth]))
            if nested is None:
                continue
            alike = nested.renames and longer.renames
            if not alike or there(longer)[0] != ".".join([str(there(nested)[0]), *words[depth:]]):
                raise RecipeError(
                    f"{nested}: would also fit what {longer} makes",
                    hint="let the rules name whole modules that do not nest",
                )


def _find(name: str, root: _Step, others: _Sides) -> Hit | None:
    words = name.split(".")
    longest: tuple[_Step, int, tuple[str, ...]] | None = None
    step: _Step | None = root
    numbers: list[str] = []
    for depth, word in enumerate(words):
        assert step is not None
        literal = word in step.words
        step = step.next(word)
        if step is None:
            break
        if not literal:
            numbers.append(word)
        if step.rule is not None:
            longest = step, depth + 1, tuple(numbers)
    if longest is None:
        return None
    step, depth, taken = longest
    rule = step.rule
    assert rule is not None
    rest = "".join(f".{word}" for word in words[depth:])
    member = 0
    if others is _left and rule.stacks:
        numbered = [word for word in str(rule.right[step.part]).split(".") if word in (NUMBER, MEMBER)]
        place = numbered.index(MEMBER)
        if len(taken[place]) > _DIGITS or str(member := int(taken[place])) != taken[place]:
            return None  # it would not come back with its zeros
        taken = taken[:place] + taken[place + 1 :]
    named = tuple(fill(str(run), taken, rest) for run in others(rule))
    return Hit(rule, step.part, taken, rest, named, member)


def fill(run: str, numbers: Iterable[str], rest: str) -> str:
    """The name that a run stands for: its numbers put in, and what follows it."""
    numbering = iter(numbers)
    return ".".join(next(numbering) if word == NUMBER else word for word in run.split(".")) + rest
