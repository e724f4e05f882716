"""Names and shapes of VAEs and what stands beside them, for ``make_family_names.py``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from make_family_names import Model, Shapes, norm, shapes_of, under
from single_file_names import LTX_VAE, undone

STATISTICS: Shapes = {
    f"per_channel_statistics.{name}": [128]
    for name in ("channel", "mean-of-stds", "mean-of-stds_over_std-of-means")
}


def _converted(diffusers: Any) -> Iterable[tuple[str, str, str, Any, str]]:
    """File, family, model, module and the function (or script) of diffusers that makes its names."""
    kl = diffusers.AutoencoderKL(
        block_out_channels=(128, 256, 512, 512), layers_per_block=2,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    )  # fmt: skip
    yield "sdxl_vae", "autoencoder_kl", "sdxl-vae", kl, "convert_ldm_vae_checkpoint"
    wan = "convert_wan_vae_to_diffusers"
    yield "wan_2.1_vae", "wan_vae", "Wan2.1_VAE", diffusers.AutoencoderKLWan(), wan
    wan22 = diffusers.AutoencoderKLWan(
        base_dim=160, z_dim=48, is_residual=True, in_channels=12, out_channels=12, decoder_base_dim=256,
        scale_factor_temporal=4, scale_factor_spatial=16, patch_size=2,
    )  # fmt: skip
    qwen = diffusers.AutoencoderKLQwenImage21()
    yield "qwen_image_2.1_vae", "qwen_image_21_vae", "Qwen-Image-2.1", qwen, "comfy/ldm/wan/vae2_2.py"
    yield "wan_2.2_vae", "wan22_vae", "Wan2.2_VAE", wan22, "scripts/convert_wan_to_diffusers.py"
    first = diffusers.AutoencoderKLLTXVideo()
    yield "ltx_vae_0.9.0", "ltx_vae_090", "LTX-Video 0.9.0", first, LTX_VAE
    second = diffusers.AutoencoderKLLTXVideo(
        decoder_block_out_channels=(256, 512, 1024), decoder_layers_per_block=(5, 6, 7, 8),
        decoder_spatio_temporal_scaling=(True,) * 3, decoder_inject_noise=(True, True, True, False),
        upsample_residual=(True,) * 3, upsample_factor=(2,) * 3, timestep_conditioning=True,
    )  # fmt: skip
    yield "ltx_vae_0.9.1", "ltx_vae_091", "LTX-Video 0.9.1", second, LTX_VAE
    third = diffusers.AutoencoderKLLTXVideo(
        block_out_channels=(128, 256, 512, 1024, 2048), layers_per_block=(4, 6, 6, 2, 2),
        down_block_types=("LTXVideo095DownBlock3D",) * 4, spatio_temporal_scaling=(True,) * 4,
        downsample_type=("spatial", "temporal", "spatiotemporal", "spatiotemporal"),
        decoder_block_out_channels=(256, 512, 1024), decoder_layers_per_block=(5,) * 4,
        decoder_spatio_temporal_scaling=(True,) * 3, decoder_inject_noise=(False,) * 4,
        upsample_residual=(True,) * 3, upsample_factor=(2,) * 3, timestep_conditioning=True,
    )  # fmt: skip
    yield "ltx_vae_0.9.5", "ltx_vae", "LTX-Video 0.9.5", third, LTX_VAE
    yield (
        "ltx_2_audio_vae",
        "ltx2_audio_vae",
        "LTX-2",
        diffusers.AutoencoderKLLTX2Audio(),
        "convert_ltx2_audio_vae_to_diffusers",
    )
    later = diffusers.AutoencoderKLLTX2Video(
        decoder_block_out_channels=(256, 512, 512, 1024), decoder_layers_per_block=(4, 6, 4, 2, 2),
        layers_per_block=(4, 6, 4, 2, 2), decoder_spatio_temporal_scaling=(True,) * 4,
        decoder_inject_noise=(False,) * 5, upsample_residual=(False,) * 4, upsample_factor=(2, 2, 1, 2),
        upsample_type=("spatiotemporal", "spatiotemporal", "temporal", "spatial"),
    )  # fmt: skip
    yield "ltx_2.3_vae", "ltx_vae", "LTX-2.3", later, "scripts/convert_ltx2_to_diffusers.py"
    from diffusers.pipelines import ltx2

    script = "scripts/convert_ltx2_to_diffusers.py"
    yield "ltx_2_vocoder", "ltx2_vocoder", "LTX-2", ltx2.LTX2Vocoder(), script
    yield "ltx_2.3_vocoder", "ltx2_vocoder_bwe", "LTX-2.3", ltx2.LTX2VocoderWithBWE(), script
    yield "ltx_2_connectors", "ltx2_connectors", "LTX-2", ltx2.LTX2TextConnectors(), script
    modern = ltx2.LTX2TextConnectors(
        video_connector_num_attention_heads=32, video_connector_num_layers=8, video_gated_attn=True,
        audio_connector_num_attention_heads=32, audio_connector_attention_head_dim=64,
        audio_connector_num_layers=8, audio_gated_attn=True, per_modality_projections=True, proj_bias=True,
    )  # fmt: skip
    yield "ltx_2.3_connectors", "ltx2_connectors", "LTX-2.3", modern, script
    yield "ltx_2.5_duration_head", "ltx2_duration_head", "LTX-2.5", ltx2.LTX2DurationHead(), script
    flux2 = diffusers.AutoencoderKLFlux2(decoder_block_out_channels=(96, 192, 384, 384))
    yield "flux.2_vae", "flux2_vae", "FLUX.2-dev", flux2, "scripts/convert_flux2_to_diffusers.py"
    cosmos = diffusers.AutoencoderKLCosmos()
    yield "cosmos_1.0_vae", "cosmos1_vae", "Cosmos-1.0", cosmos, "scripts/convert_cosmos_to_diffusers.py"
    sana = diffusers.AutoencoderDC(
        latent_channels=32, downsample_block_type="conv", upsample_block_type="interpolate",
        encoder_layers_per_block=(2, 2, 2, 3, 3, 3), decoder_layers_per_block=(3,) * 6,
        **{f"{side}_{key}": value for side in ("encoder", "decoder") for key, value in {
            "block_types": ("ResBlock",) * 3 + ("EfficientViTBlock",) * 3,
            "block_out_channels": (128, 256, 512, 512, 1024, 1024),
            "qkv_multiscales": ((), (), (), (5,), (5,), (5,))}.items()},
    )  # fmt: skip
    yield (
        "dc_ae_sana",
        "dc_ae",
        "dc-ae-f32c32-sana-1.0",
        sana,
        "convert_autoencoder_dc_checkpoint_to_diffusers",
    )
    mochi = diffusers.AutoencoderKLMochi()
    yield "mochi_vae", "mochi_vae", "mochi-1-preview", mochi, "scripts/convert_mochi_to_diffusers.py"
    newer = diffusers.AutoencoderKLHunyuanVideo15()
    script = "scripts/convert_hunyuan_video1_5_to_diffusers.py"
    yield "hunyuanvideo_1.5_vae", "hunyuan15_vae", "HunyuanVideo-1.5", newer, script
    image = diffusers.AutoencoderKLHunyuanImage(
        in_channels=3, out_channels=3, latent_channels=64, layers_per_block=2, sample_size=384,
        block_out_channels=(128, 256, 512, 512, 1024, 1024), spatial_compression_ratio=32,
    )  # fmt: skip
    script = "scripts/convert_hunyuan_image_to_diffusers.py"
    yield "hunyuanimage_2.1_vae", "hunyuan_image_vae", "HunyuanImage-2.1", image, script
    cogvideox = diffusers.AutoencoderKLCogVideoX()
    yield (
        "cogvideox_vae",
        "cogvideox_vae",
        "CogVideoX",
        cogvideox,
        "scripts/convert_cogvideox_to_diffusers.py",
    )
    h3 = diffusers.AutoencoderKLMiniMaxH3()
    yield "minimax_h3_vae", "minimax_h3_vae", "MiniMax-H3", h3, "scripts/convert_minimax_h3_to_diffusers.py"
    hunyuan = diffusers.AutoencoderKLHunyuanVideo()
    yield "hunyuanvideo_1.0_vae", "hunyuan_video_vae", "HunyuanVideo", hunyuan, "comfy/diffusers_convert.py"
    tiny = diffusers.AutoencoderTiny()
    yield "taesd", "taesd", "TAESD", tiny, "scripts/convert_tiny_autoencoder_to_diffusers.py"
    decoder = diffusers.LTX2VideoDiffusionDecoderModel()
    script = "scripts/convert_ltx2_to_diffusers.py"
    yield "ltx_2.5_diffusion_decoder", "ltx2_diffusion_decoder", "LTX-2.5", decoder, script


def _cube(out: int, into: int, size: int = 3) -> Shapes:
    """A convolution in space and time."""
    return {"weight": [out, into, size, size, size], "bias": [out]}


def hunyuan_image3_vae() -> Shapes:
    """After hunyuan_image_3/autoencoder_kl_3d.py of Tencent-Hunyuan, with the sizes that comfy/sd.py of
    ComfyUI has.
    """
    widths, latents = (128, 256, 512, 1024, 1024), 32

    def block(width: int) -> Shapes:
        made = {f"{name}.{part}": [width] for name in ("norm1", "norm2") for part in ("weight", "bias")}
        return made | under("conv1", _cube(width, width)) | under("conv2", _cube(width, width))

    made: Shapes = {}
    for side, levels, count, step in (
        ("encoder", widths, 2, "down"), ("decoder", widths[::-1], 3, "up"),
    ):  # fmt: skip
        for level, width in enumerate(levels):
            for number in range(count):
                made |= under(f"{side}.{step}.{level}.block.{number}", block(width))
            if level < 4:
                # Pixels, and of two levels frames, become channels, or come of them.
                folded, following = 8 if (level < 2) == (step == "up") else 4, levels[level + 1]
                out = following * folded if step == "up" else following // folded
                made |= under(f"{side}.{step}.{level}.{step}sample.conv", _cube(out, width))
        attention = under("norm", norm(1024, bias=True))
        for name in ("q", "k", "v", "proj_out"):
            attention |= under(name, _cube(1024, 1024, 1))
        made |= under(f"{side}.mid.attn_1", attention)
        made |= under(f"{side}.mid.block_1", block(1024)) | under(f"{side}.mid.block_2", block(1024))
        made |= under(f"{side}.norm_out", norm(levels[-1], bias=True))
    made |= under("encoder.conv_in", _cube(128, 3)) | under("encoder.conv_out", _cube(2 * latents, 1024))
    made |= under("decoder.conv_in", _cube(1024, latents)) | under("decoder.conv_out", _cube(3, 128))
    return made


def seedvr2_vae(plain: Shapes) -> Shapes:
    """After models/video_vae_v3 of ByteDance-Seed: names of AutoencoderKL, whose convolutions get a length in
    time, and one more of one pixel behind each step up.

    Args:
        plain: of diffusers' AutoencoderKL of the same widths.
    """
    made: Shapes = {}
    for name, shape in plain.items():
        if len(shape) == 4:
            time = 1 if name == "encoder.down_blocks.0.downsamplers.0.conv.weight" else shape[-1]
            shape = [*shape[:2], time, *shape[2:]]
        made[name] = shape
    for level, (width, folded) in enumerate(((512, 8), (512, 8), (256, 4))):
        module = f"decoder.up_blocks.{level}.upsamplers.0.upscale_conv"
        made |= under(module, _cube(width * folded, width, 1))
    return made


def instantiated() -> Iterable[tuple[str, Model]]:
    """Each as diffusers spells it, and as its authors, or ComfyUI, do. Nothing of them is quantized."""
    import diffusers
    import torch

    from transcode import catalog

    def alone(family: str, model: str, source: str, tensors: Shapes) -> Model:
        return Model(family, "original", model, source, tensors, set())

    with torch.device("meta"):
        for stem, family, model, module, converter in _converted(diffusers):
            kind = type(module).__name__
            yield (
                f"{stem}_diffusers",
                Model(family, "diffusers", model, f"diffusers: {kind}", shapes_of(module), set()),
            )
            spelling = next(name for name in catalog.family(family).spellings if name != "diffusers")
            besides = STATISTICS if family.startswith(("ltx_vae", "ltx2_diffusion")) else {}
            if family == "minimax_h3_vae":
                besides = {"decoder.mask_token": [1, 1, 2048]}
            tensors = undone(module, family, spelling, converter, besides)
            source = f"diffusers: {kind}; its {converter} makes its names of these"
            yield stem, Model(family, spelling, model, source, tensors, set())
            if family == "autoencoder_kl":
                old = undone(module, family, "old_diffusers", "models/modeling_utils.py")
                source = f"diffusers: {kind}; its models/modeling_utils.py makes its names of these"
                yield f"{stem}_old_diffusers", Model(family, "old_diffusers", model, source, old, set())
        kl = diffusers.AutoencoderKL(
            block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=16,
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
            use_quant_conv=False, use_post_quant_conv=False,
        )  # fmt: skip
        source = "models/video_vae_v3 of ByteDance-Seed/SeedVR"
        yield "seedvr2_vae", alone("seedvr2_vae", "SeedVR2, ema_vae", source, seedvr2_vae(shapes_of(kl)))
        sound = diffusers.AutoencoderKLMiniMaxH3Audio()
        source = "diffusers: AutoencoderKLMiniMaxH3Audio"
        yield "minimax_h3_audio_vae", alone("minimax_h3_audio_vae", "MiniMax-H3", source, shapes_of(sound))
    source = "hunyuan_image_3/autoencoder_kl_3d.py of Tencent-Hunyuan/HunyuanImage-3.0"
    yield (
        "hunyuanimage_3.0_vae",
        alone("hunyuan_image3_vae", "HunyuanImage-3.0", source, hunyuan_image3_vae()),
    )
