"""Names and shapes of models after their published code, which no library has, for ``make_family_names.py``.

The sizes are those of the published configurations. That the names are true was seen with the classes
themselves, built without memory; they are in no package.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from make_family_names import Model, Shapes, by_part, each, linear, norm, under, wan

WAN = ("self_attn", "cross_attn", "ffn")


def conv(out: int, into: int, *kernel: int) -> Shapes:
    """A convolution."""
    return {"weight": [out, into, *kernel], "bias": [out]}


def wan_s2v() -> Shapes:
    """After wan/modules/s2v of Wan-Video/Wan2.2, as wan/configs/wan_s2v_14B.py configures it."""
    dim, heard = 5120, 12
    attention: Shapes = {}
    for name in "qkvo":
        attention |= under(name, linear(dim, dim))
    attention |= under("norm_q", norm(dim)) | under("norm_k", norm(dim))
    encoder: Shapes = {"padding_tokens": [1, 1, 1, dim]}
    encoder |= under("conv1_local.conv", conv(dim, 1024, 3)) | under("conv1_global.conv", conv(1280, 1024, 3))
    encoder |= under("conv2.conv", conv(2560, 1280, 3)) | under("conv3.conv", conv(dim, 2560, 3))
    return {
        **wan(dim, 13824, 40),
        "trainable_cond_mask.weight": [3, dim],
        "casual_audio_encoder.weights": [1, 25, 1, 1],
        **under("casual_audio_encoder.encoder", encoder),
        **under("casual_audio_encoder.encoder.final_linear", linear(dim, dim)),
        **under("cond_encoder", conv(dim, 16, 1, 2, 2)),
        **each("audio_injector.injector", heard, lambda i: attention),
        **each(
            "audio_injector.injector_adain_layers", heard, lambda i: under("linear", linear(2 * dim, dim))
        ),
        **under("frame_packer.proj", conv(dim, 16, 1, 2, 2)),
        **under("frame_packer.proj_2x", conv(dim, 16, 2, 4, 4)),
        **under("frame_packer.proj_4x", conv(dim, 16, 4, 8, 8)),
    }


def wan_fun() -> dict[str, tuple[str, Shapes]]:
    """After videox_fun/models of aigc-apps/VideoX-Fun and comfy/ldm/wan/model.py of ComfyUI."""
    dim = 5120
    control = wan(dim, 13824, 40, channels=48, image=True) | under("ref_conv", conv(dim, 16, 2, 2))
    camera = wan(dim, 13824, 40, channels=36)
    camera |= under("control_adapter.conv", conv(dim, 1536, 2, 2))
    for number in (1, 2):
        camera |= under(f"control_adapter.residual_blocks.0.conv{number}", conv(dim, dim, 3, 3))
    return {
        "wan2.1_fun_control_14b": ("Wan2.1-Fun-V1.1-14B-Control", control),
        "wan2.2_fun_camera_14b": ("Wan2.2-Fun-A14B-Control-Camera", camera),
    }


def wan_humo() -> Shapes:
    """After HumoWanModel of comfy/ldm/wan/model.py of ComfyUI; sizes of HuMo-17B."""
    dim, heard = 5120, 1536
    made = wan(dim, 13824, 40, channels=36)
    attention: Shapes = {}
    for name in "qo":
        attention |= under(name, linear(dim, dim))
    for name in "kv":
        attention |= under(name, linear(dim, heard))
    attention |= under("norm_q", norm(dim)) | under("norm_k", norm(dim))
    made |= each(
        "blocks",
        40,
        lambda i: under(
            "audio_cross_attn_wrapper",
            under("audio_cross_attn", attention) | under("norm1_audio", norm(dim, bias=True)),
        ),
    )
    widths = ((1, 512, 8 * 5 * 1280), (2, 512, 512), (3, 16 * heard, 512))
    for number, out, into in widths:
        made |= under(f"audio_proj.audio_proj_glob_{number}.layer", linear(out, into))
    return made | under("audio_proj.audio_proj_glob_norm.layer", norm(heard, bias=True))


def kimi_k3(experts: int) -> Shapes:
    """The language model of Kimi-K3, four layers of it: linear attention thrice, then the other.

    Names after megatron/bridge/models/kimi of NVIDIA-NeMo/Megatron-Bridge and conversion/kimi_k3.py of
    ggml-org/llama.cpp; sizes of its config.json. The release stores the experts in MXFP4.

    Args:
        experts: of a layer; 896 in the release.
    """
    dim, wide, latent, inner, head = 7168, 96 * 128, 3584, 3072, 128

    def matrices(**shapes: tuple[int, int]) -> Shapes:
        return {f"{name}.weight": [*shape] for name, shape in shapes.items()}

    def gated(gate: str, up: str, down: str, width: int, into: int) -> Shapes:
        return matrices(**{gate: (width, into), up: (width, into), down: (into, width)})

    usual = ("gate_proj", "up_proj", "down_proj")
    linear_attention = {
        **matrices(**{f"{name}_proj": (wide, dim) for name in "qkvg"}, o_proj=(dim, wide)),
        **matrices(f_a_proj=(head, dim), f_b_proj=(wide, head), b_proj=(96, dim)),
        **{f"{name}_conv1d.weight": [wide, 1, 4] for name in "qkv"},
        "A_log": [128], "dt_bias": [wide], "o_norm.weight": [head],
    }  # fmt: skip
    latent_attention = {
        **matrices(q_a_proj=(1536, dim), q_b_proj=(96 * 192, 1536), kv_a_proj_with_mqa=(512 + 64, dim)),
        **matrices(kv_b_proj=(96 * 256, 512), o_proj=(dim, wide), g_proj=(wide, dim)),
        "q_a_layernorm.weight": [1536], "kv_a_layernorm.weight": [512],
    }  # fmt: skip
    mixture = {
        **matrices(gate=(experts, dim), routed_expert_down_proj=(latent, dim)),
        **matrices(routed_expert_up_proj=(dim, latent)),
        "gate.e_score_correction_bias": [experts], "routed_expert_norm.weight": [latent],
        **under("shared_experts", gated(*usual, 2 * inner, dim)),
        **each("experts", experts, lambda i: gated("w1", "w3", "w2", inner, latent)),
    }  # fmt: skip

    def layer(i: int) -> Shapes:
        made = under("self_attn", latent_attention if i == 3 else linear_attention)
        made |= under("mlp", gated(*usual, 33792, dim)) if i == 0 else under("block_sparse_moe", mixture)
        for part in ("self_attention", "mlp"):
            made |= {f"{part}_res_norm.weight": [dim], f"{part}_res_proj.weight": [1, dim]}
        return made | {f"{name}_layernorm.weight": [dim] for name in ("input", "post_attention")}

    model = {
        "embed_tokens.weight": [163840, dim], "norm.weight": [dim], "output_attn_res_norm.weight": [dim],
        "output_attn_res_proj.weight": [1, dim], **each("layers", 4, layer),
    }  # fmt: skip
    return under("language_model.model", model) | {"language_model.lm_head.weight": [163840, dim]}


def seedvr2(dim: int, layers: int, *, apart: int, gated: bool) -> Shapes:
    """After models/dit (7B) and models/dit_v2 (3B) of ByteDance-Seed/SeedVR.

    Args:
        dim: columns of a block.
        layers: how many blocks there are.
        apart: how many of them, from the first on, treat frames and text apart.
        gated: whether feed-forwards have a gate, and no bias.
    """
    inner = 4 * dim if not gated else 256 * -(-(8 * dim // 3) // 256)

    def block(i: int) -> Shapes:
        made: Shapes = {"attn.rope.rope.freqs": [21 if gated else 10]}
        for branch in ("vid", "txt") if i < apart else ("all",):
            made |= under(f"attn.proj_qkv.{branch}", linear(3 * dim, dim, bias=False))
            made |= under(f"attn.proj_out.{branch}", linear(dim, dim))
            made |= {f"attn.norm_{name}.{branch}.weight": [128] for name in "qk"}
            layers = [("proj_in", inner, dim), ("proj_out", dim, inner)]
            for name, out, into in [*layers, *([("proj_in_gate", inner, dim)] if gated else [])]:
                made |= under(f"mlp.{branch}.{name}", linear(out, into, bias=not gated))
            for part in ("attn", "mlp"):
                made |= {f"ada.{branch}.{part}_{name}": [dim] for name in ("shift", "scale", "gate")}
        return made

    made = {
        **under("vid_in.proj", linear(dim, 132)),
        **under("txt_in", linear(dim, 5120)),
        **under("emb_in.proj_in", linear(dim, 256)),
        **under("emb_in.proj_hid", linear(dim, dim)),
        **under("emb_in.proj_out", linear(6 * dim, dim)),
        **each("blocks", layers, block),
        **under("vid_out.proj", linear(64, dim)),
    }
    if gated:
        made |= {"vid_out_norm.weight": [dim], "vid_out_ada.out_shift": [dim], "vid_out_ada.out_scale": [dim]}
    return made


def hunyuan_image3(layers: int, experts: int) -> Shapes:
    """After hunyuan_image_3/hunyuan.py of Tencent-Hunyuan/HunyuanImage-3.0."""
    dim, ffn, hidden = 4096, 3072, 1024

    def embedder() -> Shapes:
        return under("mlp.0", linear(dim, 256)) | under("mlp.2", linear(dim, dim))

    def resnet(into: int, out: int) -> Shapes:
        return {
            **under("in_layers.0", norm(into, bias=True)),
            **under("in_layers.2", conv(out, into, 3, 3)),
            **under("emb_layers.1", linear(2 * out, dim)),
            **under("out_layers.0", norm(out, bias=True)),
            **under("out_layers.3", conv(out, out, 3, 3)),
            **under("skip_connection", conv(out, into, 1, 1)),
        }

    mlp = under("gate_and_up_proj", linear(2 * ffn, dim, bias=False)) | under(
        "down_proj", linear(dim, ffn, bias=False)
    )
    layer: Shapes = {
        **under("input_layernorm", norm(dim)),
        **under("self_attn.qkv_proj", linear(6144, dim, bias=False)),
        **under("self_attn.o_proj", linear(dim, dim, bias=False)),
        **under("self_attn.query_layernorm", norm(128)),
        **under("self_attn.key_layernorm", norm(128)),
        **under("post_attention_layernorm", norm(dim)),
        "mlp.gate.wg.weight": [experts, dim],
        **under("mlp.shared_mlp", mlp),
        **each("mlp.experts", experts, lambda i: mlp),
    }
    return {
        "model.wte.weight": [133120, dim],
        **each("model.layers", layers, lambda i: layer),
        **under("model.ln_f", norm(dim)),
        "lm_head.weight": [133120, dim],
        **under("timestep_emb", embedder()),
        **under("time_embed", embedder()),
        **under("time_embed_2", embedder()),
        **under("patch_embed.model.0", conv(hidden, 32, 3, 3)),
        **under("patch_embed.model.1", resnet(hidden, dim)),
        **under("final_layer.model.0", resnet(dim, hidden)),
        **under("final_layer.model.1.0", norm(hidden, bias=True)),
        **under("final_layer.model.1.2", conv(32, hidden, 3, 3)),
        **under("vision_aligner.layers.0", linear(dim, 1152)),
        **under("vision_aligner.layers.2", linear(dim, dim)),
    }


def described() -> Iterable[tuple[str, Model]]:
    """Each model, its targets by LightX2V's rule or as the linear layers in blocks."""
    tensors = wan_s2v()
    yield (
        "wan2.2_s2v_14b",
        Model("wan_s2v_dit", "lightx2v", "Wan2.2-S2V-14B", "wan/modules/s2v of Wan-Video/Wan2.2", tensors,
              by_part(tensors, 2, WAN, ("audio_injector",))),
    )  # fmt: skip
    tensors = wan_humo()
    yield (
        "wan2.1_humo_17b",
        Model("wan_humo_dit", "original", "HuMo-17B", "ComfyUI: comfy/ldm/wan/model.py, HumoWanModel",
              tensors, by_part(tensors, 2, WAN)),
    )  # fmt: skip
    tensors = kimi_k3(8)
    kept = re.compile(r"(block_sparse_moe\.gate|\.b_proj|_res_proj|norm)\.weight$")
    yield (
        "kimi_k3",
        Model("decoder_llm", "llava", "Kimi-K3, 4 layers of 8 experts, without its vision model",
              "Megatron-Bridge: kimi_k3_bridge.py; llama.cpp: conversion/kimi_k3.py", tensors,
              {name for name, shape in tensors.items()
               if ".layers." in name and len(shape) == 2 and not kept.search(name)}),
    )  # fmt: skip
    for stem, (name, tensors) in wan_fun().items():
        source = "videox_fun/models of aigc-apps/VideoX-Fun"
        yield stem, Model("wan_dit", "lightx2v", name, source, tensors, by_part(tensors, 2, WAN))
    for stem, name, tensors in (
        ("seedvr2_3b", "SeedVR2-3B", seedvr2(2560, 32, apart=10, gated=True)),
        ("seedvr2_7b", "SeedVR2-7B", seedvr2(3072, 36, apart=36, gated=False)),
    ):
        source = "models/dit and models/dit_v2 of ByteDance-Seed/SeedVR"
        yield (
            stem,
            Model(
                "seedvr2",
                "original",
                name,
                source,
                tensors,
                by_part(tensors, 2, ("attn", "mlp"), ("norm_q", "norm_k")),
            ),
        )
    tensors = hunyuan_image3(2, 8)
    yield (
        "hunyuanimage_3.0",
        Model("hunyuan_image3", "original",
              "HunyuanImage-3.0, 2 layers of 8 experts, without VAE and vision model",
              "hunyuan_image_3/hunyuan.py of Tencent-Hunyuan/HunyuanImage-3.0", tensors,
              by_part(tensors, 3, ("self_attn", "mlp"), ("gate",))),
    )  # fmt: skip
