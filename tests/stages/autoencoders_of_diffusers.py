"""Tiny autoencoders of diffusers' own classes, and further models of Wan and LTX-2."""

from __future__ import annotations

from typing import Any

import torch

from .families_of_diffusers import Tiny
from .more_families_of_diffusers import MORE
from .newer_families_of_diffusers import NEWER

_WAN_VAE: dict[str, Any] = {
    "base_dim": 3, "z_dim": 4, "num_res_blocks": 2, "dim_mult": [1, 2, 4, 4],
    "temperal_downsample": [False, True, True],
}  # fmt: skip
_WAN: dict[str, Any] = {
    "num_attention_heads": 2, "attention_head_dim": 32, "in_channels": 4, "out_channels": 4, "text_dim": 24,
    "freq_dim": 16, "ffn_dim": 96, "num_layers": 2,
}  # fmt: skip
_LTX: dict[str, Any] = {
    "latent_channels": 8, "patch_size": 1, "block_out_channels": (4, 8, 16, 16),
    "decoder_block_out_channels": (4, 8, 16, 16), "layers_per_block": (1,) * 5,
    "decoder_layers_per_block": (1,) * 5,
}  # fmt: skip
_LTX_091: dict[str, Any] = _LTX | {
    "decoder_block_out_channels": (8, 16, 32), "decoder_layers_per_block": (1,) * 4,
    "decoder_spatio_temporal_scaling": (True,) * 3, "decoder_inject_noise": (True, True, True, False),
    "upsample_residual": (True,) * 3, "upsample_factor": (2,) * 3, "timestep_conditioning": True,
}  # fmt: skip
_VOCODER: dict[str, Any] = {
    "in_channels": 4, "hidden_channels": 16, "upsample_kernel_sizes": [4, 4], "upsample_factors": [2, 2],
    "resnet_kernel_sizes": [3, 5], "resnet_dilations": [[1, 3], [1, 3]],
}  # fmt: skip
_CONNECTORS: dict[str, Any] = {
    "caption_channels": 8, "text_proj_in_factor": 3,
    **{f"{kind}_connector_{key}": value for kind in ("video", "audio") for key, value in {
        "num_attention_heads": 2, "attention_head_dim": 4, "num_layers": 2, "num_learnable_registers": 4,
    }.items()},
}  # fmt: skip
_STATISTICS = {"per_channel_statistics.channel": (8,), "per_channel_statistics.mean-of-stds": (8,)}
_LTX_VAE = "convert_ltx_vae_checkpoint_to_diffusers"
_WAN_DIT = "convert_wan_transformer_to_diffusers"


def _frame(size: int, channels: int = 3) -> dict[str, Any]:
    torch.manual_seed(1)
    return {"sample": torch.randn(1, channels, 1, size, size)}


def _noise(*shape: int) -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randn(shape)


def _timed() -> dict[str, Any]:
    return _frame(32) | {"temb": torch.tensor([0.05])}


def _sounds() -> dict[str, Any]:
    return {"hidden_states": _noise(1, 2, 4, 2)}


def _prompt() -> dict[str, Any]:
    """What a text encoder of two layers more than its embeddings tells, of four words, one of them none."""
    return {
        "text_encoder_hidden_states": _noise(1, 4, 8, 3), "attention_mask": torch.tensor([[0, 1, 1, 1]])
    }  # fmt: skip


def _words() -> dict[str, Any]:
    return {"video_tokens": _noise(1, 4, 8), "audio_tokens": _noise(1, 4, 6)}


def _latents() -> dict[str, Any]:
    return {"z": _noise(1, 4, 1, 3, 3), "generator": torch.Generator().manual_seed(1)}


def _video() -> dict[str, Any]:
    """The shortest that this VAE takes: 17 n + 5 frames."""
    torch.manual_seed(1)
    return {"sample": torch.randn(1, 3, 22, 8, 8)}


def _animate2() -> dict[str, Any]:
    """The pass over what is referred to, as the other asks for a compiler."""
    from diffusers.models.transformers.transformer_wan_animate_2 import WanAnimate2KVCache

    torch.manual_seed(1)
    return {
        "hidden_states": [torch.randn(4, 1, 4, 4)], "condition_latents": [torch.randn(4, 1, 4, 4)],
        "timestep": torch.tensor([5]), "encoder_hidden_states": [torch.randn(5, 24)], "seq_len": 4,
        "kv_cache": WanAnimate2KVCache(2), "kv_cache_mode": "extract",
        "encoder_hidden_states_image": torch.randn(1, 257, 1280),
        "offset_grid_sizes": torch.tensor([[1, 2, 2]]),
    }  # fmt: skip


def _wan(**more: Any) -> dict[str, Any]:
    torch.manual_seed(1)
    return {
        "hidden_states": torch.randn(1, 4, 1, 4, 4), "timestep": torch.tensor([5]),
        "encoder_hidden_states": torch.randn(1, 5, 24), **more,
    }  # fmt: skip


AUTOENCODERS = {
    "wan vae": Tiny("wan_vae", "AutoencoderKLWan", _WAN_VAE, "convert_wan_vae_to_diffusers",
                    lambda: _frame(16)),
    "qwen-image vae": Tiny("wan_vae", "AutoencoderKLQwenImage", _WAN_VAE, "convert_wan_vae_to_diffusers",
                           lambda: _frame(16)),
    "vae, old": Tiny(
        "autoencoder_kl", "AutoencoderKL", MORE["vae"].config, "models/modeling_utils.py",
        MORE["vae"].inputs, original="old_diffusers", recorded="bf3747fe41e5710e",
    ),
    "wan 2.2 vae": Tiny(
        "wan22_vae", "AutoencoderKLWan",
        _WAN_VAE | {"base_dim": 4, "decoder_base_dim": 4, "in_channels": 12, "out_channels": 12,
                    "is_residual": True, "patch_size": 2},
        "scripts/convert_wan_to_diffusers.py", lambda: _frame(32), recorded="d98f89e2c0277b79",
    ),
    "qwen-image layered vae": Tiny(
        "wan_vae", "AutoencoderKLQwenImage", _WAN_VAE | {"input_channels": 4},
        "convert_wan_vae_to_diffusers", lambda: _frame(16, 4),
    ),
    "qwen-image 2.1 vae": Tiny(
        "qwen_image_21_vae", "AutoencoderKLQwenImage21",
        {"base_dim": 2, "decoder_base_dim": 2, "z_dim": 4}, "comfy/ldm/wan/vae2_2.py", lambda: _frame(32, 4),
        original="comfyui", recorded="7ff3beb077b7282a",
    ),
    "ltx vae 0.9.0": Tiny("ltx_vae_090", "AutoencoderKLLTXVideo", _LTX, _LTX_VAE, lambda: _frame(32),
                          prefix="vae.", besides=_STATISTICS),
    "ltx vae 0.9.1": Tiny("ltx_vae_091", "AutoencoderKLLTXVideo", _LTX_091, _LTX_VAE, _timed, prefix="vae."),
    "ltx vae 0.9.5": Tiny(
        "ltx_vae", "AutoencoderKLLTXVideo",
        _LTX_091 | {"block_out_channels": (8, 8, 8, 8, 16),
                    "down_block_types": ("LTXVideo095DownBlock3D",) * 4,
                    "spatio_temporal_scaling": (True,) * 4, "decoder_inject_noise": (False,) * 4,
                    "downsample_type": ("spatial", "temporal", "spatiotemporal", "spatiotemporal")},
        _LTX_VAE, _timed, prefix="vae.", constants={"shape[1] == 2048": "shape[1] == 16"},
    ),
    "ltx 2 vae": Tiny(
        "ltx_vae", "AutoencoderKLLTX2Video",
        {"latent_channels": 8, "block_out_channels": (8,) * 4, "decoder_block_out_channels": (8, 16, 32),
         "layers_per_block": (1,) * 5, "decoder_layers_per_block": (1,) * 4},
        "convert_ltx2_vae_to_diffusers", lambda: _frame(64), prefix="vae.", besides=_STATISTICS,
    ),
    "ltx 2.3 vae": Tiny(
        "ltx_vae", "AutoencoderKLLTX2Video",
        {"latent_channels": 8, "block_out_channels": (8,) * 4, "decoder_block_out_channels": (4, 8, 8, 16),
         "layers_per_block": (1,) * 5, "decoder_layers_per_block": (1,) * 5,
         "decoder_spatio_temporal_scaling": (True,) * 4, "decoder_inject_noise": (False,) * 5,
         "upsample_residual": (False,) * 4, "upsample_factor": (2, 2, 1, 2),
         "upsample_type": ("spatiotemporal", "spatiotemporal", "temporal", "spatial")},
        "scripts/convert_ltx2_to_diffusers.py", lambda: _frame(64), recorded="d460ec3df347080d",
    ),
    "ltx 2 audio vae": Tiny(
        "ltx2_audio_vae", "AutoencoderKLLTX2Audio",
        {"base_channels": 4, "num_res_blocks": 1, "latent_channels": 4},
        "convert_ltx2_audio_vae_to_diffusers", lambda: {"sample": torch.ones(1, 2, 8, 64)},
        prefix="audio_vae.",
    ),
    "ltx 2 vocoder": Tiny(
        "ltx2_vocoder", "LTX2Vocoder", _VOCODER, "scripts/convert_ltx2_to_diffusers.py", _sounds,
        recorded="cd32b3154a84ec89",
    ),
    "ltx 2.3 vocoder": Tiny(
        "ltx2_vocoder_bwe", "LTX2VocoderWithBWE",
        {**_VOCODER, "bwe_in_channels": 8, "bwe_hidden_channels": 8, "bwe_upsample_kernel_sizes": [8],
         "bwe_upsample_factors": [8], "output_sampling_rate": 32000,
         "bwe_resnet_kernel_sizes": [3], "bwe_resnet_dilations": [[1, 3]], "filter_length": 8,
         "hop_length": 4, "window_length": 8, "num_mel_channels": 4},
        "scripts/convert_ltx2_to_diffusers.py", lambda: {"mel_spec": _sounds()["hidden_states"]},
        recorded="122e6375e0ba220c",
    ),
    "ltx 2 connectors": Tiny(
        "ltx2_connectors", "LTX2TextConnectors", _CONNECTORS, "scripts/convert_ltx2_to_diffusers.py", _prompt,
        recorded="72300f72960796bc",
    ),
    "ltx 2.3 connectors": Tiny(
        "ltx2_connectors", "LTX2TextConnectors",
        {**_CONNECTORS, "per_modality_projections": True, "proj_bias": True, "video_gated_attn": True,
         "audio_gated_attn": True, "video_hidden_dim": 8, "audio_hidden_dim": 8},
        "scripts/convert_ltx2_to_diffusers.py", _prompt, recorded="8aedfeb9f4043ce3",
    ),
    "ltx 2.5 duration head": Tiny(
        "ltx2_duration_head", "LTX2DurationHead",
        {"video_cross_attention_dim": 8, "audio_cross_attention_dim": 6, "pooler_hidden_dim": 16,
         "num_queries": 2, "mlp_hidden_dim": 8},
        "scripts/convert_ltx2_to_diffusers.py", _words, recorded="3bf815ff4560cd9d",
    ),
    "flux 2 vae": Tiny(
        "flux2_vae", "AutoencoderKLFlux2",
        {"block_out_channels": (4, 4, 8, 8), "decoder_block_out_channels": (4, 4, 4, 8),
         "layers_per_block": 1, "latent_channels": 2, "norm_num_groups": 2},
        "scripts/convert_flux2_to_diffusers.py", lambda: {"sample": torch.ones(1, 3, 16, 16)},
        recorded="27022067b5e08fb3",
    ),
    "cosmos vae": Tiny(
        "cosmos1_vae", "AutoencoderKLCosmos",
        {"encoder_block_out_channels": (4, 8, 8, 8), "decode_block_out_channels": (4, 8, 8, 8),
         "latent_channels": 2, "num_layers": 1, "patch_size": 2, "resolution": 32,
         "attention_resolutions": ()},
        "scripts/convert_cosmos_to_diffusers.py", lambda: _frame(32), recorded="9970831c991b1feb",
    ),
    "dc-ae": Tiny(
        "dc_ae", "AutoencoderDC",
        {"in_channels": 3, "latent_channels": 4, "attention_head_dim": 4, "downsample_block_type": "conv",
         "upsample_block_type": "interpolate",
         **{f"{side}_{key}": value for side in ("encoder", "decoder") for key, value in {
             "block_types": ("ResBlock", "EfficientViTBlock"), "block_out_channels": (4, 8),
             "layers_per_block": (1, 1), "qkv_multiscales": ((), (5,))}.items()}},
        "convert_autoencoder_dc_checkpoint_to_diffusers", lambda: {"sample": torch.ones(1, 3, 16, 16)},
    ),
    "cogvideox vae": Tiny(
        "cogvideox_vae", "AutoencoderKLCogVideoX",
        {"block_out_channels": (4, 4, 8, 8), "latent_channels": 2, "layers_per_block": 1,
         "norm_num_groups": 2},
        "scripts/convert_cogvideox_to_diffusers.py", lambda: _frame(16), recorded="65497579d2d2def8",
    ),
    "mochi vae": Tiny(
        "mochi_vae", "AutoencoderKLMochi",
        {"encoder_block_out_channels": (32,) * 4, "decoder_block_out_channels": (32,) * 4,
         "latent_channels": 2},
        "scripts/convert_mochi_to_diffusers.py", lambda: _frame(16), recorded="0b6bd702d61a9306",
    ),
    "hunyuan video 1.5 vae": Tiny(
        "hunyuan15_vae", "AutoencoderKLHunyuanVideo15",
        {"block_out_channels": (4, 8, 8, 8, 8), "latent_channels": 2},
        "scripts/convert_hunyuan_video1_5_to_diffusers.py", lambda: _frame(32), recorded="4439c53d4254f389",
    ),
    "hunyuan image refiner vae": Tiny(
        "hunyuan15_vae", "AutoencoderKLHunyuanImageRefiner",
        {"block_out_channels": (4, 8, 8, 8, 8), "latent_channels": 2},
        "scripts/convert_hunyuan_image_to_diffusers.py", lambda: _frame(32), recorded="4439c53d4254f389",
    ),
    "hunyuan video vae": Tiny(
        "hunyuan_video_vae", "AutoencoderKLHunyuanVideo",
        {"block_out_channels": (4, 4, 8, 8), "latent_channels": 2, "layers_per_block": 1,
         "norm_num_groups": 2},
        "comfy/diffusers_convert.py", lambda: _frame(16), original="comfyui", recorded="918b050b4cd08459",
    ),
    "minimax h3 vae": Tiny(
        "minimax_h3_vae", "AutoencoderKLMiniMaxH3",
        {"latent_channels": 4, "block_out_channels": (4, 8), "layers_per_block": 1, "norm_num_groups": 2,
         "spatial_downsample_factors": (2, 2), "temporal_downsample_factors": (2, 2),
         "decoder_num_layers": 2, "decoder_num_attention_heads": 2, "decoder_num_register_tokens": 2,
         "decoder_ffn_mult": 1, "latents_mean": (0.0,) * 4, "latents_std": (1.0,) * 4},
        "scripts/convert_minimax_h3_to_diffusers.py", _video, recorded="d52a2b7843fff010",
    ),
    "ltx 2.5 diffusion decoder": Tiny(
        "ltx2_diffusion_decoder", "LTX2VideoDiffusionDecoderModel",
        {"latent_channels": 4, "patch_size": 2, "decoder_head_dim": 16,
         "decoder_stage_channels": (64, 32, 16, 16, 16), "decoder_stage_depths": (1, 1, 1, 1, 2),
         "decoder_stage_kernels": ((1, 3, 3),) * 4, "decoder_upsample_channel_reductions": (2, 2, 1, 1),
         "decoder_stage5_kernel": (1, 3, 3), "decoder_t_emb_dim": 32, "spatial_compression_ratio": 16},
        "scripts/convert_ltx2_to_diffusers.py", _latents, recorded="e22385445b02a9d5",
    ),
    "taesd": Tiny(
        "taesd", "AutoencoderTiny", {"encoder_block_out_channels": (4,) * 4,
                                     "decoder_block_out_channels": (4,) * 4},
        "scripts/convert_tiny_autoencoder_to_diffusers.py", lambda: {"sample": torch.ones(1, 3, 16, 16)},
        original="comfyui", recorded="4e60c3c296e284f7",
    ),
    "hunyuan image vae": Tiny(
        "hunyuan_image_vae", "AutoencoderKLHunyuanImage",
        {"in_channels": 3, "out_channels": 3, "block_out_channels": (32,) * 6, "layers_per_block": 2,
         "latent_channels": 4, "spatial_compression_ratio": 32, "sample_size": 32},
        "scripts/convert_hunyuan_image_to_diffusers.py", lambda: {"sample": torch.ones(1, 3, 64, 64)},
        recorded="43cae9a4782c4834",
    ),
    "wan": Tiny("wan_dit", "WanTransformer3DModel", _WAN, _WAN_DIT, _wan, original="lightx2v"),
    "wan vace": Tiny("wan_dit", "WanVACETransformer3DModel",
                     _WAN | {"vace_layers": [0], "vace_in_channels": 4}, _WAN_DIT,
                     lambda: _wan(control_hidden_states=torch.ones(1, 4, 1, 4, 4)), original="lightx2v"),
    "chronoedit": Tiny(
        "wan_dit", "ChronoEditTransformer3DModel", _WAN | {"image_dim": 20, "added_kv_proj_dim": 64},
        _WAN_DIT, lambda: _wan(encoder_hidden_states_image=torch.ones(1, 257, 20)), original="lightx2v",
    ),
    "skyreels v2": Tiny(
        "wan_dit", "SkyReelsV2Transformer3DModel", _WAN | {"inject_sample_info": True},
        "scripts/convert_skyreelsv2_to_diffusers.py", lambda: _wan(fps=[1]), original="lightx2v",
        recorded="e0d5546f67e4b117",
    ),
    "wan animate 2": Tiny(
        "wan_animate2_dit", "WanAnimate2Transformer3DModel",
        {"dim": 64, "num_heads": 2, "in_dim": 8, "out_dim": 4, "text_dim": 24, "freq_dim": 16, "ffn_dim": 96,
         "num_layers": 2},
        "convert_wan_animate_2_transformer_to_diffusers", _animate2,
    ),
    "ltx 2.5": Tiny(
        "ltx2", "LTX2VideoTransformer3DModel",
        {**NEWER["ltx 2"].config, "num_layers": 1, "gated_attn": True, "cross_attn_mod": True,
         "audio_gated_attn": True, "audio_cross_attn_mod": True, "perturbed_attn": True, "ff_bias": False,
         "use_keyframes_abs_pos_embedding": True},
        "scripts/convert_ltx2_to_diffusers.py",
        lambda: NEWER["ltx 2"].inputs() | {"sigma": torch.tensor([0.5])},
        recorded="0bb88cdce5654d3b",
    ),
}  # fmt: skip
