"""Renaming between two spellings of a family: one table, read in both directions."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from operator import attrgetter

from ..errors import RecipeError

__all__ = ["Conversion", "Rule"]

_NUMBER = "{i}"
_LEFT: Callable[[Rule], str] = attrgetter("left")
_RIGHT: Callable[[Rule], str] = attrgetter("right")


@dataclass(frozen=True)
class Rule:
    """A run of whole components from the beginning of a name, in both spellings.

    ``{i}`` stands for a number, the first on one side for the first on the other. What follows the run
    (``.weight``, ``.bias``, ``.weight_scale`` ...) is carried over.

    Attributes:
        left: in the first spelling.
        right: in the second.
    """

    left: str
    right: str

    def __str__(self) -> str:
        return f"{self.left} <-> {self.right}"


@dataclass
class _Step:
    """A node of the tree of one side's runs."""

    words: dict[str, _Step] = field(default_factory=dict)
    number: _Step | None = None
    rule: Rule | None = None

    def next(self, word: str) -> _Step | None:
        following = self.words.get(word)
        return self.number if following is None and word.isdecimal() else following


class Conversion:
    """A table of rules, proven to be a bijection.

    A name is converted by the longest rule that fits it, and by no other: rules never see another's output,
    so neither their order nor a chance resemblance matters.

    Args:
        rules: the table.

    Raises:
        RecipeError: two names could become one, or a name would not come back.
    """

    def __init__(self, rules: Iterable[Rule]) -> None:
        self.rules = tuple(rules)
        self._forward = _Step()
        self._backward = _Step()
        for rule in self.rules:
            if rule.left.split(".").count(_NUMBER) != rule.right.split(".").count(_NUMBER):
                raise RecipeError(f"{rule}: both sides need the same count of {{i}}")
            _plant(self._forward, rule.left, rule)
            _plant(self._backward, rule.right, rule)
        _check_nested(self.rules, _LEFT, _RIGHT)
        _check_nested(self.rules, _RIGHT, _LEFT)

    def forward(self, name: str) -> str | None:
        """A name of the first spelling in the second, None when no rule knows it."""
        return _convert(name, self._forward, _RIGHT)

    def backward(self, name: str) -> str | None:
        """A name of the second spelling in the first, None when no rule knows it."""
        return _convert(name, self._backward, _LEFT)


def _plant(root: _Step, run: str, rule: Rule) -> None:
    step = root
    for word in run.split("."):
        if not word or ("{" in word and word != _NUMBER):
            raise RecipeError(
                f"{rule}: {run!r} is not a run of components", hint="{i} stands for a whole one"
            )
        if word == _NUMBER:
            below = step.number = step.number or _Step()
        else:
            below = step.words.setdefault(word, _Step())
        if step.number is not None and any(map(str.isdecimal, step.words)):
            raise RecipeError(f"{rule}: {{i}} and a number stand in the same place")
        step = below
    if step.rule is not None:
        raise RecipeError(f"{rule}: {run!r} is in another rule too, {step.rule}")
    step.rule = rule


def _check_nested(rules: Iterable[Rule], here: Callable[[Rule], str], there: Callable[[Rule], str]) -> None:
    """Where one run begins another, the other sides must differ by the same components.

    Else a name that one rule converts could look, on the other side, like one that another made.
    """
    by_run = {here(rule): rule for rule in rules}
    for longer in by_run.values():
        words = here(longer).split(".")
        for depth in range(1, len(words)):
            nested = by_run.get(".".join(words[:depth]))
            if nested is not None and there(longer) != ".".join([there(nested), *words[depth:]]):
                raise RecipeError(
                    f"{nested}: would also fit what {longer} makes",
                    hint="let the rules name whole modules that do not nest",
                )


def _convert(name: str, root: _Step, other: Callable[[Rule], str]) -> str | None:
    words = name.split(".")
    longest: tuple[Rule, int, tuple[str, ...]] | None = None
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
            longest = step.rule, depth + 1, tuple(numbers)
    if longest is None:
        return None
    rule, depth, taken = longest
    numbering = iter(taken)
    run = [next(numbering) if word == _NUMBER else word for word in other(rule).split(".")]
    return ".".join(run + words[depth:])
