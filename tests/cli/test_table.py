"""Tables: cut or wrapped to a width, and what differs looks different."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from transcode.cli import table

NAMES = st.lists(
    st.lists(
        st.sampled_from(["blocks", "attn", "q", "k", "weight", "长", "0", "norm"]), min_size=1, max_size=9
    ).map(".".join),
    min_size=1,
    max_size=12,
)


def test_what_is_too_long_lacks_its_middle_and_stays_apart():
    names = [f"blocks.*.{one}_attn.to_q.weight" for one in ("self", "cross")]
    assert len(set(table.apart(names, 20))) == 2
    assert table.apart(["blocks.*.self_attn.q.weight"], 20) == ["blocks.*....q.weight"]
    assert table.apart(["short"], 20) == ["short"]


@given(NAMES, st.integers(12, 60))
def test_cells_fit_and_tell_names_apart(names, columns):
    short = table.apart(names, columns)
    assert all(table.span(one) <= columns for one in short)
    cells = table._apart_or_wrapped(names, columns)
    assert all(table.span(line) <= columns for cell in cells for line in cell)
    assert len({tuple(cell) for cell in cells}) == len(set(names))


@given(NAMES, st.integers(40, 90))
def test_wrapped_columns_hold_every_word(names, columns):
    lines: list[str] = []
    monkey = table.echo, table.width
    table.echo = lambda text="", **_: lines.append(str(text))
    table.width = lambda: columns
    try:
        table.print_table(("name", "other"), [(name, "a b " + name) for name in names], wrap=True)
    finally:
        table.echo, table.width = monkey
    assert all(table.span(line) <= columns for line in lines)
    assert "".join("".join(lines).split()).count("长") == 2 * "".join(names).count("长")


def test_a_table_without_rows(capsys):
    table.print_table(("one", "other"), [])
    assert capsys.readouterr().out == "one  other\n"
