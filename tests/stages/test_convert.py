"""Names go from one spelling to another and back; what has no rule is refused."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

import transcode as tc
from transcode.errors import TranscodeError
from transcode.stages.convert import Convert


def test_there_and_back_is_the_same_file(wan, tmp_path) -> None:
    tc.open(wan) | tc.write(tmp_path / "one.safetensors")
    tc.open(wan) | Convert("diffusers") | tc.write(tmp_path / "d.safetensors")
    tc.open(tmp_path / "d.safetensors") | Convert("lightx2v") | tc.write(tmp_path / "back.safetensors")
    before, there, back = (load_file(tmp_path / f"{name}.safetensors") for name in ("one", "d", "back"))
    assert before.keys() == back.keys() != there.keys()
    assert all(before[name].equal(back[name]) for name in before)
    # As Diffusers has it: scripts/convert_wan_to_diffusers.py of huggingface/diffusers.
    assert there["blocks.0.attn1.to_q.weight"].equal(before["blocks.0.self_attn.q.weight"])
    assert there["blocks.0.ffn.net.0.proj.weight"].equal(before["blocks.0.ffn.0.weight"])
    assert there["condition_embedder.time_embedder.linear_1.weight"].equal(before["time_embedding.0.weight"])


def test_a_name_without_a_rule(save, wan, tmp_path) -> None:
    flow = tc.open(wan)
    tensors = {tensor.name: torch.zeros(tensor.spec.shape) for tensor in flow} | {
        "mine.weight": torch.ones(2, 2)
    }
    source = save(tensors)
    with pytest.raises(TranscodeError, match=r"mine\.weight"):
        (tc.open(source) | Convert("diffusers")).plan(tc.write(tmp_path / "o.safetensors"))
    allowed = tc.write(tmp_path / "o.safetensors", allow_unmatched=True)
    names = {tensor.name for tensor in (tc.open(source) | Convert("diffusers")).plan(allowed).tensors}
    assert {"mine.weight", "blocks.0.attn1.to_q.weight"} <= names


@pytest.mark.parametrize("options", [{"to": 3}, {"to": "nowhere", "model": "wan_dit"}])
def test_what_is_no_spelling(options: dict) -> None:
    with pytest.raises(TranscodeError):
        Convert(**options)


def test_a_spelling_that_is_there_already_changes_nothing(wan, tmp_path) -> None:
    plan = (tc.open(wan) | Convert("lightx2v")).plan(tc.write(tmp_path / "o.safetensors"))
    assert any("spelled as lightx2v already" in str(one) for one in plan.log.warnings)


def test_a_prefix_that_the_other_spelling_has_not_is_told(wan, tmp_path) -> None:
    flow = tc.open(wan) | tc.rename({"^": "model.diffusion_model."}) | Convert("diffusers")
    plan = flow.plan(tc.write(tmp_path / "o.safetensors"))
    assert any("without the prefix 'model.diffusion_model.'" in note.text for note in plan.log.notes)
    plain = (tc.open(wan) | Convert("diffusers")).plan(tc.write(tmp_path / "o.safetensors"))
    assert not any("without the prefix" in note.text for note in plain.log.notes)


JOINED = """
family: toy_joined
title: Toy
spellings:
  original: {title: o, detect: {all: [blocks.*.qkv.weight]}, blocks: ["blocks.{i}"], targets: ["*"]}
  apart: {title: a, detect: {all: [blocks.*.to_q.weight]}, blocks: ["blocks.{i}"], targets: ["*"]}
conversions:
  - between: [original, apart]
    rules:
      - at: ["blocks.{i}"]
        rules: [[qkv, {join: [to_q, to_k]}], [mod, {swap: linear, rows: 2}]]
"""


@pytest.fixture
def toy_joined(tmp_path, monkeypatch) -> None:
    """The family of that name."""
    (tmp_path / "formats" / "families").mkdir(parents=True)
    (tmp_path / "formats" / "families" / "toy_joined.yaml").write_text(JOINED)
    monkeypatch.setenv("TRANSCODE_FORMATS", str(tmp_path / "formats"))


@pytest.mark.parametrize(
    ("scheme", "convention", "refused"),
    [
        ("int4", "compressed_tensors", None),
        ("awq_w4a16", "torchao", None),
        ("int8", "torchao", None),  # has zero points of codes that have none
        ("int4", "awq", "stored in blocks of 256 rows"),
    ],
)
def test_codes_of_another_name_than_weight_move_by_what_they_are_of(
    scheme, convention, refused, save, tmp_path, toy_joined
) -> None:
    """A rule for ``to_q`` fits ``to_q.qweight`` too: halves of AWQ's columns changed places, and shapes that
    compressed-tensors states were joined. What torchao's metadata says of a shape is that of the whole.
    """
    names = ["blocks.0.to_q.weight", "blocks.0.to_k.weight", "blocks.0.linear.weight"]
    source = save({name: torch.randn(256, 128) for name in names})
    flow = tc.open(source) | tc.quantize(scheme)
    flow | tc.write(tmp_path / "q.safetensors", convention=convention)
    converted = tc.open(tmp_path / "q.safetensors") | Convert("original")
    if refused is not None:
        with pytest.raises(TranscodeError, match=refused):
            converted.plan(tc.write(tmp_path / "c.safetensors"))
        return
    converted | tc.write(tmp_path / "c.safetensors")
    decoded = {}
    for name in "qc":
        flow = tc.open(tmp_path / f"{name}.safetensors") | tc.dequantize("F32")
        flow | tc.write(tmp_path / f"{name}_.safetensors")
        decoded[name] = load_file(tmp_path / f"{name}_.safetensors")
    q, k, mod = (decoded["q"][name] for name in names)
    whole = {"qkv": torch.cat([q, k]), "mod": torch.cat([mod[128:], mod[:128]])}
    expected = {f"blocks.0.{name}.weight": one for name, one in whole.items()}
    assert decoded["c"].keys() == expected.keys()
    assert all(decoded["c"][name].equal(one) for name, one in expected.items())
    sizes = {
        name: {n: t.numel() for n, t in load_file(tmp_path / f"{name}.safetensors").items()} for name in "qc"
    }
    for name, size in sizes["c"].items():
        if ".qkv." in name and size > 2:  # but for a shape
            assert size == sum(sizes["q"][name.replace("qkv", one)] for one in ("to_q", "to_k")), name


def test_what_a_file_says_of_itself_goes_along(save, tmp_path, toy_joined) -> None:
    """``scaled_fp8`` of ComfyUI's older files is no tensor of the model: no rule knew it, and all stopped."""
    path = save({"blocks.0.qkv.weight": torch.randn(64, 32)})
    quantized = tmp_path / "q.safetensors"
    tc.open(path) | tc.quantize("fp8") | tc.write(quantized, convention="comfyui_scaled")
    tc.open(quantized) | Convert("apart") | tc.write(tmp_path / "c.safetensors")
    before, after = load_file(quantized), load_file(tmp_path / "c.safetensors")
    names = [f"blocks.0.{part}.{leaf}" for part in ("to_q", "to_k") for leaf in ("weight", "scale_weight")]
    assert after.keys() == {"scaled_fp8", *names}
    assert after["scaled_fp8"].shape == before["scaled_fp8"].shape
    parts = torch.cat([after["blocks.0.to_q.weight"].float(), after["blocks.0.to_k.weight"].float()])
    assert parts.equal(before["blocks.0.qkv.weight"].float())
