"""Further tiny models of diffusers' own classes, as :mod:`.families_of_diffusers`."""

from __future__ import annotations

from typing import Any

import torch

from .families_of_diffusers import Tiny


def _flux2(guidance: bool) -> dict[str, Any]:
    torch.manual_seed(1)
    inputs = {
        "hidden_states": torch.randn(1, 6, 16),
        "encoder_hidden_states": torch.randn(1, 4, 24),
        "timestep": torch.tensor([0.5]),
        "img_ids": torch.zeros(6, 4),
        "txt_ids": torch.zeros(4, 4),
    }
    return inputs | ({"guidance": torch.tensor([3.5])} if guidance else {})


_FLUX2: dict[str, Any] = {
    "in_channels": 16, "num_layers": 2, "num_single_layers": 3, "attention_head_dim": 32,
    "num_attention_heads": 2, "joint_attention_dim": 24, "timestep_guidance_channels": 16,
    "axes_dims_rope": (8, 8, 8, 8),
}  # fmt: skip


def _chroma() -> dict[str, Any]:
    torch.manual_seed(1)
    return {
        "hidden_states": torch.randn(1, 6, 16), "encoder_hidden_states": torch.randn(1, 4, 24),
        "timestep": torch.tensor([0.5]), "img_ids": torch.zeros(6, 3), "txt_ids": torch.zeros(4, 3),
    }  # fmt: skip


def _ltx2() -> dict[str, Any]:
    torch.manual_seed(1)
    return {
        "hidden_states": torch.randn(1, 8, 4), "audio_hidden_states": torch.randn(1, 3, 6),
        "encoder_hidden_states": torch.randn(1, 5, 24), "audio_encoder_hidden_states": torch.randn(1, 5, 24),
        "timestep": torch.tensor([[5] * 8]), "audio_timestep": torch.tensor([[5] * 3]),
        "num_frames": 2, "height": 2, "width": 2, "audio_num_frames": 3,
    }  # fmt: skip


def _qwen_image_21() -> dict[str, Any]:
    torch.manual_seed(1)
    return {
        "hidden_states": torch.randn(1, 4, 8), "encoder_hidden_states": torch.randn(1, 5, 64),
        "timestep": torch.tensor([0.5]), "img_shapes": [[(1, 2, 2)]],
        "img_mask": torch.tensor([[False] * 5 + [True]]),
        "encoder_hidden_states_mask": torch.ones(1, 5, dtype=torch.bool),
    }  # fmt: skip


def _flux3() -> dict[str, Any]:
    torch.manual_seed(1)
    return {
        "hidden_states": torch.randn(1, 6, 16), "encoder_hidden_states": torch.randn(1, 4, 24),
        "timestep": torch.tensor([0.5]), "img_ids": torch.zeros(6, 4), "txt_ids": torch.zeros(4, 4),
        "image_cond_hidden_states": torch.randn(1, 3, 16), "image_cond_ids": torch.ones(3, 4),
    }  # fmt: skip


def _auraflow() -> dict[str, Any]:
    torch.manual_seed(1)
    return {
        "hidden_states": torch.randn(1, 4, 8, 8), "encoder_hidden_states": torch.randn(1, 5, 24),
        "timestep": torch.tensor([0.5]),
    }  # fmt: skip


def _sana() -> dict[str, Any]:
    torch.manual_seed(1)
    return {
        "hidden_states": torch.randn(1, 4, 4, 4), "encoder_hidden_states": torch.randn(1, 5, 24),
        "timestep": torch.tensor([5.0]),
    }  # fmt: skip


def _cosmos2() -> dict[str, Any]:
    torch.manual_seed(1)
    return {
        "hidden_states": torch.randn(1, 4, 2, 4, 4), "encoder_hidden_states": torch.randn(1, 5, 24),
        "timestep": torch.tensor([0.5]),
    }  # fmt: skip


def _unet(**more: Any) -> dict[str, Any]:
    torch.manual_seed(1)
    return {
        "sample": torch.randn(1, 4, 16, 16), "timestep": torch.tensor(5),
        "encoder_hidden_states": torch.randn(1, 5, 24), **more,
    }  # fmt: skip


def _krea2() -> dict[str, Any]:
    torch.manual_seed(1)
    return {
        "hidden_states": torch.randn(1, 6, 8), "encoder_hidden_states": torch.randn(1, 4, 3, 32),
        "timestep": torch.tensor([0.5]), "position_ids": torch.zeros(10, 3),
    }  # fmt: skip


def _animate() -> dict[str, Any]:
    torch.manual_seed(1)
    return {
        "hidden_states": torch.randn(1, 12, 2, 4, 4), "timestep": torch.tensor([5]),
        "encoder_hidden_states": torch.randn(1, 5, 24), "encoder_hidden_states_image": torch.randn(1, 3, 20),
        "pose_hidden_states": torch.randn(1, 4, 1, 4, 4), "face_pixel_values": torch.randn(1, 3, 1, 64, 64),
    }  # fmt: skip


_UNET = "convert_ldm_unet_checkpoint"
_LDM = "model.diffusion_model."

NEWER = {
    "krea 2": Tiny(
        "krea2", "Krea2Transformer2DModel",
        {"in_channels": 8, "num_layers": 2, "attention_head_dim": 32, "num_attention_heads": 2,
         "num_key_value_heads": 1, "intermediate_size": 96, "timestep_embed_dim": 16, "text_hidden_dim": 32,
         "num_text_layers": 3, "text_num_attention_heads": 1, "text_num_key_value_heads": 1,
         "text_intermediate_size": 64, "num_layerwise_text_blocks": 1, "num_refiner_text_blocks": 1,
         "axes_dims_rope": (8, 12, 12)},
        "convert_krea2_transformer_checkpoint_to_diffusers", _krea2,
    ),
    "wan animate": Tiny(
        "wan_animate_dit", "WanAnimateTransformer3DModel",
        {"num_attention_heads": 2, "attention_head_dim": 32, "in_channels": 12, "latent_channels": 4,
         "out_channels": 4, "text_dim": 24, "freq_dim": 16, "ffn_dim": 96, "num_layers": 2, "image_dim": 20,
         "added_kv_proj_dim": 64,
         "motion_encoder_channel_sizes": {str(2**i): 8 for i in range(2, 10)}, "motion_encoder_size": 64,
         "motion_style_dim": 16, "motion_dim": 4, "motion_encoder_dim": 16, "face_encoder_hidden_dim": 16,
         "face_encoder_num_heads": 2, "inject_face_latents_blocks": 2},
        "convert_wan_transformer_to_diffusers", _animate, original="lightx2v",
    ),
    "sd 1.5": Tiny(
        "sd1", "UNet2DConditionModel",
        {"sample_size": 16, "block_out_channels": (32, 32, 64, 64), "cross_attention_dim": 24,
         "attention_head_dim": 2, "layers_per_block": 2},
        _UNET, _unet, prefix=_LDM,
    ),
    "sd 2.1": Tiny(
        "sd1", "UNet2DConditionModel",
        {"sample_size": 16, "block_out_channels": (32, 32, 64, 64), "cross_attention_dim": 24,
         "attention_head_dim": (1, 1, 2, 2), "layers_per_block": 2, "use_linear_projection": True},
        _UNET, _unet, prefix=_LDM,
    ),
    "sdxl": Tiny(
        "sdxl", "UNet2DConditionModel",
        {"sample_size": 16, "block_out_channels": (32, 32, 64), "cross_attention_dim": 24,
         "attention_head_dim": (1, 1, 2), "layers_per_block": 2, "use_linear_projection": True,
         "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
         "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
         "transformer_layers_per_block": (1, 2, 10), "addition_embed_type": "text_time",
         "addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 64},
        _UNET,
        lambda: _unet(added_cond_kwargs={"text_embeds": torch.ones(1, 16), "time_ids": torch.ones(1, 6)}),
        prefix=_LDM,
    ),
    "flux2 dev": Tiny(
        "flux2", "Flux2Transformer2DModel", _FLUX2, "convert_flux2_transformer_checkpoint_to_diffusers",
        lambda: _flux2(True),
    ),
    "flux2 klein": Tiny(
        "flux2", "Flux2Transformer2DModel", _FLUX2 | {"guidance_embeds": False},
        "convert_flux2_transformer_checkpoint_to_diffusers", lambda: _flux2(False),
    ),
    "chroma": Tiny(
        "chroma", "ChromaTransformer2DModel",
        {"in_channels": 16, "num_layers": 2, "num_single_layers": 3, "attention_head_dim": 32,
         "num_attention_heads": 2, "joint_attention_dim": 24, "axes_dims_rope": (8, 12, 12),
         "approximator_num_channels": 16, "approximator_hidden_dim": 40, "approximator_layers": 2},
        "convert_chroma_transformer_checkpoint_to_diffusers", _chroma,
        constants={"inner_dim = 3072": "inner_dim = 64"},
    ),
    "ltx 2": Tiny(
        "ltx2", "LTX2VideoTransformer3DModel",
        {"in_channels": 4, "out_channels": 4, "num_attention_heads": 2, "attention_head_dim": 32,
         "cross_attention_dim": 64, "audio_in_channels": 6, "audio_out_channels": 6,
         "audio_num_attention_heads": 2, "audio_attention_head_dim": 16, "audio_cross_attention_dim": 32,
         "num_layers": 3, "caption_channels": 24},  # of two, files for ComfyUI keep both in full
        "convert_ltx2_transformer_to_diffusers", _ltx2,
    ),
    "qwen-image 2.1": Tiny(
        "qwen_image_21_dit", "QwenImage21Transformer2DModel",
        {"in_channels": 8, "out_channels": 8, "num_layers": 2, "attention_head_dim": 32,
         "num_attention_heads": 2, "context_in_dim": 64, "axes_dims_rope": (8, 12, 12)},
        "convert_qwen_image21_transformer_checkpoint_to_diffusers", _qwen_image_21, original="comfyui",
    ),
    "flux3": Tiny(
        "flux3", "Flux3Transformer2DModel",
        {"in_channels": 16, "cond_in_channels": 16, "num_layers": 2, "num_single_layers": 2,
         "attention_head_dim": 32, "num_attention_heads": 2, "joint_attention_dim": 24,
         "timestep_channels": 16, "axes_dims_rope": (8, 8, 8, 8)},
        "convert_flux3_transformer_checkpoint_to_diffusers", _flux3,
    ),
    "flux3 flow map": Tiny(
        "flux3", "Flux3Transformer2DModel",
        {"in_channels": 16, "cond_in_channels": 16, "num_layers": 1, "num_single_layers": 1,
         "attention_head_dim": 32, "num_attention_heads": 2, "joint_attention_dim": 24,
         "timestep_channels": 16, "axes_dims_rope": (8, 8, 8, 8), "flow_map": True},
        "convert_flux3_transformer_checkpoint_to_diffusers",
        lambda: _flux3() | {"target_timestep": torch.tensor([0.25])},
    ),
    "auraflow": Tiny(
        "auraflow", "AuraFlowTransformer2DModel",
        {"sample_size": 8, "num_mmdit_layers": 2, "num_single_dit_layers": 2, "attention_head_dim": 32,
         "num_attention_heads": 2, "joint_attention_dim": 24, "caption_projection_dim": 64,
         "pos_embed_max_size": 16},
        "convert_auraflow_transformer_checkpoint_to_diffusers", _auraflow,
    ),
    "sana": Tiny(
        "sana", "SanaTransformer2DModel",
        {"in_channels": 4, "out_channels": 4, "num_attention_heads": 2, "attention_head_dim": 32,
         "num_layers": 2, "num_cross_attention_heads": 2, "cross_attention_head_dim": 32,
         "cross_attention_dim": 64, "caption_channels": 24, "sample_size": 4},
        "convert_sana_transformer_to_diffusers", _sana,
        besides={"pos_embed": (1, 16, 64), "y_embedder.y_embedding": (300, 24)},
    ),
    "cosmos 2": Tiny(
        "cosmos2", "CosmosTransformer3DModel",
        {"in_channels": 4, "out_channels": 4, "num_attention_heads": 2, "attention_head_dim": 32,
         "num_layers": 2, "text_embed_dim": 24, "adaln_lora_dim": 16, "max_size": (4, 8, 8),
         "extra_pos_embed_type": None, "concat_padding_mask": False},
        "convert_cosmos_transformer_checkpoint_to_diffusers", _cosmos2,
        besides={"pos_embedder.seq": (8,), "accum_iteration": (1,)},
    ),
}  # fmt: skip
