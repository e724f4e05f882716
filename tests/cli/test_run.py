"""``run``: a dry run is exact, reports are true, flags are meant."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

PLANS = [
    ("o.safetensors", []),
    ("o.safetensors", ["--scheme", "int8", "--drop", "*.bias", "--rename", "^blocks", "layers"]),
    ("o", ["--scheme", "fp8", "--layout", "by_block", "--keep-dtype", "F32"]),
    ("o", ["--scheme", "int8", "--asymmetric", "--max-shard-size", "60kB", "--convention", "neutral"]),
    ("o", ["--cast", "F32", "--max-tensors", "9", "--convention", "plain", "--name", "model"]),
]


@pytest.mark.parametrize(("name", "args"), PLANS)
def test_a_dry_run_is_exact_and_writes_nothing(name, args, cli, wan, tmp_path):
    plan = cli("run", wan, tmp_path / name, *args, "--dry-run", "--json").json
    assert not list(tmp_path.iterdir())
    report = cli("run", wan, tmp_path / name, *args, "--json").json
    for key in ("seconds", "bytes_read", "bytes_written", "bytes_resumed"):
        report.pop(key)
    assert report == plan
    out = tmp_path / name
    sizes = {f.name: f.stat().st_size for f in ([out] if out.is_file() else out.iterdir())}
    sides = {side: sizes.pop(side) for side in plan["side_files"]}
    assert {f["name"]: f["size"] for f in plan["files"]} == sizes
    assert plan["file_bytes"] == sum(sizes.values())
    assert set(sides) == set(plan["side_files"])
    for entry in plan["files"]:
        held = load_file(out if out.is_file() else out / entry["name"])
        raw = (out if out.is_file() else out / entry["name"]).read_bytes()
        told = [s for t in plan["tensors"] for s in t["stored"] if s["file"] == entry["name"]]
        assert {s["name"]: s["shape"] for s in told} == {
            name: list(value.shape) for name, value in held.items()
        }
        assert entry["tensors"] == len(held)
        for s in told:
            value = held[s["name"]].flatten().view(torch.uint8).numpy().tobytes()
            assert raw[s["offset"] : s["offset"] + len(value)] == value


def test_every_tensor_has_a_fate(cli, wan, tmp_path):
    plan = cli("run", wan, tmp_path / "o", "--scheme", "int8", "--drop", "img_emb", "-n", "--json").json
    told = [*plan["tensors"], *plan["dropped"]]
    assert len(told) == 87
    assert all(t["fate"] and all(t["fate"]) for t in told)
    assert {t["source"] for t in plan["dropped"]} == {
        t["source"] for t in told if t["source"].startswith("img_emb")
    }
    text = cli("run", wan, tmp_path / "o", "--scheme", "int8", "--drop", "img_emb", "-n", "-v").out
    assert all(t["source"] in text for t in told)


def test_quiet_and_json_and_verbose(cli, wan, tmp_path):
    assert cli("run", wan, tmp_path / "a.safetensors", "-q").out == ""
    quiet = cli("run", wan, tmp_path / "b.safetensors", "-q", "--scheme", "int8")
    assert (quiet.out, quiet.err) == ("", "")
    assert json.loads(cli("run", wan, tmp_path / "c.safetensors", "--json").out)["bytes_written"] > 0
    assert "blocks.0.ffn.0.weight" in cli("run", wan, tmp_path / "d.safetensors", "-v").out
    assert "87 tensors" in cli("run", wan, tmp_path / "e.safetensors").out


def test_quantizing_nothing_is_said(cli, save, tmp_path):
    source = save({"norm.weight": torch.ones(8)})
    line = cli("run", source, tmp_path / "o.safetensors", "--scheme", "int8", code=2).err
    assert "no tensor becomes int8: 1 of 1 tensors: 1-D" in line
    assert not (tmp_path / "o.safetensors").exists()
    result = cli("run", source, tmp_path / "o.safetensors", "--scheme", "int8", "--allow-unmatched")
    assert "warning" in result.err
    assert "no tensor" in result.err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there(refused, wan, tmp_path):
    line = refused("run", wan, tmp_path / "b.safetensors", "--scheme", "int8", "--device", "cuda:0")
    assert "device cuda:0" in line
    assert "--device cpu" in line
    assert not list(tmp_path.iterdir())


def test_options_that_would_do_nothing(refused, wan, tmp_path):
    assert "--model does nothing" in refused("run", wan, tmp_path / "o", "--model", "wan_dit")
    assert "'transcode' is the record" in refused("run", wan, tmp_path / "o", "--metadata", "transcode=x")


def test_renamed_tensors_are_reported_as_such(cli, wan, tmp_path):
    said = cli("run", wan, tmp_path / "o", "--rename", "^head", "top").out.splitlines()
    heads = [line.split()[:2] for line in said if line.startswith(("keep", "rename"))]
    assert heads == [["rename", "3"], ["keep", "84"]]


def test_an_unknown_family_is_no_obstacle_to_renaming(cli, save, tmp_path):
    source = save({"a.weight": torch.ones(2, 2), "b.weight": torch.zeros(2)})
    cli("run", source, tmp_path / "o.safetensors", "--rename", "^a", "c")
    assert set(load_file(tmp_path / "o.safetensors")) == {"c.weight", "b.weight"}


def test_names_that_collide(refused, save, tmp_path):
    source = save({"a.weight": torch.ones(2, 2), "b.weight": torch.zeros(2, 2)})
    message = refused("run", source, tmp_path / "o.safetensors", "--rename", "^[ab]", "c")
    assert "c.weight" in message
    assert "'a.weight'" in message
    assert "'b.weight'" in message
    # a scale may collide with a tensor too
    source = save({"a.weight": torch.ones(2, 2), "a.weight_scale": torch.zeros(2)}, "n.safetensors")
    assert "a.weight_scale" in refused("run", source, tmp_path / "o.safetensors", "--scheme", "int8")


def test_nothing_left(refused, wan, tmp_path):
    assert "no tensor is left" in refused("run", wan, tmp_path / "o.safetensors", "--drop", "*")


def test_metadata_is_carried_and_added(cli, save, tmp_path):
    from safetensors import safe_open

    source = save({"a": torch.ones(2)}, metadata={"author": "me", "licence": "free"})
    cli("run", source, tmp_path / "o.safetensors", "--metadata", "author=you", "--metadata", "x=a=b")
    with safe_open(tmp_path / "o.safetensors", "pt") as file:
        found = file.metadata()
    assert found.pop("transcode")
    assert found == {"author": "you", "licence": "free", "x": "a=b", "format": "pt"}
