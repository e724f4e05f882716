"""Loads the tables of ``formats/lora/``: names, and rows, of an architecture in two spellings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from . import strict
from .folders import listing
from .proven import proven

__all__ = ["REST", "Join", "Table", "lora_tables"]

REST = -1
"""In :attr:`Join.rows`: what the others leave."""

_NAMES = "names"
_NUMBER = "{i}"


@dataclass(frozen=True, slots=True)
class Join:
    """A tensor of one spelling, and those of the other that hold its rows, one after the other.

    Names are runs of whole components; ``{i}`` stands for a number, the first on one side for the first on
    the other. What follows a run (``.weight``, ``.bias``) is carried over.

    Attributes:
        left: the joined one.
        right: its parts, in the order of their rows; None for rows that the other side does not name.
        rows: how many rows each part has, counted in columns of the joined weight; :data:`REST` for what the
            others leave. Empty where all have the same.
        swapped: the two halves of the one part's rows have changed places.
    """

    left: str
    right: tuple[str | None, ...]
    rows: tuple[int, ...] = ()
    swapped: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """Two spellings of one architecture.

    Attributes:
        title: of the architecture, for people.
        between: the two spellings; the first is that of the left sides.
        when: spelling -> runs, all of which models of that spelling have. Without an entry, only LoRAs are
            spelled so.
        rules: the table.
    """

    title: str
    between: tuple[str, str]
    when: Mapping[str, tuple[str, ...]]
    rules: tuple[Join, ...]


def lora_tables() -> tuple[Table, ...]:
    """All tables in use, by the names of their files.

    Raises:
        RecipeError: a mistake in a file, with its line.
    """
    tables: list[Table] = []
    for name, path in listing("lora").items():
        if name != _NAMES:
            tables += proven(_tables, path)
    return tuple(tables)


def _tables(path: Path) -> tuple[Table, ...]:
    top = strict.catalog_file(path, "lora")
    title = top.need("title").string()
    when = {key: tuple(map(_run, child.sequence())) for key, child in top.need("when").mapping().items()}
    tables = tuple(_table(child, title, when) for child in top.need("tables").sequence())
    top.reject_unknown()
    return tables


def _table(node: strict.Node, title: str, when: Mapping[str, tuple[str, ...]]) -> Table:
    top = node.mapping()
    between = top.need("between").strings()
    if len(set(between)) != 2 or len(between) != 2:
        raise top.need("between").error("must name two spellings")
    if not when.keys() & set(between):
        raise top.need("between").error("models have neither spelling", "say in 'when' how one is recognised")
    rules = tuple(rule for child in top.need("rules").sequence() for rule in _rules(child))
    top.reject_unknown()
    known = {key: when[key] for key in between if key in when}
    return Table(title, (between[0], between[1]), known, rules)


def _rules(node: strict.Node) -> list[Join]:
    """One rule, or several that hold below some modules."""
    if node.kind == "a list":
        return [_rule(node, "", "")]
    top = node.mapping()
    places = [_place(child) for child in top.need("at").sequence()]
    inner = top.need("rules").sequence()
    top.reject_unknown()
    return [_rule(child, *place) for place in places for child in inner]


def _place(node: strict.Node) -> tuple[str, str]:
    """Where rules hold, on either side."""
    if node.kind == "text":
        return f"{_run(node)}.", f"{_run(node)}."
    sides = node.sequence()
    if len(sides) != 2:
        raise node.error(f"a place has two sides, this has {len(sides)}")
    return f"{_run(sides[0])}.", f"{_run(sides[1])}."


def _rule(node: strict.Node, left: str, right: str) -> Join:
    sides = node.sequence()
    if len(sides) != 2:
        raise node.error(f"a rule has two sides, this has {len(sides)}")
    name = left + _run(sides[0])
    if sides[1].kind == "text":
        join = Join(name, (right + _run(sides[1]),))
    else:
        top = sides[1].mapping()
        if (swap := top.find("swap")) is not None:
            join = Join(name, (right + _run(swap),), swapped=True)
        else:
            parts = top.need("join").sequence()
            rows = tuple(_rows(child) for child in top.get("rows", strict.Node.sequence, ()))
            if rows and (len(rows) != len(parts) or rows.count(REST) > 1):
                raise top.need("rows").error("needs one entry for each part, 'rest' at most once")
            join = Join(name, tuple(None if part.is_null else right + _run(part) for part in parts), rows)
        top.reject_unknown()
    for part in join.right:
        if part is not None and part.split(".").count(_NUMBER) != name.split(".").count(_NUMBER):
            raise node.error("both sides need the same count of {i}")
    return join


def _rows(node: strict.Node) -> int:
    return REST if node.kind == "text" and node.choice(["rest"]) else node.integer(1)


def _run(node: strict.Node) -> str:
    text = node.string()
    if any(not word or ("{" in word and word != _NUMBER) for word in text.split(".")):
        raise node.error(f"{text!r} is not a run of components", "{i} stands for a whole one")
    return text
