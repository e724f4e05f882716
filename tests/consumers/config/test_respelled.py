"""What config.json says of modules speaks of their new names after a conversion."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import transcode as tc
from transcode.consumers.config.respelled import respelled
from transcode.stages.convert import Convert

MODULES = {
    "a.0.q": ["b.0.qkv"], "a.0.k": ["b.0.qkv"], "a.0.mlp": ["b.0.up", "b.0.gate"],
    "a.1.q": ["b.1.qkv"], "head": ["head"],
}  # fmt: skip


@pytest.mark.parametrize(
    ("before", "after", "left"),
    [
        (["a.0.q", "a.0.k", "head"], ["b.0.qkv", "head"], []),
        (["a.0.mlp.weight"], ["b.0.up.weight", "b.0.gate.weight"], []),
        (["a.0", "Linear"], ["b.0.qkv", "b.0.up", "b.0.gate", "Linear"], []),
        ({"a.1.q": {"bits": 8}, "bits": 4}, {"b.1.qkv": {"bits": 8}, "bits": 4}, []),
        ([{"modules": ["a.1.q"]}], [{"modules": ["b.1.qkv"]}], []),
        (["re:a\\.\\d+\\.mlp", "*.q", "other"], ["re:a\\.\\d+\\.mlp", "*.q", "other"], ["*.q"]),
        (["mlp", "0"], ["mlp", "0"], ["mlp"]),
    ],
)
def test_names_in_lists_and_as_keys(before, after, left) -> None:
    assert respelled({"said": before, "bits": 4}, MODULES) == ({"said": after, "bits": 4}, left)


def llama(rows: int = 64) -> dict[str, torch.Tensor]:
    layer = "model.layers.0"
    names = [
        *(f"self_attn.{one}_proj" for one in "qkvo"),
        *(f"mlp.{one}_proj" for one in ("gate", "up", "down")),
    ]
    matrices = {f"{layer}.{name}.weight": torch.randn(rows, rows) for name in names}
    norms = [f"{layer}.input_layernorm", f"{layer}.post_attention_layernorm", "model.norm"]
    ends = {f"{name}.weight": torch.randn(rows, rows) for name in ("model.embed_tokens", "lm_head")}
    return matrices | ends | {f"{name}.weight": torch.ones(rows) for name in norms}


@pytest.mark.parametrize(
    ("scheme", "convention", "key"),
    [
        ("fp8", "compressed_tensors", "ignore"),
        ("int8", "torchao", None),
        ("fp8", "sdnq", "modules_to_not_convert"),
    ],
)
def test_a_converted_folder_lists_the_names_that_it_has(scheme, convention, key, tmp_path) -> None:
    """It listed those of the source, so loaders looked for scales that are not there; and where codes have
    names of their own, no config.json was written at all.
    """
    (tmp_path / "m").mkdir()
    save_file(llama(), tmp_path / "m" / "model.safetensors")
    (tmp_path / "m" / "config.json").write_text(json.dumps({"model_type": "llama", "hidden_size": 64}))
    flow = tc.open(tmp_path / "m") | tc.quantize(scheme, exclude=["q_proj"])
    flow | tc.write(tmp_path / "q", convention=convention)
    tc.open(tmp_path / "q") | Convert("multimodal") | tc.write(tmp_path / "c")
    said = json.loads((tmp_path / "c" / "config.json").read_text())
    assert "model.language_model.layers.0.self_attn.q_proj.weight" in load_file(
        tmp_path / "c" / "model.safetensors"
    )
    assert said["model_type"] == "llama"
    if key is not None:
        listed = {name.removesuffix(".weight") for name in said["quantization_config"][key]}
        assert listed == {"lm_head", "model.language_model.layers.0.self_attn.q_proj"}
    for file in (tmp_path / "c").glob("*.json"):
        assert '"model.layers' not in file.read_text(), file.name


@pytest.mark.parametrize(("scheme", "convention"), [("nvfp4", "comfyui"), ("awq_w4a16", "torchao")])
def test_lengths_of_a_config_are_not_those_of_codes(scheme, convention, tmp_path, monkeypatch) -> None:
    """Two codes in a byte: the widths of text were half as many in the config.json of LTX-Video."""
    (tmp_path / "formats" / "families").mkdir(parents=True)
    (tmp_path / "formats" / "families" / "toy_config.yaml").write_text(
        """
family: toy_config
title: Toy
spellings:
  original: {title: o, detect: {all: [blocks.*.q.weight]}, blocks: ["blocks.{i}"], targets: ["*"]}
  other:
    title: x
    detect: {all: [blocks.*.to_q.weight]}
    blocks: ["blocks.{i}"]
    targets: ["*"]
    config: {width: {shape: blocks.0.to_q.weight, axis: 1}}
conversions: [{between: [original, other], rules: [{at: ["blocks.{i}"], rules: [[q, to_q]]}]}]
"""
    )
    monkeypatch.setenv("TRANSCODE_FORMATS", str(tmp_path / "formats"))
    save_file({"blocks.0.q.weight": torch.randn(64, 128)}, tmp_path / "m.safetensors")
    flow = tc.open(tmp_path / "m.safetensors") | tc.quantize(scheme)
    flow | tc.write(tmp_path / "q.safetensors", convention=convention)
    tc.open(tmp_path / "q.safetensors") | Convert("other") | tc.write(tmp_path / "c")
    assert json.loads((tmp_path / "c" / "config.json").read_text())["width"] == 128
