"""A model with names of two spellings is no model that is converted already."""

import json
import re
from pathlib import Path

import pytest
import torch

import transcode as tc
from transcode import catalog
from transcode.errors import TranscodeError
from transcode.stages.convert import Convert
from transcode.stages.mixed import of_others


def test_names_of_two_spellings_in_one_file_are_refused(save, wan, tmp_path) -> None:
    """Diffusers' last layer beside a whole original was taken for a model that is Diffusers' already."""
    shapes = {tensor.name: tensor.spec.shape for tensor in tc.open(wan)}
    other = {"blocks.0.attn1.to_q.bias": torch.zeros(shapes["blocks.0.self_attn.q.bias"])}
    source = save({name: torch.zeros(shape) for name, shape in shapes.items()} | other)
    told = r"spelled as lightx2v, but 'blocks\.0\.attn1\.to_q\.bias' as diffusers; drop or rename"
    with pytest.raises(TranscodeError, match=told):
        (tc.open(source) | Convert("lightx2v")).plan(tc.write(tmp_path / "o.safetensors"))
    allowed = tc.write(tmp_path / "o.safetensors", allow_unmatched=True)
    plan = (tc.open(source) | Convert("lightx2v")).plan(allowed)
    assert any("as diffusers" in str(one) for one in plan.log.warnings)


def test_no_name_of_a_published_model_is_taken_for_another_spelling() -> None:
    """Of a first and last block; else models that are spelled as asked would be refused."""
    for path in sorted((Path(__file__).parents[2] / "fixtures" / "families").glob("*.json")):
        held = json.loads(path.read_text())
        if "spelling" in held:
            family = catalog.family(held["family"]).spelled(held["spelling"])
            names = [
                re.sub(r"\{(\d+)\.\.(\d+)\}", end, name) for name in held["tensors"] for end in (r"\1", r"\2")
            ]
            assert of_others(names, family) == {}, path.name


def test_nor_is_one_of_several_models(save, wan, tmp_path) -> None:
    """What is spelled as asked was not looked at where a file holds other models, too."""
    shapes = {f"model.diffusion_model.{one.name}": one.spec.shape for one in tc.open(wan)}
    stray = "model.diffusion_model.blocks.0.attn1.to_q.bias"
    whole = {name: torch.zeros(shape) for name, shape in shapes.items()} | {"vae.a": torch.zeros(2)}
    flow = tc.open(save(whole)) | Convert("original")
    assert any("already" in str(one) for one in flow.plan(tc.write(tmp_path / "o.safetensors")).log.warnings)
    flow = tc.open(save(whole | {stray: torch.zeros(2)})) | Convert("original")
    with pytest.raises(TranscodeError, match=re.escape(f"spelled as lightx2v, but {stray!r} as diffusers")):
        flow.plan(tc.write(tmp_path / "o.safetensors"))
