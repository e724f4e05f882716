"""The record of speed: what is measured is written, and what the page shows is what was written."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import bench
import bench_workers
import make_checkpoint
import pytest

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="measures Linux's calls")

RECORD = {
    "machine": {"processors": 2, "model": "A", "kernel": "6.1", "python": "3.11"},
    "tables": {
        "x": {
            "when": "2026-11-28",
            "load": 0.25,
            "source bytes": 8_560_000_000,
            "rows": [
                {"way": "cat", "wall s": 1.5, "n": 3, "y": 0.1234},
                {"way": "b", "wall s": 2.0, "n": 4, "y": None},
            ],
        }
    },
}
TABLE = """2026-11-28, 2 processors (A), Linux 6.1, Python 3.11, load 0.2 at the end, 8.6 GB.

| way | wall s | n | y |
|---|---:|---:|---:|
| cat | 1.50 | 3 | 0.123 |
| b | 2.00 | 4 |  |"""


def test_a_table_of_a_record():
    assert bench.render(RECORD, "x") == TABLE


def test_only_what_is_between_the_marks_changes():
    page = "a\n<!-- record one x -->\nold\n<!-- end -->\nb\n"
    filled = bench.fill(page, {"one": RECORD}.__getitem__)
    assert filled == f"a\n<!-- record one x -->\n{TABLE}\n<!-- end -->\nb\n"
    assert bench.fill(filled, {"one": RECORD}.__getitem__) == filled


def test_the_page_shows_its_records():
    assert bench.main(["tables", "--check"]) == 0


def test_a_page_that_differs_is_told(tmp_path, monkeypatch):
    page, records = tmp_path / "B.md", tmp_path / "records"
    records.mkdir()
    (records / "one.json").write_text(json.dumps(RECORD))
    page.write_text("<!-- record one x -->\n<!-- end -->\n")
    monkeypatch.setattr(bench, "PAGE", page)
    monkeypatch.setattr(bench, "RECORDS", records)
    assert bench.main(["tables", "--check"]) == 1
    assert bench.main(["tables"]) == 0
    assert bench.main(["tables", "--check"]) == 0
    assert TABLE in page.read_text()


def test_a_part_that_nobody_has(tmp_path, capsys):
    with pytest.raises(SystemExit):
        bench.main(["run", "x", "--work", str(tmp_path), "--only", "limit,nothing"])
    assert "no part nothing" in capsys.readouterr().err


def test_parts_are_added_to_a_record(tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "RECORDS", tmp_path / "records")
    monkeypatch.setattr(
        bench, "PARTS", {"a": lambda setting: [{"n": setting.rounds}], "b": lambda _: [{"n": 1}]}
    )
    monkeypatch.setattr(make_checkpoint, "main", lambda arguments: Path(arguments[0]).write_bytes(b"12"))
    bench.main(["run", "x", "--work", str(tmp_path / "w"), "--rounds", "2", "--only", "a"])
    bench.main(["run", "x", "--work", str(tmp_path / "w"), "--only", "b"])
    tables = json.loads((tmp_path / "records" / "x.json").read_text())["tables"]
    assert tables["a"]["rows"] == [{"n": 2}]
    assert tables["b"]["rows"] == [{"n": 1}]
    assert tables["a"]["source bytes"] == 2
    assert not list((tmp_path / "w").iterdir())


def test_every_scheme_with_every_number_of_workers(tmp_path, capsys):
    source, told = tmp_path / "s.safetensors", tmp_path / "rows.json"
    sizes = ["--blocks", "1", "--dim", "256", "--ffn", "512", "--text-dim", "256"]
    make_checkpoint.main([str(source), *sizes])
    arguments = [str(source), "int8", "mxfp4", "--work", str(tmp_path / "w"), "--workers", "default,2"]
    bench_workers.main([*arguments, "--rounds", "1", "--json", str(told)])
    rows = json.loads(told.read_text())
    assert [(row["scheme"], row["workers"]) for row in rows] == [
        (scheme, count) for scheme in ("int8", "mxfp4") for count in ("default", "2")
    ]
    assert all(row["ratio"] == pytest.approx(row["seconds"] / row["limit"]) for row in rows)
    assert not list((tmp_path / "w").iterdir())


def test_memory_is_that_of_what_is_measured():
    """Whatever this process holds: here more than the command does."""
    held = bytearray(b"x") * (256 << 20)
    (row,) = bench.apart("bench_growth.py", "meta set", "--rounds", "1", "--tensors", "8000", "--shards", "0")
    assert row["case"] == "meta set"
    assert 50 < row["bytes_per_tensor"] < 5000
    assert len(held)
