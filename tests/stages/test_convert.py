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
