"""Tiny pipelines of diffusers' own classes, each with all its models in one file."""

# ruff: noqa: E501  tables of models read better in long lines

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from safetensors.torch import load_file, save_file

import transcode as tc
from transcode.catalog.pipelines import pipelines
from transcode.stages.convert import Convert

_UNET = {
    "block_out_channels": (32, 32, 64, 64),
    "cross_attention_dim": 24,
    "attention_head_dim": 8,
    "layers_per_block": 2,
}
_SDXL_UNET = {
    "block_out_channels": (64, 64, 64), "cross_attention_dim": 24, "attention_head_dim": (1, 1, 1),
    "layers_per_block": 2, "use_linear_projection": True, "transformer_layers_per_block": (1, 2, 10),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "addition_embed_type": "text_time", "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 1600,
}  # fmt: skip
_SD3 = {
    "patch_size": 2, "in_channels": 4, "out_channels": 4, "num_layers": 3, "attention_head_dim": 16,
    "num_attention_heads": 2, "joint_attention_dim": 24, "caption_projection_dim": 32, "pooled_projection_dim": 20,
    "pos_embed_max_size": 8, "dual_attention_layers": (0, 2), "qk_norm": "rms_norm",
}  # fmt: skip
_FLUX = {
    "in_channels": 16, "num_layers": 1, "num_single_layers": 1, "attention_head_dim": 128, "num_attention_heads": 1,
    "joint_attention_dim": 24, "pooled_projection_dim": 64, "guidance_embeds": True,
}  # fmt: skip


def _vae(**more: Any) -> Any:
    return diffusers.AutoencoderKL(
        block_out_channels=(32, 32, 32, 64), layers_per_block=1, down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4, **more,
    )  # fmt: skip


def _clip(*, projection: bool = False) -> Any:
    config = transformers.CLIPTextConfig(
        hidden_size=64, intermediate_size=24, num_hidden_layers=1, num_attention_heads=1, vocab_size=64,
        projection_dim=64, bos_token_id=0, eos_token_id=2, hidden_act="gelu",
    )  # fmt: skip
    return (transformers.CLIPTextModelWithProjection if projection else transformers.CLIPTextModel)(config)


def _t5() -> Any:
    return transformers.T5EncoderModel(
        transformers.T5Config(d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=3, vocab_size=64,
                              feed_forward_proj="gated-gelu", tie_word_embeddings=False,
                              decoder_start_token_id=0)
    )  # fmt: skip


_BARE = {"latent_channels": 4, "use_quant_conv": False, "use_post_quant_conv": False}

PIPELINES = {
    "StableDiffusionPipeline": lambda: {
        "unet": diffusers.UNet2DConditionModel(**_UNET), "vae": _vae(), "text_encoder": _clip(),
    },
    "StableDiffusionXLPipeline": lambda: {
        "unet": diffusers.UNet2DConditionModel(**_SDXL_UNET), "vae": _vae(), "text_encoder": _clip(),
        "text_encoder_2": _clip(projection=True),
    },
    "StableDiffusion3Pipeline": lambda: {
        "transformer": diffusers.SD3Transformer2DModel(**_SD3), "vae": _vae(**_BARE),
        "text_encoder": _clip(projection=True), "text_encoder_2": _clip(projection=True), "text_encoder_3": _t5(),
    },
    "FluxPipeline": lambda: {
        "transformer": diffusers.FluxTransformer2DModel(**_FLUX), "vae": _vae(**_BARE), "text_encoder": _clip(),
        "text_encoder_2": _t5(),
    },
}  # fmt: skip

BESIDE = {name: {f"text_encoders.{encoder}.logit_scale": torch.tensor(4.6) for encoder in ("clip_l", "t5xxl")}
          for name in ("StableDiffusion3Pipeline", "FluxPipeline")}  # fmt: skip
"""What ComfyUI saves beside text encoders."""

EXPECTED: dict[str, dict[str, dict[str, Any]]] = {
    "StableDiffusionPipeline": {"unet": {"sample_size": 64}, "vae": {"scaling_factor": 0.18215}},
    "StableDiffusionXLPipeline": {"unet": {"sample_size": 128}, "vae": {"scaling_factor": 0.13025}},
    "StableDiffusion3Pipeline": {"vae": {"scaling_factor": 1.5305, "shift_factor": 0.0609}},
    "FluxPipeline": {"vae": {"scaling_factor": 0.3611, "shift_factor": 0.1159}},
}
"""What config.json of the published pipelines says that no tensor tells."""

UNLIKE = {"sample_size", "scaling_factor", "shift_factor", "architectures", "dtype", "torch_dtype"}
"""Keys that these tiny models do not have as published ones do."""


def drawn(name: str) -> dict[str, Any]:
    """The models of a pipeline, by the folder."""
    torch.manual_seed(0)
    models = PIPELINES[name]()
    for model in models.values():
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.05)
    return models


def one_file(name: str, models: Mapping[str, Any], more: Mapping[str, torch.Tensor], folder: Path) -> Path:
    """All of them in one file in F16, as published ones have them, in the order in which transcode writes."""
    tensors = dict(more)
    usual = {
        "unet": "model.diffusion_model.",
        "transformer": "model.diffusion_model.",
        "vae": "first_stage_model.",
    }
    for place, model in models.items():
        part = pipelines()[name].parts[place]
        held = {n: t.half().contiguous() for n, t in model.state_dict().items()}
        held.pop("encoder.embed_tokens.weight", None)  # shared.weight
        if type(model).__name__ == "CLIPTextModel":
            held = {f"text_model.{n}": t for n, t in held.items()}
        spelling = part.spelling or ("original" if place in usual else "transformers")
        if spelling != "transformers":
            save_file(held, folder / "one.safetensors")
            flow = tc.open(folder / "one.safetensors") | Convert(spelling)
            flow | tc.write(folder / "two.safetensors", force=True)
            held = load_file(folder / "two.safetensors")
        tensors |= {f"{part.prefix or usual[place]}{n}": t for n, t in held.items()}
    save_file(tensors, folder / "raw.safetensors")
    tc.open(folder / "raw.safetensors") | tc.write(folder / "whole.safetensors")
    return folder / "whole.safetensors"
