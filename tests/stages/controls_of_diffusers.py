"""Tiny ControlNets and motion modules of diffusers' own classes, as :mod:`.families_of_diffusers`."""

from __future__ import annotations

from typing import Any

import torch

from .families_of_diffusers import Tiny


def _sdxl() -> dict[str, Any]:
    torch.manual_seed(1)
    return {
        "sample": torch.randn(1, 4, 16, 16), "timestep": torch.tensor(5),
        "encoder_hidden_states": torch.randn(1, 5, 24), "controlnet_cond": torch.randn(1, 3, 128, 128),
        "added_cond_kwargs": {"text_embeds": torch.randn(1, 8), "time_ids": torch.ones(1, 6)},
    }  # fmt: skip


def _sparse() -> dict[str, Any]:
    torch.manual_seed(1)
    return {
        "sample": torch.randn(1, 4, 2, 16, 16), "timestep": torch.tensor(5),
        "encoder_hidden_states": torch.randn(2, 5, 24), "controlnet_cond": torch.randn(1, 4, 2, 16, 16),
        "conditioning_mask": torch.ones(1, 1, 2, 16, 16),
    }  # fmt: skip


def _flux() -> dict[str, Any]:
    torch.manual_seed(1)
    return {
        "hidden_states": torch.randn(1, 6, 16), "controlnet_cond": torch.randn(1, 6, 16),
        "controlnet_mode": torch.tensor([[1]]), "encoder_hidden_states": torch.randn(1, 4, 24),
        "pooled_projections": torch.randn(1, 20), "timestep": torch.tensor([0.5]),
        "img_ids": torch.zeros(6, 3), "txt_ids": torch.zeros(4, 3), "guidance": torch.tensor([3.5]),
    }  # fmt: skip


def _sd35() -> dict[str, Any]:
    torch.manual_seed(1)
    return {
        "hidden_states": torch.randn(1, 16, 64), "controlnet_cond": torch.randn(1, 4, 8, 8),
        "pooled_projections": torch.randn(1, 20), "timestep": torch.tensor([5]),
    }  # fmt: skip


def _moved(adapter: torch.nn.Module) -> torch.nn.Module:
    """A UNet of frames that these modules move, equal each time."""
    import diffusers

    torch.manual_seed(2)
    unet = diffusers.UNet2DConditionModel(
        sample_size=8, block_out_channels=(32, 64), layers_per_block=1, cross_attention_dim=24,
        attention_head_dim=2, norm_num_groups=8, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )  # fmt: skip
    return diffusers.UNetMotionModel.from_unet2d(unet, adapter)


def _frames() -> dict[str, Any]:
    torch.manual_seed(1)
    return {
        "sample": torch.randn(1, 4, 2, 8, 8), "timestep": torch.tensor(5),
        "encoder_hidden_states": torch.randn(2, 5, 24),
    }  # fmt: skip


CONTROLS = {
    "motion adapter": Tiny(
        "motion_adapter", "MotionAdapter",
        {"block_out_channels": (32, 64), "motion_layers_per_block": 1, "motion_mid_block_layers_per_block": 1,
         "motion_num_attention_heads": 2, "motion_norm_num_groups": 8, "motion_max_seq_length": 8},
        "convert_animatediff_checkpoint_to_diffusers", _frames, beyond=r"pos_embed\.pe$", within=_moved,
    ),
    "sparse controlnet": Tiny(
        "motion_adapter", "SparseControlNetModel",
        {"block_out_channels": (32, 32, 64, 64), "layers_per_block": 1, "cross_attention_dim": 24,
         "attention_head_dim": 2, "motion_max_seq_length": 8, "motion_num_attention_heads": 2},
        "convert_animatediff_checkpoint_to_diffusers", _sparse, beyond=r"pos_embed\.pe$",
    ),
    "sdxl controlnet": Tiny(
        "sdxl_controlnet", "ControlNetModel",
        {"block_out_channels": (32, 32, 64), "cross_attention_dim": 24, "attention_head_dim": (1, 2, 2),
         "layers_per_block": 2, "conditioning_embedding_out_channels": (4, 4, 8, 8),
         "transformer_layers_per_block": (1, 1, 2), "use_linear_projection": True,
         "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
         "addition_embed_type": "text_time", "addition_time_embed_dim": 4,
         "projection_class_embeddings_input_dim": 32},
        "convert_controlnet_checkpoint", _sdxl, beyond=r"add_embedding\.",
    ),
    "flux controlnet": Tiny(
        "flux_controlnet", "FluxControlNetModel",
        {"patch_size": 1, "in_channels": 16, "num_layers": 1, "num_single_layers": 2,
         "attention_head_dim": 32, "num_attention_heads": 2, "joint_attention_dim": 24,
         "pooled_projection_dim": 20, "axes_dims_rope": (8, 12, 12), "guidance_embeds": True, "num_mode": 3},
        "convert_flux_transformer_checkpoint_to_diffusers", _flux, beyond=r"controlnet_",
        constants={"inner_dim = 3072": "inner_dim = 64"},
        besides={"final_layer.linear.weight": (16, 64), "final_layer.linear.bias": (16,),
                 "final_layer.adaLN_modulation.1.weight": (128, 64),
                 "final_layer.adaLN_modulation.1.bias": (128,)},
    ),
    "sd3.5 controlnet": Tiny(
        "sd35_controlnet", "SD3ControlNetModel",
        {"sample_size": 8, "in_channels": 4, "num_layers": 2, "attention_head_dim": 32,
         "num_attention_heads": 2, "joint_attention_dim": None, "caption_projection_dim": 64,
         "pooled_projection_dim": 20, "out_channels": 4, "pos_embed_max_size": None, "pos_embed_type": None,
         "use_pos_embed": False, "force_zeros_for_pooled_projection": False},
        "scripts/convert_sd3_controlnet_to_diffusers.py", _sd35, recorded="8231bf0d12066d54",
    ),
}  # fmt: skip
