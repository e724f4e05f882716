"""The record of how a file was made: what is in it, what is not, and the chain of records."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

import transcode as tc
from transcode.consumers import record


def made(path: Path) -> dict:
    found: dict = json.loads(tc.open(path).source.metadata["transcode"])
    return found


def test_what_a_record_tells(wan, tmp_path):
    stage = tc.quantize("int8", keep_dtype="F32", exclude=["blocks.0"])
    tc.open(wan) | tc.drop("head") | stage | tc.write(tmp_path / "a.safetensors")
    found = made(tmp_path / "a.safetensors")
    assert set(found) == {"version", "schemes", "convention", "digest", "recipe"}
    assert found["version"] == tc.__version__
    assert found["schemes"] == ["int8"]
    quantize = {"scheme": "int8", "keep_dtype": "F32", "exclude": ["blocks.0"]}
    assert found["recipe"]["steps"] == [{"drop": ["head"]}, {"quantize": quantize}]
    assert found["recipe"]["convention"] == found["convention"] == "lightx2v"
    text = json.dumps(found["recipe"], sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert found["digest"] == "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def test_nothing_of_this_machine_is_in_it(wan, tmp_path):
    for name in ("a", "deep/down/b"):
        tc.open(wan) | tc.quantize("int8") | tc.write(tmp_path / f"{name}.safetensors", workers=len(name))
    one, other = made(tmp_path / "a.safetensors"), made(tmp_path / "deep/down/b.safetensors")
    assert one == other
    assert str(tmp_path) not in json.dumps(one)


def test_from_names_the_record_before(wan, tmp_path):
    """A file made of a file made of a file: each names the digest of the one before it."""
    first, second, third = (tmp_path / f"{n}.safetensors" for n in "abc")
    tc.open(wan) | tc.drop("head") | tc.write(first)
    tc.open(first) | tc.quantize("int8", targets=["blocks.0"]) | tc.write(second)
    tc.open(second) | tc.drop("blocks.1") | tc.write(third)
    records = [made(path) for path in (first, second, third)]
    assert "from" not in records[0]
    assert records[1]["from"] == records[0]["digest"]
    assert records[2]["from"] == records[1]["digest"]
    assert len({one["digest"] for one in records}) == 3


@pytest.mark.parametrize(
    ("before", "wanted"),
    [
        (None, None), ("", None), ("no JSON", None), ("[1]", None), ('{"digest": 3}', None), ("{}", None),
        ('{"digest": "sha256:00"}', "sha256:00"), ('{"digest": "sha256:00", "from": "x"}', "sha256:00"),
    ],
)  # fmt: skip
def test_records_before_of_any_kind(before, wanted):
    found = json.loads(record.dumps({"version": "1"}, before=before))
    assert found == ({"version": "1"} if wanted is None else {"version": "1", "from": wanted})


def test_limits_are_part_of_the_recipe(wan, tmp_path):
    digests = set()
    for number, options in enumerate(
        ({}, {"max_tensors": 50}, {"max_tensors": 51}, {"max_shard_size": "1MB"})
    ):
        plan = tc.open(wan).plan(tc.write(tmp_path / str(number), layout="chunked", **options))
        digests.add(plan.summary["digest"])
    assert len(digests) == 4


@pytest.mark.parametrize(
    ("metadata", "schemes"),
    [
        ({}, []), ({"transcode": '{"convention": "x", "schemes": ["int8", "fp8"]}'}, ["int8", "fp8"]),
        ({"transcode": '{"convention": "x", "schemes": "int8"}'}, []),
        ({"transcode": '{"convention": "x", "schemes": [1, "fp8"]}'}, ["fp8"]),
        ({"transcode": '{"schemes": [], "stored": {"convention": "x", "schemes": ["fp8"]}}'}, ["fp8"]),
        ({"transcode": "x"}, []),
    ],
)  # fmt: skip
def test_schemes_of_a_file(metadata, schemes):
    assert record.schemes(metadata) == schemes


def test_a_recipe_of_a_record_is_what_recipe_files_hold(wan, tmp_path):
    tc.open(wan) | tc.quantize("int8") | tc.write(tmp_path / "a", layout="by_block")
    found = made(tmp_path / "a" / "block_0.safetensors")
    assert record.recipe(found) == {
        "steps": [{"quantize": {"scheme": "int8"}}],
        "target": {"convention": "lightx2v", "layout": "by_block"},
    }
    assert record.recipe({"recipe": {"steps": 3}}) is None
    assert record.recipe({}) is None
