"""Tiny models that diffusers converts by scripts alone, which it does not install, as
:mod:`.families_of_diffusers`: the scripts were run once, on the files whose digests are recorded."""

from __future__ import annotations

from typing import Any

import torch

from .families_of_diffusers import Tiny


def _image(**more: Any) -> dict[str, Any]:
    torch.manual_seed(1)
    return {
        "hidden_states": torch.randn(1, 4, 4, 4), "encoder_hidden_states": torch.randn(1, 5, 24),
        "timestep": torch.tensor([5.0]), **more,
    }  # fmt: skip


def _video() -> dict[str, Any]:
    return _image() | {"hidden_states": torch.randn(1, 4, 2, 4, 4)}


_SANA: dict[str, Any] = {
    "in_channels": 4, "out_channels": 4, "num_attention_heads": 2, "attention_head_dim": 32, "num_layers": 2,
    "num_cross_attention_heads": 2, "cross_attention_head_dim": 32, "cross_attention_dim": 64,
    "caption_channels": 24, "sample_size": 4,
}  # fmt: skip
_PIXART: dict[str, Any] = {
    "in_channels": 4, "out_channels": 8, "num_attention_heads": 2, "attention_head_dim": 32, "num_layers": 2,
    "cross_attention_dim": 64, "caption_channels": 24, "sample_size": 8,
}  # fmt: skip
_NORMED = _SANA | {"qk_norm": "rms_norm_across_heads"}

SCRIPTED = {
    "sana 1.5": Tiny(
        "sana", "SanaTransformer2DModel", _NORMED, "scripts/convert_sana_to_diffusers.py", _image,
        recorded="ac109470e0cb9016",
    ),
    "sana sprint": Tiny(
        "sana_sprint", "SanaTransformer2DModel", _NORMED | {"guidance_embeds": True},
        "scripts/convert_sana_to_diffusers.py", lambda: _image(guidance=torch.tensor([4.5])),
        recorded="249ad5d6fa97420c",
    ),
    "sana video": Tiny(
        "sana_video", "SanaVideoTransformer3DModel", _SANA, "scripts/convert_sana_video_to_diffusers.py",
        _video, recorded="7ca8f88acf12b548",
    ),
    "sana controlnet": Tiny(
        "sana_controlnet", "SanaControlNetModel", _SANA, "scripts/convert_sana_controlnet_to_diffusers.py",
        lambda: _image() | {"controlnet_cond": torch.randn(1, 4, 4, 4)},
        recorded="86c0b6061602157d",
    ),
    "pixart sigma": Tiny(
        "pixart", "PixArtTransformer2DModel", _PIXART | {"use_additional_conditions": False},
        "scripts/convert_pixart_sigma_to_diffusers.py", _image, recorded="bb45678d0ac1a3ab",
    ),
    "pixart alpha": Tiny(
        "pixart", "PixArtTransformer2DModel",
        _PIXART | {"use_additional_conditions": True, "num_attention_heads": 3, "cross_attention_dim": 96},
        "scripts/convert_pixart_alpha_to_diffusers.py",
        lambda: _image(added_cond_kwargs={"resolution": torch.ones(1, 2), "aspect_ratio": torch.ones(1, 1)}),
        recorded="a44d522840036317",
    ),
}  # fmt: skip
