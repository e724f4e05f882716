"""Still further tiny models, some of which diffusers converts by scripts that it does not install."""

from __future__ import annotations

from typing import Any

import torch

from .families_of_diffusers import Tiny


def _lumina2() -> dict[str, Any]:
    torch.manual_seed(1)
    return {
        "hidden_states": torch.randn(1, 4, 4, 4), "encoder_hidden_states": torch.randn(1, 5, 24),
        "timestep": torch.tensor([0.5]), "encoder_attention_mask": torch.ones(1, 5, dtype=torch.bool),
    }  # fmt: skip


def _hunyuan_image() -> dict[str, Any]:
    torch.manual_seed(1)
    return {
        "hidden_states": torch.randn(1, 4, 4, 4), "timestep": torch.tensor([5.0]),
        "encoder_hidden_states": torch.randn(1, 5, 24), "encoder_attention_mask": torch.ones(1, 5),
        "encoder_hidden_states_2": torch.randn(1, 3, 20), "encoder_attention_mask_2": torch.ones(1, 3),
        "guidance": torch.tensor([3.5]), "timestep_r": torch.tensor([4.0]),
    }  # fmt: skip


def _hunyuan15() -> dict[str, Any]:
    torch.manual_seed(1)
    return {
        "hidden_states": torch.randn(1, 4, 1, 4, 4), "timestep": torch.tensor([5.0]),
        "timestep_r": torch.tensor([4.0]), "image_embeds": torch.randn(1, 2, 12),
        "encoder_hidden_states": torch.randn(1, 5, 24), "encoder_attention_mask": torch.ones(1, 5),
        "encoder_hidden_states_2": torch.randn(1, 3, 20), "encoder_attention_mask_2": torch.ones(1, 3),
    }  # fmt: skip


def _minimax_h3() -> dict[str, Any]:
    """A packed sequence of three rows of text, two of video and two of sound."""
    torch.manual_seed(1)
    return {
        "hidden_states": torch.randn(1, 2, 16), "audio_hidden_states": torch.randn(1, 2, 4),
        "encoder_hidden_states": torch.randn(1, 3, 24), "timestep": torch.tensor([0.5, 0.25]),
        "timestep_indices": torch.tensor([0, 0, 0, 0, 0, 1, 1]),
        "token_tags": torch.tensor([1, 1, 1, 0, 0, 2, 2]), "position_ids": torch.arange(21).reshape(7, 3),
        "text_indices": torch.arange(3), "video_indices": torch.tensor([3, 4]),
        "audio_indices": torch.tensor([5, 6]),
    }  # fmt: skip


def _mochi() -> dict[str, Any]:
    torch.manual_seed(1)
    return {
        "hidden_states": torch.randn(1, 4, 1, 4, 4), "encoder_hidden_states": torch.randn(1, 4, 8),
        "timestep": torch.tensor([5]), "encoder_attention_mask": torch.ones(1, 4, dtype=torch.bool),
    }  # fmt: skip


def _cogvideox() -> dict[str, Any]:
    torch.manual_seed(1)
    return {
        "hidden_states": torch.randn(1, 1, 4, 4, 4), "encoder_hidden_states": torch.randn(1, 6, 24),
        "timestep": torch.tensor([5]),
    }  # fmt: skip


def _cosmos(**more: Any) -> dict[str, Any]:
    torch.manual_seed(1)
    return {
        "hidden_states": torch.randn(1, 4, 2, 4, 4), "encoder_hidden_states": torch.randn(1, 5, 24),
        "timestep": torch.tensor([0.5]), **more,
    }  # fmt: skip


def _ideogram() -> dict[str, Any]:
    torch.manual_seed(1)
    return {
        "hidden_states": torch.randn(1, 6, 8), "encoder_hidden_states": torch.randn(1, 6, 24),
        "timestep": torch.tensor([0.5]), "position_ids": torch.arange(18).reshape(1, 6, 3),
        "segment_ids": torch.ones(1, 6, dtype=torch.long), "indicator": torch.tensor([[3, 3, 2, 2, 2, 2]]),
    }  # fmt: skip


def _controlnet() -> dict[str, Any]:
    torch.manual_seed(1)
    return {
        "sample": torch.randn(1, 4, 16, 16), "timestep": torch.tensor(5),
        "encoder_hidden_states": torch.randn(1, 5, 24), "controlnet_cond": torch.randn(1, 3, 128, 128),
    }  # fmt: skip


def _longcat() -> dict[str, Any]:
    torch.manual_seed(1)
    return {
        "hidden_states": torch.randn(1, 6, 16), "encoder_hidden_states": torch.randn(1, 4, 24),
        "timestep": torch.tensor([0.5]), "img_ids": torch.arange(18).reshape(6, 3),
        "txt_ids": torch.zeros(4, 3),
    }  # fmt: skip


def _cascade(**more: Any) -> dict[str, Any]:
    torch.manual_seed(1)
    return {
        "sample": torch.randn(1, 4, 8, 8), "timestep_ratio": torch.tensor([0.5]),
        "clip_text_pooled": torch.randn(1, 1, 20), **more,
    }  # fmt: skip


_CASCADE: dict[str, Any] = {
    "in_channels": 4, "out_channels": 4, "conditioning_dim": 64, "block_out_channels": (32, 64),
    "num_attention_heads": (1, 2), "down_num_layers_per_block": (1, 1), "up_num_layers_per_block": (1, 1),
    "clip_text_pooled_in_channels": 20,
}  # fmt: skip

_COSMOS: dict[str, Any] = {
    "in_channels": 4, "out_channels": 4, "num_attention_heads": 2, "attention_head_dim": 32, "num_layers": 1,
    "text_embed_dim": 24, "adaln_lora_dim": 16, "max_size": (4, 8, 8), "concat_padding_mask": False,
}  # fmt: skip

_IMAGE: dict[str, Any] = {
    "in_channels": 4, "out_channels": 4, "num_attention_heads": 2, "attention_head_dim": 32, "num_layers": 1,
    "num_single_layers": 1, "num_refiner_layers": 2, "text_embed_dim": 24, "text_embed_2_dim": 20,
    "rope_axes_dim": (16, 16), "guidance_embeds": True, "use_meanflow": True,
}  # fmt: skip

MORE = {
    "ideogram 4": Tiny(
        "ideogram4", "Ideogram4Transformer2DModel",
        {"in_channels": 8, "num_layers": 2, "attention_head_dim": 32, "num_attention_heads": 2,
         "intermediate_size": 96, "adaln_dim": 16, "llm_features_dim": 24, "mrope_section": (8, 4, 4)},
        "comfy/ldm/ideogram4/model.py of ComfyUI", _ideogram, recorded="bfd8ccf21af23350",
    ),
    "longcat image": Tiny(
        "longcat_image", "LongCatImageTransformer2DModel",
        {"in_channels": 16, "num_layers": 1, "num_single_layers": 1, "attention_head_dim": 32,
         "num_attention_heads": 2, "joint_attention_dim": 24, "axes_dims_rope": (8, 12, 12)},
        "comfy/ldm/flux/model.py of ComfyUI", _longcat, recorded="30a0065ce96dda70",
    ),
    "stable cascade c": Tiny(
        "stable_cascade_c", "StableCascadeUNet",
        _CASCADE | {"clip_text_in_channels": 20, "clip_image_in_channels": 12},
        "convert_stable_cascade_unet_single_file_to_diffusers",
        lambda: _cascade(clip_text=torch.ones(1, 5, 20), clip_img=torch.ones(1, 1, 12)),
    ),
    "stable cascade b": Tiny(
        "stable_cascade_b", "StableCascadeUNet",
        _CASCADE | {"effnet_in_channels": 4, "pixel_mapper_in_channels": 3, "patch_size": 2,
                    "timestep_conditioning_type": ("sca",), "down_blocks_repeat_mappers": (1, 2),
                    "up_blocks_repeat_mappers": (2, 1)},
        "convert_stable_cascade_unet_single_file_to_diffusers",
        lambda: _cascade(effnet=torch.ones(1, 4, 4, 4)),
    ),
    "sd 1.5 controlnet": Tiny(
        "sd1_controlnet", "ControlNetModel",
        {"block_out_channels": (32, 32, 64, 64), "cross_attention_dim": 24, "attention_head_dim": 2,
         "layers_per_block": 2, "conditioning_embedding_out_channels": (4, 4, 8, 8)},
        "convert_controlnet_checkpoint", _controlnet, prefix="control_model.",
    ),
    "cosmos 1": Tiny(
        "cosmos1", "CosmosTransformer3DModel",
        _COSMOS | {"extra_pos_embed_type": "learnable", "num_layers": 2},
        "scripts/convert_cosmos_to_diffusers.py", lambda: _cosmos(fps=24), recorded="1a92d1fae3513ea9",
    ),
    "cosmos 2.5": Tiny(
        "cosmos2", "CosmosTransformer3DModel",
        _COSMOS | {"extra_pos_embed_type": None, "use_crossattn_projection": True,
                   "crossattn_proj_in_channels": 20, "encoder_hidden_states_channels": 24,
                   "img_context_dim_in": 12, "img_context_num_tokens": 3, "img_context_dim_out": 64},
        "convert_cosmos_transformer_checkpoint_to_diffusers",
        lambda: _cosmos(encoder_hidden_states=(torch.ones(1, 5, 20), torch.ones(1, 3, 12))), prefix="net.",
        besides={"pos_embedder.seq": (8,), "blocks.0.self_attn.q_norm._extra_state": (1,)},
    ),
    "mochi": Tiny(
        "mochi", "MochiTransformer3DModel",
        {"num_attention_heads": 1, "attention_head_dim": 8, "num_layers": 48, "pooled_projection_dim": 4,
         "in_channels": 4, "text_embed_dim": 8, "time_embed_dim": 8, "max_sequence_length": 4},
        "convert_mochi_transformer_checkpoint_to_diffusers", _mochi,
    ),
    "lumina 2": Tiny(
        "lumina2", "Lumina2Transformer2DModel",
        {"sample_size": 4, "in_channels": 4, "hidden_size": 96, "num_layers": 2, "num_refiner_layers": 2,
         "num_attention_heads": 3, "num_kv_heads": 1, "multiple_of": 32, "axes_dim_rope": (8, 12, 12),
         "axes_lens": (64, 64, 64), "cap_feat_dim": 24},
        "convert_lumina2_to_diffusers", _lumina2,
        constants={"q_dim = 2304": "q_dim = 96", "k_dim = v_dim = 768": "k_dim = v_dim = 32"},
        besides={"norm_final.weight": (96,)},
    ),
    "minimax h3": Tiny(
        "h3", "MiniMaxH3Transformer3DModel",
        {"in_channels": 4, "audio_in_channels": 4, "num_attention_heads": 2, "attention_head_dim": 32,
         "num_layers": 2, "hidden_size": 64, "num_refiner_layers": 1, "ffn_dim": 96, "text_dim": 24,
         "freq_dim": 16, "time_embed_hidden_dim": 32, "time_embed_dim": 16, "rope_freq_dim": 4},
        "convert_minimax_h3_transformer_checkpoint_to_diffusers", _minimax_h3, original="comfyui",
        besides={"rope.inv_freq": (8,)},
    ),
    "hunyuan video 1.5": Tiny(
        "hunyuan_dit", "HunyuanVideo15Transformer3DModel",
        {"in_channels": 4, "out_channels": 4, "num_attention_heads": 2, "attention_head_dim": 32,
         "num_layers": 1, "text_embed_dim": 24, "text_embed_2_dim": 20, "image_embed_dim": 12,
         "rope_axes_dim": (8, 12, 12), "use_meanflow": True},
        "scripts/convert_hunyuan_video1_5_to_diffusers.py", _hunyuan15, original="lightx2v",
        recorded="00bfd45738c57235",
    ),
    "hunyuan image 2.1": Tiny(
        "hunyuan_image", "HunyuanImageTransformer2DModel", _IMAGE,
        "scripts/convert_hunyuan_image_to_diffusers.py", _hunyuan_image, recorded="baea7e1813e1cdbf",
    ),
    "vae": Tiny(
        "autoencoder_kl", "AutoencoderKL",
        {"block_out_channels": (4, 4, 8, 8), "layers_per_block": 1, "norm_num_groups": 2,
         "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4},
        "convert_ldm_vae_checkpoint", lambda: {"sample": torch.ones(1, 3, 16, 16)},
    ),
    "hunyuan image 2.1 apart": Tiny(
        "hunyuan_image", "HunyuanImageTransformer2DModel", _IMAGE,
        "scripts/convert_hunyuan_image_to_diffusers.py", _hunyuan_image, original="apart",
        recorded="1a91fd7164e13f95",
    ),
    "cogvideox": Tiny(
        "cogvideox", "CogVideoXTransformer3DModel",
        {"num_attention_heads": 2, "attention_head_dim": 32, "in_channels": 4, "out_channels": 4,
         "time_embed_dim": 16, "text_embed_dim": 24, "num_layers": 2, "sample_width": 4, "sample_height": 4,
         "sample_frames": 1, "max_text_seq_length": 6, "ofs_embed_dim": None,
         "use_rotary_positional_embeddings": True},
        "scripts/convert_cogvideox_to_diffusers.py", _cogvideox, recorded="cbae1d43fb4ea1be",
    ),
}  # fmt: skip
