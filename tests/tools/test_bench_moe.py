"""The made-up largest model is what its headers say, and plans of it are measured as they are made."""

from __future__ import annotations

import json
import os

import bench_moe
import pytest

import transcode as tc
from tests.files import indexed


def facts(layers: int = 4) -> list[bench_moe.Fact]:
    return list(bench_moe.tensors(layers, experts=4))


def test_the_model_has_the_size_of_the_published_one():
    """671 billion parameters in 61 layers: DeepSeek-V3's README."""
    every = list(bench_moe.tensors(61))
    sizes = [rows[0] * (rows[1] if len(rows) > 1 else 1) for name, _, rows in every if "scale" not in name]
    assert round(sum(sizes) / 1e9) == 671


def test_files_are_such_as_the_reference_library_reads_and_decode(tmp_path):
    bench_moe.write(tmp_path / "model", facts(), 3)
    assert indexed(tmp_path / "model")
    plan = tc.write(tmp_path / "out").plan(tc.open(tmp_path / "model") | tc.dequantize("bf16"))
    decoded = [tensor for tensor in plan.tensors if tensor.name.endswith("experts.3.down_proj.weight")]
    assert [str(tensor.spec) for tensor in decoded] == ["BF16[7168,2048]"]
    assert not any("scale" in place.name for file in plan.files for place in file.places)


@pytest.mark.skipif(not hasattr(os, "wait4"), reason="wait4 is of Unix")
def test_a_record_is_written(tmp_path, monkeypatch):
    small = facts()
    monkeypatch.setattr(bench_moe, "tensors", lambda layers: small)
    out = tmp_path / "moe.json"
    arguments = ["--work", str(tmp_path), "--layers", "4", "--shards", "2", "--json", str(out), "inspect"]
    assert bench_moe.main(arguments) == 0
    (row,) = json.loads(out.read_text())["rows"]
    assert row["case"] == "inspect"
    assert row["processor s"] > 0
    assert row["MB"] > 10
    assert not (tmp_path / "moe").exists()
