"""The record of how a file was made: what is in it, what is not, and the chain of records."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch

import transcode as tc
from transcode.consumers import record
from transcode.errors import PlanError


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


@pytest.mark.parametrize(
    ("scheme", "options", "other"),
    [
        ("int8", {"granularity": "group", "group_size": 32}, "int8:granularity=group"),
        ("int8", {"granularity": "group", "group_size": 32}, "int4"),
        ("int4", {"group_size": 32}, "int4"), ("int4", {}, "int4:group_size=32"),
        ("fp8", {"granularity": "block", "block": [32, 32]}, "fp8:granularity=block"),
    ],
)  # fmt: skip
def test_sizes_by_default_are_told_where_others_are(scheme, options, other, save, tmp_path):
    """Where some sizes are told no others are tried; what was made in one run can be read again."""
    names = [f"model.layers.0.mlp.{which}_proj.weight" for which in ("gate", "up")]
    tensors = {name: torch.randn(64, 256, generator=torch.Generator().manual_seed(7)) for name in names}
    mixed = tc.quantize(scheme, overrides=[("up_proj", other)], **options)
    tc.open(save(tensors)) | mixed | tc.write(tmp_path / "o", convention="neutral")
    after = {one.name: one.torch() for one in tc.open(tmp_path / "o") | tc.dequantize("F32")}
    assert all((after[name] - tensors[name]).norm() < 0.15 * tensors[name].norm() for name in names)


@pytest.mark.parametrize(
    ("scheme", "options", "other", "told"),
    [
        ("int8", {"granularity": "group", "group_size": 100}, "int8:granularity=group", "int8 with group"),
        ("fp8", {"granularity": "block", "block": [100, 100]}, "fp8:granularity=block", "fp8 with block="),
    ],
)  # fmt: skip
def test_ragged_groups_of_two_sizes_are_refused(scheme, options, other, told, save, tmp_path):
    """130 columns are two groups of 100 as of 128; one of them was taken for all, and values were wrong."""
    names = [f"model.layers.0.mlp.{which}_proj.weight" for which in ("gate", "up")]
    source = save({name: torch.ones(64, 130) for name in names})
    mixed = tc.quantize(scheme, overrides=[("up_proj", other)], **options)
    tc.open(source) | mixed | tc.write(tmp_path / "o", convention="neutral")
    with pytest.raises(PlanError, match=told) as raised:
        list(tc.open(tmp_path / "o") | tc.dequantize("F32"))
    assert "--from-scheme" not in str(raised.value)


def test_a_recipe_that_tells_all_is_all(save, tmp_path):
    source = save({"model.layers.0.mlp.up_proj.weight": torch.ones(64, 128)})
    tc.open(source) | tc.quantize("int4", group_size=32) | tc.write(tmp_path / "o", convention="neutral")
    assert "held" not in made(tmp_path / "o")
