"""The matrix in the documents has a row for every source, and rows that are run again say the same."""

from __future__ import annotations

from pathlib import Path

import make_matrix
import pytest

from transcode.errors import TranscodeError

GUIDE = Path(__file__).parents[2] / "docs" / "guide"


def stored(name: str) -> dict[str, list[str]]:
    page = (GUIDE / name).read_text("utf-8").partition("<!-- matrix -->")[2].partition("<!-- end")[0]
    lines = [line for line in page.splitlines() if line.startswith("| ")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[0]: row[1:] for row in rows}


def test_every_source_is_there_or_is_none(tmp_path):
    table = stored(make_matrix.PAGES[0])
    missing = [pair for pair in make_matrix.rows() if ", ".join(pair) not in table]
    for scheme, convention in missing:  # what the convention does not take of the small Llama
        with pytest.raises(TranscodeError):
            list(make_matrix.cells(scheme, convention, tmp_path / f"{scheme}-{convention}"))
    assert len(table) > 25
    assert table == stored(make_matrix.PAGES[1])


@pytest.mark.parametrize(("scheme", "convention"), [("mxfp4", "compressed_tensors"), ("int4", "neutral")])
def test_a_row_that_is_run_again(scheme, convention, tmp_path):
    row = stored(make_matrix.PAGES[0])[f"{scheme}, {convention}"]
    assert list(make_matrix.cells(scheme, convention, tmp_path)) == row


def test_the_table_takes_its_place():
    text = "# A\n\n<!-- matrix -->\nold\n<!-- end of matrix -->\nend\n"
    page = make_matrix.page(text, [(("int8", "neutral"), ["same"] * len(make_matrix.COLUMNS))])
    assert page.startswith("# A\n\n<!-- matrix -->\n\n| | bf16 | int8 |")
    assert page.endswith("| same |\n\n<!-- end of matrix -->\nend\n")
    assert "old" not in page
    assert make_matrix.page(page, []).count("\n") == page.count("\n") - 1
