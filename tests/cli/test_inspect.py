"""``inspect`` tells what the files hold."""

from __future__ import annotations

import json

import torch
from safetensors import safe_open


def test_json_is_the_headers(cli, wan):
    found = cli("inspect", wan, "--json").json
    held = {}
    for path in wan.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118  it is no mapping
                part = file.get_slice(name)
                held[name] = (part.get_dtype(), part.get_shape())
    assert {t["name"]: (t["dtype"], t["shape"]) for t in found["tensors"]} == held
    assert found["family"] == "wan_dit"
    assert found["bytes"] == sum(t["nbytes"] for t in found["tensors"])
    index = json.loads((wan / "diffusion_pytorch_model.safetensors.index.json").read_text())
    assert found["bytes"] == index["metadata"]["total_size"]
    assert sum(file["tensors"] for file in found["files"]) == len(held) == len(index["weight_map"])
    assert [file["size"] for file in found["files"]] == [
        f.stat().st_size for f in sorted(wan.glob("*.safetensors"))
    ]
    assert found["metadata"] == {"format": "pt"}


def test_the_table_for_people(cli, wan, save):
    out = cli("inspect", wan).out
    assert "blocks.*.ffn.0.weight" in out
    assert "blocks.*.ffn.2.weight" in out
    assert "wan_dit" in out
    assert "config.json" in out
    assert "tensors    87, " in out
    every = cli("inspect", wan, "--all").out
    assert "blocks.1.ffn.2.weight" in every
    odd = save({"scalar": torch.tensor(1.0), "none": torch.empty(0, 3)}, metadata={"k": "v" * 200})
    out = cli("inspect", odd).out
    assert "unknown" in out
    assert "k = vvv" in out


def test_a_filter(cli, wan):
    found = cli("inspect", wan, "blocks.1.ffn", "head", "--json").json
    assert {t["name"] for t in found["tensors"]} == {
        "blocks.1.ffn.0.weight", "blocks.1.ffn.0.bias", "blocks.1.ffn.2.weight", "blocks.1.ffn.2.bias",
        "head.head.weight", "head.head.bias", "head.modulation",
    }  # fmt: skip
    assert found["family"] == "wan_dit"


def test_a_filter_that_matches_nothing_says_so(cli, wan):
    result = cli("inspect", wan, "blocks.1.ffm", "head", "--json")
    assert "'blocks.1.ffm' matches no tensor" in result.err
    assert len(result.json["tensors"]) == 3


def test_what_is_no_checkpoint(refused, tmp_path):
    assert "no such file" in refused("inspect", tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    assert "empty" in refused("inspect", tmp_path / "empty")
    (tmp_path / "x.safetensors").write_bytes(b"\x00" * 5)
    assert "x.safetensors" in refused("inspect", tmp_path / "x.safetensors")
