"""The matrix in the documents has a row for every source, and rows that are run again say the same."""

from __future__ import annotations

from pathlib import Path

import make_matrix
import pytest

from transcode.errors import TranscodeError

GUIDE = Path(__file__).parents[2] / "docs" / "guide"


def stored(name: str, which: str = "matrix") -> dict[str, list[str]]:
    begin, end = make_matrix.MARKS[which]
    page = (GUIDE / name).read_text("utf-8").partition(begin)[2].partition(end)[0]
    lines = [line for line in page.splitlines() if line.startswith("| ")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[0]: row[1:] for row in rows}


def test_every_source_is_there_or_is_none(tmp_path):
    table = stored(make_matrix.PAGES[0])
    missing = [pair for pair in make_matrix.rows() if ", ".join(pair) not in table]
    for scheme, convention in missing:  # what the convention does not take of the small Llama
        with pytest.raises(TranscodeError):
            make_matrix.made(scheme, convention, tmp_path / f"{scheme}-{convention}")
    assert len(table) > 60
    assert len(missing) < 20
    assert table == stored(make_matrix.PAGES[1])


def test_what_every_owner_made_is_there():
    table = stored(make_matrix.PAGES[0], "matrix of owners")
    assert set(table) - {""} == {make_matrix.told(path) for path in make_matrix.owned()}
    assert table == stored(make_matrix.PAGES[1], "matrix of owners")


def test_cells_of_a_row_that_are_run_again(tmp_path):
    some = slice(0, 3)
    row = stored(make_matrix.PAGES[0])["mxfp4, compressed_tensors"]
    source = make_matrix.made("mxfp4", "compressed_tensors", tmp_path)
    assert list(make_matrix.cells(source, tmp_path, columns=make_matrix.COLUMNS[some])) == row[some]


@pytest.mark.parametrize("name", ["compressed_tensors_w4a16", "mlx_mxfp8", "gptqmodel_gptq"])
def test_cells_of_an_owners_row_that_are_run_again(name, tmp_path):
    path = make_matrix.OWNERS / name
    row = stored(make_matrix.PAGES[0], "matrix of owners")[make_matrix.told(path)]
    source = make_matrix.bare(path, tmp_path)
    assert list(make_matrix.cells(source, tmp_path, columns=make_matrix.COLUMNS[:4])) == row[:4]


def test_the_table_takes_its_place():
    text = "# A\n\n<!-- matrix -->\nold\n<!-- end of matrix -->\nend\n"
    page = make_matrix.page(text, [("int8, neutral", ["same"] * len(make_matrix.COLUMNS))])
    assert page.startswith("# A\n\n<!-- matrix -->\n\n| | bf16 | int8 |")
    assert page.endswith("| same |\n\n<!-- end of matrix -->\nend\n")
    assert "old" not in page
    assert make_matrix.page(page, []).count("\n") == page.count("\n") - 1
