"""LoRAs as trainers name them, converted for Diffusers: the products are those of Diffusers' own functions.

kohya's names of SD1 (those of Diffusers, with underscores) and of SDXL (those of its authors), musubi's of Wan,
ai-toolkit's of Wan and Qwen-Image.
"""

# ruff: noqa: E501  tables of models read better in long lines

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import transcode as tc

diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")

A = ".lora_A.weight"
LAYERS = ("q", "k", "v", "o")
WAN = [f"{attention}.{one}" for attention in ("self_attn", "cross_attn") for one in LAYERS] + [
    "ffn.0",
    "ffn.2",
]
QWEN = ["attn.to_q", "attn.add_k_proj", "attn.to_out.0", "img_mlp.net.0.proj", "txt_mlp.net.2", "img_mod.1"]
INNER = ["attn1.to_q", "attn1.to_out.0", "attn2.to_k", "ff.net.0.proj", "ff.net.2"]
TE = "text_model.encoder.layers.3"
SD1 = [
    *(f"unet_{block}.attentions.{i}.transformer_blocks.0.{one}" for one in INNER
      for block, i in (("down_blocks.0", 0), ("down_blocks.2", 1), ("mid_block", 0), ("up_blocks.1", 2))),
    "unet_down_blocks.1.attentions.0.proj_in", f"te_{TE}.self_attn.q_proj", f"te_{TE}.mlp.fc1",
]  # fmt: skip
SDXL = [
    *(f"unet_{block}.transformer_blocks.1.{one}" for one in INNER
      for block in ("input_blocks.4.1", "input_blocks.8.1", "middle_block.1", "output_blocks.2.1", "output_blocks.5.1")),
    "unet_input_blocks.7.1.proj_in", f"te1_{TE}.self_attn.out_proj", f"te2_{TE}.mlp.fc2",
]  # fmt: skip


def kohya(modules: Iterable[str]) -> dict[str, Any]:
    """Pairs and alphas, each of its own, whose quotients are powers of two."""
    tensors: dict[str, Any] = {}
    random = np.random.default_rng(5)
    for number, module in enumerate(modules):
        name = f"lora_{module}".replace(".", "_")
        tensors[f"{name}.lora_down.weight"] = random.standard_normal((4, 6)).astype(np.float32)
        tensors[f"{name}.lora_up.weight"] = random.standard_normal((8, 4)).astype(np.float32)
        tensors[f"{name}.alpha"] = np.asarray(np.float32(2.0 ** (number % 2)))
    return tensors


def toolkit(modules: Iterable[str]) -> dict[str, Any]:
    """As PEFT names them, without alphas: alpha is the rank."""
    tensors: dict[str, Any] = {}
    random = np.random.default_rng(6)
    for module in modules:
        tensors[f"diffusion_model.{module}.lora_A.weight"] = random.standard_normal((4, 6)).astype(np.float32)
        tensors[f"diffusion_model.{module}.lora_B.weight"] = random.standard_normal((8, 4)).astype(np.float32)
    return tensors


def unet_config() -> Any:
    """SDXL's: names of its authors' blocks are counted by it."""
    with torch.device("meta"):
        return diffusers.UNet2DConditionModel(
            block_out_channels=(32, 64, 64), cross_attention_dim=32, transformer_layers_per_block=(1, 2, 2),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        ).config  # fmt: skip


CASES = {
    "SD1, kohya": (kohya(SD1), "StableDiffusionLoraLoaderMixin", "sd1"),
    "SDXL, kohya": (kohya(SDXL), "StableDiffusionXLLoraLoaderMixin", "sdxl"),
    "Wan, musubi": (kohya(f"unet_blocks.{i}.{one}" for i in range(2) for one in WAN), "WanLoraLoaderMixin", None),
    "Wan, ai-toolkit": (toolkit(f"blocks.{i}.{one}" for i in range(2) for one in WAN), "WanLoraLoaderMixin", None),
    "Qwen-Image, ai-toolkit": (
        toolkit(f"transformer_blocks.{i}.{one}" for i in range(2) for one in QWEN), "QwenImageLoraLoaderMixin", None,
    ),
}  # fmt: skip


def of_today(name: str) -> str:
    """Names of Diffusers' attention processors, which its loader makes those of PEFT."""
    name = (
        name.replace(".processor", "").replace(".to_out_lora.", ".to_out.0.lora.").replace("_lora.", ".lora.")
    )
    if name.startswith("text_encoder"):
        name = re.sub(r"\.to_([qkv])\.", r".\1_proj.", name).replace(".to_out.0.", ".out_proj.")
    name = name.replace(".lora_linear_layer.", ".lora.")
    return name.replace(".lora.down.", ".lora_A.").replace(".lora.up.", ".lora_B.")


def products(state: dict[str, Any], alpha_of: Callable[[str, int], float]) -> dict[str, Any]:
    """What is added to each module; ``alpha_of`` a module and its rank."""
    found = {}
    for name, down in state.items():
        if name.endswith(A):
            module, rank = name.removesuffix(A), down.shape[0]
            up = np.asarray(state[f"{module}.lora_B.weight"], np.float64)
            found[module] = up @ np.asarray(down, np.float64) * (alpha_of(module, rank) / rank)
    return found


def stated(metadata: dict[str, Any], module: str) -> float:
    """The alpha of a module by ``lora_adapter_metadata`` of a file."""
    model, _, inner = module.partition(".")
    pattern = metadata[f"{model}.alpha_pattern"]
    fitting = [pattern[key] for key in pattern if inner == key or inner.endswith(f".{key}")]
    return float(fitting[0] if fitting else metadata[f"{model}.lora_alpha"])


@pytest.mark.parametrize("case", CASES)
def test_products_are_those_of_diffusers(case: str, tmp_path: Path) -> None:
    tensors, mixin, model = CASES[case]
    save_file(tensors, tmp_path / "first.safetensors")
    (
        tc.open(tmp_path / "first.safetensors")
        | tc.convert("diffusers", model=model)
        | tc.write(tmp_path / "there.safetensors")
    )
    ours = load_file(tmp_path / "there.safetensors")
    with safe_open(tmp_path / "there.safetensors", "np") as file:
        said = json.loads(file.metadata()["lora_adapter_metadata"])
    read = getattr(diffusers.loaders.lora_pipeline, mixin).lora_state_dict
    more = {"unet_config": unet_config()} if model == "sdxl" else {}
    theirs = read({name: torch.from_numpy(one) for name, one in tensors.items()}, **more)
    state, alphas = theirs if isinstance(theirs, tuple) else (theirs, {})
    state = {of_today(name): one.numpy() for name, one in state.items()}
    alphas = {of_today(name).removesuffix(".alpha"): one for name, one in (alphas or {}).items()}
    expected = products(state, lambda module, rank: alphas.get(f"{module}{A}", alphas.get(module, rank)))
    found = products(ours, lambda module, rank: stated(said, module))
    assert found.keys() == expected.keys()
    assert len(found) == len([name for name in tensors if "lora_down" in name or "lora_A" in name])
    for name, one in expected.items():
        np.testing.assert_allclose(found[name], one, rtol=1e-6)


@pytest.mark.parametrize("case", [case for case in CASES if "ai-toolkit" not in case])
def test_they_come_back_as_the_trainer_names_them(case: str, tmp_path: Path) -> None:
    tensors, _, model = CASES[case]
    save_file(tensors, tmp_path / "first.safetensors")
    (
        tc.open(tmp_path / "first.safetensors")
        | tc.convert("diffusers", model=model)
        | tc.write(tmp_path / "there.safetensors")
    )
    (
        tc.open(tmp_path / "there.safetensors")
        | tc.convert("kohya", model=model)
        | tc.write(tmp_path / "back.safetensors")
    )
    back = load_file(tmp_path / "back.safetensors")
    assert back.keys() == tensors.keys()
    for name, one in tensors.items():
        np.testing.assert_array_equal(back[name], one)
