"""Of a file of several models each is converted by its own rules, below its own prefix."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import transcode as tc
from transcode.consumers.components import SPELLINGS
from transcode.errors import PlanError
from transcode.stages.convert import Convert

G = "conditioner.embedders.1.model."


def clip(width: int = 4) -> dict[str, Any]:
    """CLIP's text encoder of one layer, as OpenCLIP spells it, and what it has besides."""
    block = f"{G}transformer.resblocks.0"
    shapes = {
        f"{G}token_embedding.weight": (8, width), f"{G}positional_embedding": (7, width),
        f"{G}logit_scale": (),
        f"{G}ln_final.weight": (width,), f"{G}text_projection": (width, 2), f"{block}.ln_1.weight": (width,),
        f"{block}.attn.in_proj_weight": (3 * width, width), f"{block}.attn.in_proj_bias": (3 * width,),
        f"{block}.attn.out_proj.weight": (width, width), f"{block}.mlp.c_fc.weight": (8, width),
    }  # fmt: skip
    return {n: np.arange(np.prod(s), dtype=np.float32).reshape(s) for n, s in shapes.items()}


def plan(tensors: dict[str, Any], tmp_path: Path, to: str, metadata: dict[str, str] | None = None) -> tc.Plan:
    save_file(tensors, tmp_path / "all.safetensors", metadata or {})
    return (tc.open(tmp_path / "all.safetensors") | Convert(to)).plan(tc.write(tmp_path / "x.safetensors"))


def test_names_keep_their_prefix_and_what_no_rule_is_for_stays(tmp_path: Path) -> None:
    more = {"model.diffusion_model.a.weight": np.ones(2, np.float32), "betas": np.ones(2, np.float32)}
    made = plan(clip() | more, tmp_path, "diffusers")
    shapes = {tensor.name: tensor.spec.shape for tensor in made.tensors}
    layer = f"{G}text_model.encoder.layers.0"
    assert shapes == {
        f"{G}text_model.embeddings.token_embedding.weight": (8, 4),
        f"{G}text_model.embeddings.position_embedding.weight": (7, 4),
        f"{G}text_model.final_layer_norm.weight": (4,), f"{G}text_projection.weight": (2, 4),
        f"{layer}.layer_norm1.weight": (4,), f"{layer}.mlp.fc1.weight": (8, 4),
        **{f"{layer}.self_attn.{one}_proj.weight": (4, 4) for one in ("q", "k", "v", "out")},
        **{f"{layer}.self_attn.{one}_proj.bias": (4,) for one in "qkv"},
        f"{G}logit_scale": (), **dict.fromkeys(more, (2,)),
    }  # fmt: skip
    metadata = json.loads(made.files[0].header[8:])["__metadata__"]
    assert json.loads(metadata[SPELLINGS]) == {G: "openclip"}
    assert not made.log.warnings


def test_nothing_to_convert(tmp_path: Path) -> None:
    more = {"model.diffusion_model.a.weight": np.ones(2, np.float32), "vae.b": np.ones(2, np.float32)}
    with pytest.raises(PlanError, match="no model of this file has such a spelling"):
        plan(more, tmp_path, "diffusers")
    made = plan(clip() | more, tmp_path, "openclip")
    assert any("spelled as openclip already" in str(one) for one in made.log.warnings)


def test_a_name_that_no_rule_knows_is_refused(tmp_path: Path) -> None:
    more = {
        f"{G}transformer.resblocks.0.ls_1.weight": np.ones(2, np.float32),
        "vae.b": np.ones(2, np.float32),
    }
    with pytest.raises(PlanError, match=r"no rule of clip knows .*ls_1\.weight"):
        plan(clip() | more, tmp_path, "diffusers")


def test_original_is_what_the_metadata_say(tmp_path: Path) -> None:
    more = {"vae.b": np.ones(2, np.float32)}
    tc.open(_saved(clip() | more, tmp_path)) | Convert("diffusers") | tc.write(tmp_path / "there.safetensors")
    tc.open(tmp_path / "there.safetensors") | Convert("original") | tc.write(tmp_path / "back.safetensors")
    first, back = (load_file(tmp_path / f"{name}.safetensors") for name in ("first", "back"))
    assert first.keys() == back.keys()
    for name, one in first.items():
        np.testing.assert_array_equal(back[name], one)
    assert SPELLINGS not in tc.open(tmp_path / "back.safetensors").source.metadata


def _saved(tensors: dict[str, Any], tmp_path: Path) -> Path:
    save_file(tensors, tmp_path / "first.safetensors")
    return tmp_path / "first.safetensors"
