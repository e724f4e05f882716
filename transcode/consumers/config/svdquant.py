"""The metadata that makes an SVDQuant checkpoint one loadable file: derived from its tensors and config.json.

Keys and structure are those of nunchaku's own merge tool and of the DeepCompressor fork that embeds
``config.json``; what ComfyUI's loader reads from ``comfy_config`` is the configuration of its Flux model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ...catalog.profiles import Profile
from ...core.spec import Spec
from ...errors import PlanError
from ...voice import called

__all__ = ["comfy_config", "config_metadata", "model_class", "quantization_config"]

FIELDS = (
    "model_type", "architectures", "hidden_size", "num_hidden_layers", "num_attention_heads",
    "intermediate_size", "max_position_embeddings", "torch_dtype", "transformers_version",
    "num_key_value_heads", "rope_theta", "attention_dropout", "hidden_act",
)  # fmt: skip
"""Fields of config.json that become metadata keys of their own."""

SOURCE = {"metadata_source": "config.json", "enhanced_by": "deepcompressor_nunchaku_convert_enhanced"}
"""Markers that readers of such files look for."""

_QUANTIZED = ".qweight"
_RANKS = (".lora_down", ".proj_down")
_DEFAULT_RANK = 32


def quantization_config(tensors: Mapping[str, Spec], model: str = "") -> dict[str, Any] | None:
    """nunchaku's ``quantization_config`` for these tensors; None when none of them is quantized that way.

    FP4 checkpoints store 1-byte float scales, one for 16 weights; INT4 ones 16-bit scales, one for 64.

    Args:
        tensors: all of the checkpoint.
        model: nunchaku's class for the model.
    """
    if not any(name.endswith(_QUANTIZED) for name in tensors):
        return None
    fp4 = any(spec.dtype.name.startswith("F8_") for spec in tensors.values())
    kind, group = ("fp4_e2m1_all", 16) if fp4 else ("int4", 64)
    config: dict[str, object] = {
        "method": "svdquant",
        "weight": {
            "dtype": kind,
            "scale_dtype": [None, "fp8_e4m3_nan"] if fp4 else None,
            "group_size": group,
        },
        "activation": {"dtype": kind, "scale_dtype": "fp8_e4m3_nan" if fp4 else None, "group_size": group},
        "rank": rank(tensors),
    }
    if "ZImage" in model:
        config["skip_refiners"] = not any(
            "refiner" in name and "attention.to_qkv" in name for name in tensors
        )
    return config


def rank(tensors: Mapping[str, Spec]) -> int:
    """Rank of the low-rank branch: the columns of the first down projection, stored ``[K, R]``."""
    for name, spec in tensors.items():
        if any(part in name for part in _RANKS) and len(spec.shape) == 2:
            return spec.shape[1]
    return _DEFAULT_RANK


def model_class(config: Mapping[str, object], profile: Profile) -> str:
    """nunchaku's class for the model that ``config.json`` describes.

    Raises:
        PlanError: nunchaku has none.
    """
    named = config.get("_class_name")
    if isinstance(named, str) and named in profile.model_classes:
        return profile.model_classes[named]
    if named is not None or profile.default_class is None:
        raise PlanError(
            f"nunchaku has no class for the model class {named!r} of config.json",
            hint=f"name one with {called('model_class')}",
        )
    return profile.default_class


def comfy_config(config: Mapping[str, Any]) -> dict[str, object]:
    """What ComfyUI's nunchaku node builds its Flux model from; empty for other models, which it detects.

    ComfyUI counts latent channels before the 2 x 2 patches are folded, Diffusers after.
    """
    if config.get("_class_name") != "FluxTransformer2DModel":
        return {}
    heads = int(config.get("num_attention_heads", 24))
    guidance = bool(config.get("guidance_embeds", False))
    channels = int(config.get("in_channels", 64))
    return {
        "model_class": "Flux" if guidance else "FluxSchnell",
        "model_config": {
            "image_model": "flux",
            "patch_size": 2,
            "in_channels": channels // 4,
            "out_channels": int(config.get("out_channels") or channels) // 4,
            "vec_in_dim": int(config.get("pooled_projection_dim", 768)),
            "context_in_dim": int(config.get("joint_attention_dim", 4096)),
            "hidden_size": heads * int(config.get("attention_head_dim", 128)),
            "mlp_ratio": 4.0,
            "num_heads": heads,
            "depth": int(config.get("num_layers", 19)),
            "depth_single_blocks": int(config.get("num_single_layers", 38)),
            "axes_dim": list(config.get("axes_dims_rope", (16, 56, 56))),
            "theta": 10000,
            "qkv_bias": True,
            "guidance_embed": guidance,
            "disable_unet_model_creation": True,
        },
    }


def config_metadata(
    config: Mapping[str, object],
    tensors: Mapping[str, Spec],
    model: str,
    comfy: Mapping[str, object] | None = None,
) -> dict[str, Any]:
    """All keys to embed, with values yet to be turned into strings.

    Args:
        config: the content of config.json.
        tensors: all of the checkpoint.
        model: nunchaku's class for the model.
        comfy: the content of comfy_config.json, where there is one.
    """
    embedded: dict[str, object] = {field: config[field] for field in FIELDS if field in config}
    whole = _compact(config)
    embedded["full_config"] = whole
    embedded |= SOURCE
    embedded["config"] = whole
    embedded["model_class"] = model
    quantized = quantization_config(tensors, model)
    if quantized is not None:
        embedded["quantization_config"] = _compact(quantized)
    derived = comfy_config(config) if comfy is None else comfy
    # An empty one is read as that of a Flux model, and fails; without any, the model is detected.
    if derived or comfy is not None:
        embedded["comfy_config"] = _compact(derived)
    return embedded


def _compact(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))
