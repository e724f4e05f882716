"""Which rows of a joined module are those of its parts, where rows have changed places besides."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate

from ...catalog.rule import Rule
from ..arrange import arrangement
from .portions import Portion

__all__ = ["in_joined", "of_parts", "order_of"]

Facts = Callable[[], Mapping[str, object]]


def of_parts(
    rule: Rule,
    heights: Sequence[int],
    columns: int | None,
    facts: Facts,
    key: str,
) -> list[Portion]:
    """The rows of the joined one that each part has, as the part has them.

    Args:
        rule: one that keeps rows.
        heights: rows of all parts.
        columns: of the weight; None where they are not known.
        facts: gives keys of the model's config.json.
        key: for errors.

    Raises:
        PlanError: where rows lie depends on what is not known of the model.
    """
    begins = [0, *accumulate(heights)]
    order = order_of(rule, heights, _tail(columns), facts, key)
    if order is None:
        return [[(begin, height)] for begin, height in zip(begins, heights, strict=False)]
    back = sorted(range(len(order)), key=order.__getitem__)
    return [_runs(back[begin : begin + height]) for begin, height in zip(begins, heights, strict=False)]


def in_joined(
    rule: Rule,
    heights: Sequence[int],
    columns: int | None,
    facts: Facts,
    key: str,
) -> Portion | None:
    """The rows of all parts, one after the other, as the joined one has them; None where it has them so.

    Args, Raises: as of :func:`of_parts`.
    """
    order = order_of(rule, heights, _tail(columns), facts, key)
    return None if order is None else _runs(order)


def order_of(
    rule: Rule,
    heights: Sequence[int],
    tail: Sequence[int],
    facts: Facts,
    key: str,
) -> list[int] | None:
    """Which row of all parts, one after the other, each row of the joined one is; None where it is the same.

    Args:
        rule: one that keeps rows.
        heights: rows of all parts.
        tail: what of their shape is behind the rows, as far as it is known.
        facts: gives keys of the model's config.json.
        key: for errors.

    Raises:
        PlanError: that depends on what is not known of the model.
    """
    if rule.grid is None:
        return None
    parts = [(height, *tail) for height in heights]
    return arrangement(rule, parts, 1, facts(), key).rows_in_order()


def _tail(columns: int | None) -> tuple[int, ...]:
    return () if columns is None else (columns,)


def _runs(rows: Iterable[int]) -> list[tuple[int, int]]:
    runs: list[tuple[int, int]] = []
    for row in rows:
        if runs and sum(runs[-1]) == row:
            runs[-1] = runs[-1][0], runs[-1][1] + 1
        else:
            runs.append((row, 1))
    return runs
