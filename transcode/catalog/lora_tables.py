"""Loads the tables of ``formats/lora/``: names, and rows, of an architecture in two spellings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from ..core.records import dataclass
from ..errors import RecipeError
from . import strict
from .families import family
from .folders import listing
from .lora_modules import MODULES
from .proven import proven
from .rule import Rule, rules, run_of

__all__ = ["Table", "lora_tables"]

_NAMES = "names"


@dataclass(frozen=True, slots=True)
class Table:
    """Two spellings of one architecture.

    Attributes:
        title: of the architecture, for people.
        between: the two spellings; the first is that of the left sides.
        when: spelling -> runs, all of which models of that spelling have. Without an entry, only LoRAs are
            spelled so.
        rules: the table.
        family: whose models have these spellings; None where no table of the file has a family's rules.
    """

    title: str
    between: tuple[str, str]
    when: Mapping[str, tuple[str, ...]]
    rules: tuple[Rule, ...]
    family: str | None = None


def lora_tables() -> tuple[Table, ...]:
    """All tables in use, by the names of their files.

    Raises:
        RecipeError: a mistake in a file, with its line.
    """
    tables: list[Table] = []
    for name, path in listing("lora").items():
        if name not in (_NAMES, MODULES):
            held = proven(_tables, path)
            family = next((like for _, like in held if like is not None), None)
            for table, like in held:
                own = table.rules if like is None else _of_family(like, table.between)
                tables.append(replace(table, rules=own, family=family))
    return tuple(tables)


def _tables(path: Path) -> tuple[tuple[Table, str | None], ...]:
    """The tables of a file, and the families that have the rules of those that have none: what is kept of a
    file holds nothing of others.
    """
    top = strict.catalog_file(path, "lora")
    title = top.need("title").string()
    when = {key: tuple(map(run_of, child.sequence())) for key, child in top.need("when").mapping().items()}
    tables = tuple(_table(child, title, when) for child in top.need("tables").sequence())
    top.reject_unknown()
    return tables


def _table(node: strict.Node, title: str, when: Mapping[str, tuple[str, ...]]) -> tuple[Table, str | None]:
    top = node.mapping()
    between = top.need("between").strings()
    if len(set(between)) != 2 or len(between) != 2:
        raise top.need("between").error("must name two spellings")
    if not when.keys() & set(between):
        raise top.need("between").error("models have neither spelling", "say in 'when' how one is recognised")
    pair = between[0], between[1]
    named = top.find("family")
    own = tuple(rules(top.need("rules"))) if named is None else ()
    if named is not None:
        named.at(lambda: _of_family(named.string(), pair))
    top.reject_unknown()
    known = {key: when[key] for key in between if key in when}
    return Table(title, pair, known, own), None if named is None else named.string()


def _of_family(name: str, between: tuple[str, str]) -> tuple[Rule, ...]:
    """The rules by which models of a family are converted: LoRAs of them are spelled alike."""
    known = family(name).conversions
    if between not in known:
        raise RecipeError(f"family {name} has no conversion between {' and '.join(between)}")
    return known[between].rules
