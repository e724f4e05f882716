"""Published models with the names of another with a fixture: built by their class, and held to that one."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

from transcode import catalog

d = pytest.importorskip("diffusers", reason="diffusers is not installed")

Golden = Any  # tests/catalog/conftest.py

BOTH: dict[str, Any] = {"num_layers": 2, "num_single_layers": 2}
VARIANTS: dict[str, tuple[str, Callable[[], Any]]] = {
    "FLUX.1-schnell": ("flux.1_dev_diffusers", partial(d.FluxTransformer2DModel, **BOTH)),
    "FLUX.1-Fill-dev": (
        "flux.1_dev_diffusers",
        partial(d.FluxTransformer2DModel, in_channels=384, out_channels=64, guidance_embeds=True, **BOTH),
    ),
    "FLUX.1-Kontext-dev": (
        "flux.1_dev_diffusers", partial(d.FluxTransformer2DModel, guidance_embeds=True, **BOTH),
    ),
    "FLUX.2-klein-9B": (
        "flux.2_klein_4b_diffusers",
        partial(d.Flux2Transformer2DModel, num_attention_heads=32,
                joint_attention_dim=12288, guidance_embeds=False, **BOTH),
    ),
    "stable-diffusion-2-1": (
        "sd_1.5_diffusers",
        partial(d.UNet2DConditionModel, cross_attention_dim=1024, attention_head_dim=(5, 10, 20, 20),
                use_linear_projection=True),
    ),
    "stable-diffusion-3.5-large": (
        "sd3.5_medium_diffusers",
        partial(d.SD3Transformer2DModel, num_layers=3, num_attention_heads=38, caption_projection_dim=2432,
                pos_embed_max_size=192, qk_norm="rms_norm"),
    ),
    "Qwen-Image-Edit, -Edit-2509": ("qwen_image", partial(d.QwenImageTransformer2DModel, num_layers=2)),
    "Qwen-Image-Edit-2511": (
        "qwen_image", partial(d.QwenImageTransformer2DModel, zero_cond_t=True, num_layers=2),
    ),
    "Z-Image, Z-Image-Edit": ("z_image_turbo", partial(d.ZImageTransformer2DModel)),
    "Wan2.2-T2V-A14B": ("wan2.1_t2v_14b_diffusers", partial(d.WanTransformer3DModel, num_layers=2)),
    "Wan2.2-I2V-A14B": (
        "wan2.1_t2v_14b_diffusers", partial(d.WanTransformer3DModel, in_channels=36, num_layers=2),
    ),
    "Wan2.1-VACE-1.3B": (
        "wan2.1_vace_14b_diffusers",
        partial(d.WanVACETransformer3DModel, num_attention_heads=12, ffn_dim=8960, num_layers=3,
                vace_layers=[0, 2]),
    ),
    "ChronoEdit-14B": (
        "wan2.1_i2v_14b_diffusers",
        partial(d.ChronoEditTransformer3DModel, in_channels=36, image_dim=1280, added_kv_proj_dim=5120,
                num_layers=2),
    ),
    "Kandinsky-5.0-T2V-Pro": (
        "kandinsky_5_lite",
        partial(d.Kandinsky5Transformer3DModel, model_dim=4096, ff_dim=16384, time_dim=1024,
                num_text_blocks=1, num_visual_blocks=2, visual_cond=True, axes_dims=(16, 24, 24)),
    ),
    "CogVideoX-2b": (
        "cogvideox_5b_diffusers",
        partial(d.CogVideoXTransformer3DModel, num_attention_heads=30, num_layers=2),
    ),
    "HunyuanVideo-I2V": (
        "hunyuanvideo_1.0_diffusers",
        partial(d.HunyuanVideoTransformer3DModel, in_channels=33, guidance_embeds=False, **BOTH),
    ),
    "HunyuanVideo, FramePack": (
        "hunyuanvideo_1.0_diffusers", partial(d.HunyuanVideoFramepackTransformer3DModel, **BOTH),
    ),
}  # fmt: skip
"""The fixture that lists names of the same kinds; the class, of the published widths and a few blocks."""


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_is_quantized_as_its_fixture(name: str, read_golden: Callable[[str], Golden]) -> None:
    """Recognised alike, and of each kind of name (all but its numbers) the same verdict."""
    fixture, make = VARIANTS[name]
    golden = read_golden(fixture)
    with torch.device("meta"):
        shapes = {key: tuple(tensor.shape) for key, tensor in make().state_dict().items()}
    found = catalog.detect(list(shapes), shapes)
    assert found is not None
    assert (found.name, found.spelling, found.prefix) == (golden.family, golden.spelling, "")
    expected = kinds(golden.shapes), kinds(golden.quantized)
    assert kinds(shapes) <= expected[0]
    chosen = {key for key, shape in shapes.items() if found.is_target(key, shape)[0]}
    assert chosen == {key for key in shapes if kinds([key]) <= expected[1]}


def kinds(names: Any) -> set[str]:
    """Names without the numbers of their modules."""
    return {re.sub(r"(?<![^.])\d+(?![^.])", "#", name) for name in names}
