"""How many rows each part of a joined tensor has; which weights are swapped."""

from __future__ import annotations

from dataclasses import replace

import pytest

from transcode.catalog.rule import REST, Grid, Rule


@pytest.mark.parametrize(
    ("rows", "total", "columns", "expected"),
    [
        ((), 12, None, [4, 4, 4]),
        ((), 13, None, None),
        ((), 0, None, None),
        ((2, 1, 1), 16, 4, [8, 4, 4]),
        ((2, 1, 1), 20, 4, None),
        ((1, 1, REST), 21, 4, [4, 4, 13]),
        ((1, REST, 1), 8, 4, None),  # nothing is left
        ((1, 1, REST), 21, None, None),
    ],
)
def test_counts(rows: tuple[int, ...], total: int, columns: int | None, expected: list[int] | None) -> None:
    assert Rule("qkv", ("q", "k", "v"), rows).counts(total, columns) == expected


def test_only_weights_with_so_many_rows_are_swapped() -> None:
    always, some = Rule("a", ("b",), swapped=True), Rule("a", ("b",), (2,), swapped=True)
    assert always.swaps(7, None)
    assert some.swaps(8, 4)
    assert not some.swaps(24, 4)
    assert not some.swaps(8, None)


def test_in_words() -> None:
    assert str(Rule("a", ("b",))) == "a <-> b"
    assert str(Rule("a", ("b", None))) == "a <-> join of b, ~"
    assert str(Rule("a", ("b",), swapped=True)) == "a <-> swap of b"


def test_rows_that_stay_rows() -> None:
    """Those in another order do; elements, stacks, other shapes and other values do not."""
    one = Rule("a", ("b",))
    assert one.keeps_rows
    assert replace(one, grid=Grid(("2", "~"), (1, 0))).keeps_rows
    assert replace(one, shapes=(("rows", "~", "1", "1"), ("rows", "~"))).keeps_rows
    assert not replace(one, grid=Grid(("rows", "columns"), (1, 0), elements=True)).keeps_rows
    assert not replace(one, shapes=(("~",), ("6", "~"))).keeps_rows
    assert not replace(one, add=1.0).keeps_rows
    assert not Rule("a", ("b.{e}",)).keeps_rows
