"""One rule between two spellings: names, and how the elements of one lie in those of the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from math import prod

from ..core.records import dataclass
from . import strict
from .expression import Expression

__all__ = ["MEMBER", "NUMBER", "REST", "Grid", "Rule", "lengths_of", "rules", "run_of"]

NUMBER = "{i}"
"""In names: a number, the first on one side for the first on the other."""

MEMBER = "{e}"
"""In names of the right side: which of the tensors that are stacked on the left one it is, from 0 on."""

REST = -1
"""In :attr:`Rule.rows`: what the others leave."""


@lru_cache(maxsize=1024)
def _expression(text: str) -> Expression:
    return Expression(text)


def lengths_of(texts: Sequence[str], total: int, known: Mapping[str, object]) -> list[int] | None:
    """Lengths of the axes of ``total`` elements; None where they are not so many.

    Args:
        texts: expressions of :class:`.expression.Expression`; ``~`` for what the others leave.
        total: the product of all.
        known: what their names mean.

    Raises:
        LookupError: a name has no meaning.
    """
    lengths = [0 if text == "~" else _expression(text).of(known) for text in texts]
    if not all(isinstance(length, int) and length >= 0 for length in lengths):
        raise LookupError(", ".join(texts))
    if "~" in texts:
        others = prod(length for text, length in zip(texts, lengths, strict=True) if text != "~")
        lengths[texts.index("~")] = total // others if others else 0
    return lengths if prod(lengths) == total else None


@dataclass(frozen=True, slots=True)
class Grid:
    """How elements have changed places: axes of a grid in another order.

    Attributes:
        lengths: of the axes as the right side has them, each a number, an expression over the keys of the
            model's config.json and over ``rows`` and ``columns`` of the right side, or ``~`` for what the
            others leave.
        order: those axes as the left side has them.
        elements: the grid is of all elements of a weight, not of its rows.
    """

    lengths: tuple[str, ...]
    order: tuple[int, ...]
    elements: bool = False

    @property
    def turns(self) -> bool:
        """Whether columns of one side are rows of the other."""
        return self.elements and self.order[0] == len(self.order) - 1


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
        grid: how elements of all parts together have changed places on the left; None where they have not.
        shapes: of weights on the left and on the right, as :attr:`Grid.lengths`; empty where they follow.
        add: what is added to each value to get the left one, in float32.
        ratio: rows of the parts as these numbers stand to each other; empty where :attr:`rows` says them, or
            all are equal.
    """

    left: str
    right: tuple[str | None, ...]
    rows: tuple[int, ...] = ()
    swapped: bool = False
    grid: Grid | None = None
    shapes: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    add: float = 0.0
    ratio: tuple[int, ...] = ()

    @property
    def renames(self) -> bool:
        """Whether it is of one tensor, element for element in the same shape."""
        return self.by_rows and len(self.right) == 1 and not self.swapped

    @property
    def stacks(self) -> bool:
        """Whether the left one is a stack of those of the right."""
        return any(part is not None and MEMBER in part.split(".") for part in self.right)

    @property
    def by_rows(self) -> bool:
        """Whether whole runs of rows are all that moves."""
        return not (self.stacks or self.grid or any(self.shapes) or self.add)

    @property
    def keeps_rows(self) -> bool:
        """Whether each row of a weight on one side is one on the other, be they in another order."""
        turned = self.grid is not None and self.grid.elements
        reshaped = any(self.shapes) and any(shape[:1] != ("rows",) for shape in self.shapes)
        return not (self.stacks or self.add or turned or reshaped)

    @property
    def kind(self) -> str:
        """What the left one is of the right ones, in a word."""
        if self.stacks:
            return "stack"
        return "swap" if self.swapped else "view" if len(self.right) == 1 else "join"

    def counts(self, total: int, columns: int | None) -> list[int] | None:
        """Rows of each part of a joined tensor; None where it cannot be joined of such parts.

        Args:
            total: its rows.
            columns: of the joined weight; None where that is not known.
        """
        if not self.rows:
            ratio = self.ratio or (1,) * len(self.right)
            each, left = divmod(total, sum(ratio))
            return None if left or not each else [each * count for count in ratio]
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
        return f"{self.left} <-> {self.kind} of {', '.join(part or '~' for part in self.right)}"


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
        rule = _structured(sides[1], name, right)
    for part in rule.right:
        if part is not None and part.split(".").count(NUMBER) != name.split(".").count(NUMBER):
            raise node.error("both sides need the same count of {i}")
    return rule


_KINDS = ("join", "stack", "swap", "view")


def _structured(node: strict.Node, left: str, right: str) -> Rule:
    """A rule of more than names."""
    top = node.mapping()
    kinds = [kind for kind in _KINDS if kind in top]
    if len(kinds) != 1:
        raise node.error("is no rule", f"it needs one of {', '.join(_KINDS)}")
    of = top.need(kinds[0])
    if kinds[0] == "swap":
        only = top.get("rows", lambda child: child.integer(1), None)
        rule = Rule(left, (right + run_of(of),), () if only is None else (only,), swapped=True)
        top.reject_unknown()
        return rule
    names = of.sequence() if of.kind == "a list" else [of]
    parts = tuple(None if one.is_null else right + run_of(one, MEMBER) for one in names)
    rows = tuple(_rows(child) for child in top.get("rows", strict.Node.sequence, ()))
    if rows and (len(rows) != len(parts) or rows.count(REST) > 1):
        raise top.need("rows").error("needs one entry for each part, 'rest' at most once")
    ratio = tuple(child.integer(1) for child in top.get("ratio", strict.Node.sequence, ()))
    if ratio and (len(ratio) != len(parts) or rows or kinds[0] != "join"):
        raise top.need("ratio").error("needs one number for each part of a join, and no rows")
    if kinds[0] == "view" and len(parts) != 1:
        raise of.error("a view is of one tensor", "say join, or stack")
    if {MEMBER in str(part).split(".") for part in parts} != {kinds[0] == "stack"}:
        raise of.error(f"{MEMBER} stands in all names of a stack and in no others")
    grid = _grid(top, len(parts))
    shapes = tuple(top.get("shapes", lambda child: _shapes(child), ((), ())))
    add = top.get("add", strict.Node.number, 0.0)
    top.reject_unknown()
    rule = Rule(left, parts, rows, grid=grid, shapes=(shapes[0], shapes[1]), add=add, ratio=ratio)
    if kinds[0] == "view" and rule.renames:
        raise node.error("a view that changes nothing", "write its name alone")
    return rule


def _grid(top: strict.Mapping, parts: int) -> Grid | None:
    said = [key for key in ("transpose", "interleave", "permute") if key in top]
    if not said:
        return None
    if len(said) > 1:
        raise top.node.error(f"{' and '.join(said)} do not go together", "write one permute")
    if said[0] != "permute":
        if not top.need(said[0]).boolean():
            raise top.need(said[0]).error("can only be true")
        if said[0] == "transpose":
            return Grid(("rows", "columns"), (1, 0), elements=True)
        return Grid((str(parts), "~"), (1, 0))
    inner = top.need("permute").mapping()
    kinds = [key for key in ("rows", "elements") if key in inner]
    if len(kinds) != 1:
        raise inner.node.error("needs either 'rows' or 'elements'")
    lengths = _lengths(inner.need(kinds[0]))
    order = tuple(child.integer(0) for child in inner.need("order").sequence())
    inner.reject_unknown()
    if sorted(order) != list(range(len(lengths))):
        raise inner.need("order").error(f"is no order of {len(lengths)} axes")
    return Grid(lengths, order, kinds[0] == "elements")


def _shapes(node: strict.Node) -> tuple[tuple[str, ...], ...]:
    sides = node.sequence()
    if len(sides) != 2:
        raise node.error(f"there are two sides, this has {len(sides)}")
    return tuple(() if side.is_null else _lengths(side) for side in sides)


def _lengths(node: strict.Node) -> tuple[str, ...]:
    children = node.sequence()
    texts = tuple("~" if child.is_null else child.text() for child in children)
    for text, child in zip(texts, children, strict=True):
        if text != "~":
            try:
                _expression(text)
            except ValueError as error:
                raise child.error(str(error)) from None
    if texts.count("~") > 1:
        raise node.error("~ stands for one length at most")
    return texts


def _rows(node: strict.Node) -> int:
    return REST if node.kind == "text" and node.choice(["rest"]) else node.integer(1)


def run_of(node: strict.Node, *more: str) -> str:
    """A run of whole components; ``more`` may stand for some, as ``{i}`` does. Raises RecipeError for
    anything else.
    """
    text = node.string()
    if any(not word or ("{" in word and word not in (NUMBER, *more)) for word in text.split(".")):
        raise node.error(f"{text!r} is not a run of components", "{i} stands for a whole one")
    return text
