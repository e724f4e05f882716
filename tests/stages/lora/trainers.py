"""LoRAs as trainers write them for tiny models of Diffusers' classes, and what they add to these."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file

import transcode as tc
from tests.stages.families_of_diffusers import TINY, Tiny
from tests.stages.more_families_of_diffusers import MORE
from tests.stages.newer_families_of_diffusers import NEWER
from transcode.stages.convert import Convert

__all__ = ["FAMILIES", "TRAINERS", "Trained", "Trainer", "model", "trained", "with_theirs"]

Tensors = dict[str, torch.Tensor]

_WAN: dict[str, Any] = {
    "patch_size": (1, 2, 2), "num_attention_heads": 2, "attention_head_dim": 12, "in_channels": 4,
    "out_channels": 4, "text_dim": 16, "freq_dim": 16, "ffn_dim": 32, "num_layers": 2,
}  # fmt: skip
_KANDINSKY: dict[str, Any] = {
    "in_visual_dim": 4, "in_text_dim": 24, "in_text_dim2": 16, "time_dim": 16, "out_visual_dim": 4,
    "patch_size": (1, 2, 2), "model_dim": 32, "ff_dim": 64, "num_text_blocks": 2, "num_visual_blocks": 2,
    "axes_dims": (4, 6, 6),
}  # fmt: skip
_HIDREAM: dict[str, Any] = {
    "patch_size": 2, "in_channels": 4, "out_channels": 4, "num_layers": 1, "num_single_layers": 1,
    "attention_head_dim": 16, "num_attention_heads": 2, "caption_channels": [24, 24], "text_emb_dim": 16,
    "num_routed_experts": 2, "num_activated_experts": 1, "axes_dims_rope": (4, 6, 6), "llama_layers": [0, 1],
}  # fmt: skip
_QWEN: dict[str, Any] = {
    "patch_size": 2, "in_channels": 16, "out_channels": 4, "num_layers": 2, "attention_head_dim": 16,
    "num_attention_heads": 2, "joint_attention_dim": 24, "axes_dims_rope": (4, 6, 6),
}  # fmt: skip
_TINY = TINY | MORE | NEWER
FAMILIES: dict[str, Tiny] = {
    "wan t2v": Tiny("wan_dit", "WanTransformer3DModel", _WAN, "convert_wan_transformer_to_diffusers",
                    original="lightx2v"),
    "wan i2v": Tiny("wan_dit", "WanTransformer3DModel", {**_WAN, "added_kv_proj_dim": 24, "image_dim": 16},
                    "convert_wan_transformer_to_diffusers", original="lightx2v"),
    "qwen-image": Tiny("qwen_image_dit", "QwenImageTransformer2DModel", _QWEN, "", original=""),
    "kandinsky 5": Tiny("kandinsky5", "Kandinsky5Transformer3DModel", _KANDINSKY, "", original=""),
    "hidream": Tiny("hidream", "HiDreamImageTransformer2DModel", _HIDREAM, "", original=""),
    **{name: _TINY[name] for name in (
        "z-image", "sdxl", "sd 1.5", "hunyuan video", "ltx video", "ltx 2", "flux dev",
        "flux2 dev", "flux2 klein", "chroma", "sd3.5 medium", "lumina 2", "krea 2",
    )},
    # Without the second time of its distilled model, which no list of names has.
    "hunyuan video 1.5": replace(
        _TINY["hunyuan video 1.5"], config={**_TINY["hunyuan video 1.5"].config, "use_meanflow": False}
    ),
}  # fmt: skip
"""One spelling alone where ``original`` is empty: authors, ComfyUI and Diffusers name the modules alike."""

_UNETS = ("sdxl", "sd 1.5")
_LEFT_OUT = {"hunyuan video 1.5": r"timestep_embedder_r|time_r_in|byt5_in\.|context_embedder_2"}
"""Modules of the tiny model that published ones have not, so that no list names them."""


class Trainer(NamedTuple):
    """How one names what it trains.

    Attributes:
        original: modules are called as the authors call them; else as Diffusers does.
        prefix: before them.
        flat: with underscores for dots.
        up, down: endings.
        alpha: is a tensor of its own.
    """

    original: bool
    prefix: str
    flat: bool
    up: str
    down: str
    alpha: bool

    def spell(self, module: str) -> str:
        return self.prefix + (module.replace(".", "_") if self.flat else module)


_KOHYA, _AB = (".lora_up.weight", ".lora_down.weight"), (".lora_B.weight", ".lora_A.weight")
TRAINERS: dict[str, Callable[[str], Trainer]] = {
    # comfy/lora.py: the general form of any model
    "comfyui": lambda family: Trainer(True, "diffusion_model.", False, *_KOHYA, True),
    # sd-scripts, musubi-tuner networks/lora.py; SD 1.5's modules are Diffusers'
    "kohya": lambda family: Trainer(family != "sd 1.5", "lora_unet_", True, *_KOHYA, True),
    # diffusers/loaders/lora_base.py
    "diffusers": lambda family: Trainer(
        False, "unet." if family in _UNETS else "transformer.", False, *_AB, False
    ),
    # peft/utils/save_and_load.py
    "peft": lambda family: Trainer(False, "base_model.model.", False, *_AB, False),
    # ai-toolkit: convert_lora_weights_before_save of its models
    "ai-toolkit": lambda family: Trainer(True, "diffusion_model.", False, *_AB, False),
    # SimpleTuner with LyCORIS; musubi-tuner's Z-Image is called so behind its own prefix
    "lycoris": lambda family: Trainer(False, "lycoris_", True, *_KOHYA, True),
    # DiffSynth-Studio diffsynth/models/lora.py
    "diffsynth": lambda family: Trainer(
        True, "", False, ".lora_B.default.weight", ".lora_A.default.weight", False
    ),
    # LightX2V tools/extract
    "lightx2v": lambda family: Trainer(True, "diffusion_model.", False, *_KOHYA, False),
    # OneTrainer modules/util/convert: Diffusers' modules, of UNets the authors'
    "onetrainer": lambda family: Trainer(
        family in _UNETS, "lora_unet_" if family in _UNETS else "lora_transformer_", True, *_KOHYA, True
    ),
}


class Trained(NamedTuple):
    """A LoRA.

    Attributes:
        file: it.
        keys: what is in it.
        wanted: the model in the trainer's spelling, with it, in float64.
        original: whether that is the authors' spelling.
    """

    file: Path
    keys: Tensors
    wanted: Tensors
    original: bool


def model(family: str, folder: Path) -> tuple[Path, Path]:
    """The files of a tiny model, as its authors and as Diffusers spell it: F32, of SDXL some blocks."""
    tiny = FAMILIES[family]
    original, diffusers = folder / f"{family}.original.safetensors", folder / f"{family}.safetensors"
    if not original.exists():
        state = {name: tensor.float().contiguous() for name, tensor in tiny.model().state_dict().items()}
        if family == "sdxl":
            state = {
                n: t for n, t in state.items() if not re.search(r"transformer_blocks\.[0-8]|up_blocks\.1", n)
            }
        save_file(state, diffusers)
        flow = tc.open(diffusers)
        (flow | Convert(tiny.original) if tiny.original else flow) | tc.write(original)
    return original, diffusers


def with_theirs(family: str, original: Tensors, folder: Path) -> Tensors:
    """What Diffusers' own function makes of the authors' spelling; where it has none, our conversion."""
    tiny = FAMILIES[family]
    if not tiny.original:
        return original
    if not tiny.recorded and family != "sdxl":  # its function wants all blocks
        return tiny.theirs({name: tensor.float() for name, tensor in original.items()})
    save_file(
        {name: tensor.float().contiguous() for name, tensor in original.items()}, folder / "a.safetensors"
    )
    tc.open(folder / "a.safetensors") | Convert("diffusers") | tc.write(folder / "b.safetensors", force=True)
    return load_file(folder / "b.safetensors")


def trained(family: str, trainer: str, models: Path, folder: Path) -> Trained:
    """A LoRA of rank 4 for every matrix of a model, as a trainer writes it."""
    how = TRAINERS[trainer](family)
    state = load_file(model(family, models)[0 if how.original else 1])
    random, keys, wanted = torch.Generator().manual_seed(5), {}, {}
    for name, tensor in sorted(state.items()):
        wanted[name] = tensor.double()
        module, _, leaf = name.rpartition(".")
        skipped = re.search(_LEFT_OUT[family], name) if family in _LEFT_OUT else None
        if leaf != "weight" or tensor.ndim != 2 or skipped:
            continue
        up = torch.randn(tensor.shape[0], 4, generator=random) * 0.1
        down = torch.randn(4, tensor.shape[1], generator=random) * 0.1
        keys[f"{how.spell(module)}{how.up}"], keys[f"{how.spell(module)}{how.down}"] = up, down
        if how.alpha:
            keys[f"{how.spell(module)}.alpha"] = torch.tensor(2.0)
        wanted[name] = tensor.double() + (0.5 if how.alpha else 1) * (up.double() @ down.double())
    save_file(keys, folder / f"{trainer}.safetensors")
    return Trained(folder / f"{trainer}.safetensors", keys, wanted, how.original)
