"""One rule between two spellings: names, and rows where one joins what the other keeps apart."""

from __future__ import annotations

from dataclasses import dataclass

from . import strict

__all__ = ["NUMBER", "REST", "Rule", "rules", "run_of"]

NUMBER = "{i}"
"""In names: a number, the first on one side for the first on the other."""

REST = -1
"""In :attr:`Rule.rows`: what the others leave."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A tensor of one spelling, and those of the other that hold its rows, one after the other.

    Names are runs of whole components from the beginning of a name; ``{i}`` stands for a number. What follows
    a run (``.weight``, ``.bias``, ``.weight_scale`` ...) is carried over.

    Attributes:
        left: the joined one.
        right: its parts, in the order of their rows; None for rows that the other side does not name.
        rows: how many rows each part has, counted in columns of the joined weight; :data:`REST` for what the
            others leave. Empty where all have the same. Of a swap: only weights with so many are swapped.
        swapped: the two halves of the one part's rows have changed places.
    """

    left: str
    right: tuple[str | None, ...]
    rows: tuple[int, ...] = ()
    swapped: bool = False

    @property
    def renames(self) -> bool:
        """Whether it is of one tensor, row for row."""
        return len(self.right) == 1 and not self.swapped

    def counts(self, total: int, columns: int | None) -> list[int] | None:
        """Rows of each part of a joined tensor; None where it cannot be joined of such parts.

        Args:
            total: its rows.
            columns: of the joined weight; None where that is not known.
        """
        if not self.rows:
            each, left = divmod(total, len(self.right))
            return None if left or not each else [each] * len(self.right)
        if columns is None:
            return None
        counts = [0 if count == REST else count * columns for count in self.rows]
        left = total - sum(counts)
        if REST in self.rows:
            counts[self.rows.index(REST)] = left
            return counts if left > 0 else None
        return None if left else counts

    def swaps(self, total: int, columns: int | None) -> bool:
        """Whether halves of so many rows change places; ``columns`` are those of the weight."""
        return not self.rows or (columns is not None and total == self.rows[0] * columns)

    def __str__(self) -> str:
        if self.renames:
            return f"{self.left} <-> {self.right[0]}"
        parts = ", ".join(part or "~" for part in self.right)
        return f"{self.left} <-> {'swap' if self.swapped else 'join'} of {parts}"


def rules(node: strict.Node) -> list[Rule]:
    """The rules of a sequence: each a name that both sides have, two sides, or several below some modules."""
    return [rule for child in node.sequence() for rule in _below(child, [("", "")])]


def _below(node: strict.Node, places: list[tuple[str, str]]) -> list[Rule]:
    if node.kind == "text":
        run = run_of(node)
        return [Rule(left + run, (right + run,)) for left, right in places]
    if node.kind == "a list":
        return [_rule(node, left, right) for left, right in places]
    top = node.mapping()
    inner = [_place(child) for child in top.need("at").sequence()]
    below = [(left + first, right + second) for left, right in places for first, second in inner]
    children = top.need("rules").sequence()
    top.reject_unknown()
    return [rule for place in below for child in children for rule in _below(child, [place])]


def _place(node: strict.Node) -> tuple[str, str]:
    """Where rules hold, on either side."""
    if node.kind == "text":
        return f"{run_of(node)}.", f"{run_of(node)}."
    sides = node.sequence()
    if len(sides) != 2:
        raise node.error(f"a place has two sides, this has {len(sides)}")
    return f"{run_of(sides[0])}.", f"{run_of(sides[1])}."


def _rule(node: strict.Node, left: str, right: str) -> Rule:
    sides = node.sequence()
    if len(sides) != 2:
        raise node.error(f"a rule has two sides, this has {len(sides)}")
    name = left + run_of(sides[0])
    if sides[1].kind == "text":
        rule = Rule(name, (right + run_of(sides[1]),))
    else:
        top = sides[1].mapping()
        if (swap := top.find("swap")) is not None:
            only = top.get("rows", lambda child: child.integer(1), None)
            rule = Rule(name, (right + run_of(swap),), () if only is None else (only,), swapped=True)
        else:
            parts = top.need("join").sequence()
            rows = tuple(_rows(child) for child in top.get("rows", strict.Node.sequence, ()))
            if rows and (len(rows) != len(parts) or rows.count(REST) > 1):
                raise top.need("rows").error("needs one entry for each part, 'rest' at most once")
            rule = Rule(name, tuple(None if part.is_null else right + run_of(part) for part in parts), rows)
        top.reject_unknown()
    for part in rule.right:
        if part is not None and part.split(".").count(NUMBER) != name.split(".").count(NUMBER):
            raise node.error("both sides need the same count of {i}")
    return rule


def _rows(node: strict.Node) -> int:
    return REST if node.kind == "text" and node.choice(["rest"]) else node.integer(1)


def run_of(node: strict.Node) -> str:
    """A run of whole components. Raises RecipeError for anything else."""
    text = node.string()
    if any(not word or ("{" in word and word != NUMBER) for word in text.split(".")):
        raise node.error(f"{text!r} is not a run of components", "{i} stands for a whole one")
    return text
