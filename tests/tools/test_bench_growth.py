"""What facts cost is measured on files that are real, and said per tensor."""

from __future__ import annotations

import json
import os
import sys

import bench_growth
import pytest

from tests.files import indexed


def test_files_are_such_as_the_reference_library_reads(tmp_path):
    bench_growth.write_shards(tmp_path / "model", 70, 3)
    held = indexed(tmp_path / "model")
    assert len(held) == 70


def test_what_a_tensor_more_costs():
    figures = {"inspect": {"start": [0.5, 1000], "1000": [0.7, 3000], "2000": [2.5, 5000]}}
    first, second = bench_growth.rows(figures, {"start": 0, "1000": 1000, "2000": 2000})
    assert (first["us_per_tensor"], first["bytes_per_tensor"]) == (200, 2)
    assert (second["us_per_tensor"], second["bytes_per_tensor"]) == (1000, 2)


@pytest.mark.skipif(not hasattr(os, "wait4"), reason="wait4 is of Unix")
def test_a_record_is_written(tmp_path, monkeypatch, capsys):
    out = tmp_path / "growth.json"
    arguments = ["--tensors", "200", "--shards", "2", "--rounds", "1", "--json", str(out), "inspect", "meta"]
    monkeypatch.setattr(sys, "argv", ["bench_growth.py", *arguments])
    bench_growth.main()
    record = json.loads(out.read_text())
    assert [(row["case"], row["model"]) for row in record["rows"]] == [
        ("inspect", "200"),
        ("inspect", "2 shards"),
        ("meta set", "200"),
    ]
    assert record["start"].keys() == {"inspect", "meta set"}
    assert len(capsys.readouterr().out.splitlines()) == 3
