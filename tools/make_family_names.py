"""Makes fixtures/families/*.json: names and shapes of published models, and which of them are quantized.

For people who add a family. Needs torch, diffusers and transformers, whose models are instantiated without
memory (the ``meta`` device) to get true names and shapes; architectures that neither has are described here
after their published code. The verdicts come from the rules of the consumer or from the kinds of the modules,
never from ``formats/families``: tests compare the two.

    python tools/make_family_names.py fixtures/families
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

Shapes = dict[str, list[int]]


@dataclass(frozen=True)
class Model:
    """A published model: what it is made of, and what a conversion quantizes of it."""

    family: str
    spelling: str
    model: str
    source: str
    tensors: Shapes
    quantized: set[str]


def linear(out: int, into: int, *, bias: bool = True) -> Shapes:
    """A linear layer."""
    return {"weight": [out, into], **({"bias": [out]} if bias else {})}


def norm(dim: int, *, bias: bool = False) -> Shapes:
    """An affine norm."""
    return {"weight": [dim], **({"bias": [dim]} if bias else {})}


def under(prefix: str, *parts: Shapes) -> Shapes:
    """The same tensors below a module."""
    return {f"{prefix}.{name}": shape for part in parts for name, shape in part.items()}


def each(prefix: str, count: int, make: Callable[[int], Shapes]) -> Shapes:
    """Numbered modules."""
    return {name: shape for i in range(count) for name, shape in under(f"{prefix}.{i}", make(i)).items()}


def by_part(tensors: Shapes, index: int, targets: Iterable[str], ignore: Iterable[str] = ()) -> set[str]:
    """LightX2V's rule: matrices whose dot-part ``index`` is a target; ``ignore`` are whole components."""
    wanted, unwanted = set(targets), set(ignore)
    return {
        name
        for name, shape in tensors.items()
        if len(shape) == 2
        and name.endswith(".weight")
        and len(parts := name.split(".")) > index
        and parts[index] in wanted
        and not unwanted & set(parts)
    }


def linears(module: Any, within: str, never: str = "(?!)") -> set[str]:
    """Weights of the linear layers whose names fit ``within`` and not ``never`` (regular expressions)."""
    import torch

    return {
        f"{name}.weight"
        for name, child in module.named_modules()
        if isinstance(child, torch.nn.Linear) and re.search(within, name) and not re.search(never, name)
    }


# Wan's own names, after wan/modules/model.py, vace_model.py, animate/ of Wan-Video/Wan2.1 and Wan2.2.


def wan_attention(dim: int, *, image: bool = False) -> Shapes:
    made: Shapes = {}
    for name in "qkvo":
        made |= under(name, linear(dim, dim))
    made |= under("norm_q", norm(dim)) | under("norm_k", norm(dim))
    if image:
        made |= under("k_img", linear(dim, dim)) | under("v_img", linear(dim, dim))
        made |= under("norm_k_img", norm(dim))
    return made


def wan_block(dim: int, ffn: int, *, image: bool = False) -> Shapes:
    return {
        **under("self_attn", wan_attention(dim)),
        **under("cross_attn", wan_attention(dim, image=image)),
        **under("norm3", norm(dim, bias=True)),
        **under("ffn.0", linear(ffn, dim)),
        **under("ffn.2", linear(dim, ffn)),
        "modulation": [1, 6, dim],
    }


def wan(
    dim: int, ffn: int, layers: int, *, channels: int = 16, out: int = 16, image: bool = False,
    frames: int = 0, vace: int = 0,
) -> Shapes:  # fmt: skip
    made: Shapes = {
        **under("patch_embedding", {"weight": [dim, channels, 1, 2, 2], "bias": [dim]}),
        **under("text_embedding.0", linear(dim, 4096)),
        **under("text_embedding.2", linear(dim, dim)),
        **under("time_embedding.0", linear(dim, 256)),
        **under("time_embedding.2", linear(dim, dim)),
        **under("time_projection.1", linear(6 * dim, dim)),
        **each("blocks", layers, lambda i: wan_block(dim, ffn, image=image)),
        **under("head.head", linear(4 * out, dim)),
        "head.modulation": [1, 2, dim],
    }
    if image:
        made |= under("img_emb.proj.0", norm(1280, bias=True)) | under("img_emb.proj.1", linear(1280, 1280))
        made |= under("img_emb.proj.3", linear(dim, 1280)) | under("img_emb.proj.4", norm(dim, bias=True))
    if frames:
        made["img_emb.emb_pos"] = [1, 257 * frames, 1280]
    if vace:
        made |= under("vace_patch_embedding", {"weight": [dim, 96, 1, 2, 2], "bias": [dim]})
        made |= each(
            "vace_blocks",
            vace,
            lambda i: {
                **wan_block(dim, ffn),
                **(under("before_proj", linear(dim, dim)) if i == 0 else {}),
                **under("after_proj", linear(dim, dim)),
            },
        )
    return made


def wan_animate() -> Shapes:
    dim = 5120
    made = wan(dim, 13824, 40, channels=36, image=True)
    made |= under("pose_patch_embedding", {"weight": [dim, 16, 1, 2, 2], "bias": [dim]})
    made |= each(
        "face_adapter.fuser_blocks",
        8,
        lambda i: {
            **under("linear1_kv", linear(2 * dim, dim)),
            **under("linear1_q", linear(dim, dim)),
            **under("linear2", linear(dim, dim)),
            **under("q_norm", norm(128)),
            **under("k_norm", norm(128)),
        },
    )
    made |= under("face_encoder.conv1_local.conv", {"weight": [4096, 512, 3], "bias": [4096]})
    made |= under("face_encoder.conv2.conv", {"weight": [1024, 1024, 3], "bias": [1024]})
    made |= under("face_encoder.conv3.conv", {"weight": [1024, 1024, 3], "bias": [1024]})
    made |= under("face_encoder.out_proj", linear(dim, 1024)) | {
        "face_encoder.padding_tokens": [1, 1, 1, dim]
    }
    made |= each("motion_encoder.enc.fc", 5, lambda i: linear(20 if i == 4 else 512, 512))
    made |= {"motion_encoder.enc.net_app.convs.0.0.weight": [32, 3, 1, 1]}
    made |= {"motion_encoder.enc.net_app.convs.0.1.bias": [1, 32, 1, 1]}
    made |= {"motion_encoder.enc.net_app.convs.8.weight": [512, 512, 4, 4]}
    return made | {"motion_encoder.dec.direction.weight": [512, 20]}


def wan_t5() -> Shapes:
    dim, ffn = 4096, 10240
    return {
        "token_embedding.weight": [256384, dim],
        **each(
            "blocks",
            24,
            lambda i: {
                **under("norm1", norm(dim)),
                **under("attn", *(under(name, linear(dim, dim, bias=False)) for name in "qkvo")),
                **under("norm2", norm(dim)),
                **under("ffn.gate.0", linear(ffn, dim, bias=False)),
                **under("ffn.fc1", linear(ffn, dim, bias=False)),
                **under("ffn.fc2", linear(dim, ffn, bias=False)),
                "pos_embedding.embedding.weight": [32, 64],
            },
        ),
        **under("norm", norm(dim)),
    }


def wan_clip() -> Shapes:
    dim, text = 1280, 1024
    visual: Shapes = {
        "patch_embedding.weight": [dim, 3, 14, 14],
        "cls_embedding": [1, 1, dim],
        "pos_embedding": [1, 257, dim],
        **under("pre_norm", norm(dim, bias=True)),
        **each(
            "transformer",
            32,
            lambda i: {
                **under("norm1", norm(dim, bias=True)),
                **under("attn.to_qkv", linear(3 * dim, dim)),
                **under("attn.proj", linear(dim, dim)),
                **under("norm2", norm(dim, bias=True)),
                **under("mlp.0", linear(4 * dim, dim)),
                **under("mlp.2", linear(dim, 4 * dim)),
            },
        ),
        **under("post_norm", norm(dim, bias=True)),
        "head": [dim, 1024],
    }
    textual: Shapes = {
        "token_embedding.weight": [250002, text],
        "type_embedding.weight": [1, text],
        "pos_embedding.weight": [514, text],
        **each(
            "blocks",
            24,
            lambda i: {
                **under("attn", *(under(name, linear(text, text)) for name in "qkvo")),
                **under("norm1", norm(text, bias=True)),
                **under("ffn.0", linear(4 * text, text)),
                **under("ffn.2", linear(text, 4 * text)),
                **under("norm2", norm(text, bias=True)),
            },
        ),
        **under("norm", norm(text, bias=True)),
        "head.0.weight": [1024, text],
        "head.2.weight": [1024, 1024],
    }
    return {**under("visual", visual), **under("textual", textual), "log_scale": []}


# HunyuanVideo-1.5's own names, after hunyuanvideo_1_5_transformer.py of hyvideo and LightX2V's
# weights of it; HunyuanVideo's, whose q, k, v are one matrix and which has single blocks, after its release.


def hunyuan(dim: int, double: int, single: int = 0) -> Shapes:
    fused = single > 0
    head = dim // 24 if fused else 128

    def stream(side: str) -> Shapes:
        made = under(f"{side}_mod.linear", linear(6 * dim, dim))
        if fused:
            made |= under(f"{side}_attn_qkv", linear(3 * dim, dim))
        else:
            for name in "qkv":
                made |= under(f"{side}_attn_{name}", linear(dim, dim))
        made |= under(f"{side}_attn_q_norm", norm(head)) | under(f"{side}_attn_k_norm", norm(head))
        made |= under(f"{side}_attn_proj", linear(dim, dim))
        return (
            made
            | under(f"{side}_mlp.fc1", linear(4 * dim, dim))
            | under(f"{side}_mlp.fc2", linear(dim, 4 * dim))
        )

    made: Shapes = {
        **under("img_in.proj", {"weight": [dim, 16 if fused else 65, 1, *([2, 2] if fused else [1, 1])]}),
        "img_in.proj.bias": [dim],
        **under("time_in.mlp.0", linear(dim, 256)),
        **under("time_in.mlp.2", linear(dim, dim)),
        **under("txt_in.input_embedder", linear(dim, 4096 if fused else 3584)),
        **under("txt_in.t_embedder.mlp.0", linear(dim, 256)),
        **under("txt_in.t_embedder.mlp.2", linear(dim, dim)),
        **under("txt_in.c_embedder.linear_1", linear(dim, 4096 if fused else 3584)),
        **under("txt_in.c_embedder.linear_2", linear(dim, dim)),
        **each(
            "txt_in.individual_token_refiner.blocks",
            2,
            lambda i: {
                **under("norm1", norm(dim, bias=True)),
                **under("self_attn_qkv", linear(3 * dim, dim)),
                **under("self_attn_proj", linear(dim, dim)),
                **under("norm2", norm(dim, bias=True)),
                **under("mlp.fc1", linear(4 * dim, dim)),
                **under("mlp.fc2", linear(dim, 4 * dim)),
                **under("adaLN_modulation.1", linear(2 * dim, dim)),
            },
        ),
        **each("double_blocks", double, lambda i: stream("img") | stream("txt")),
        **each(
            "single_blocks",
            single,
            lambda i: {
                **under("linear1", linear(7 * dim, dim)),
                **under("linear2", linear(dim, 5 * dim)),
                **under("q_norm", norm(head)),
                **under("k_norm", norm(head)),
                **under("modulation.linear", linear(3 * dim, dim)),
            },
        ),
        **under("final_layer.linear", linear(64 if fused else 32, dim)),
        **under("final_layer.adaLN_modulation.1", linear(2 * dim, dim)),
    }
    if fused:
        made |= under("vector_in.in_layer", linear(dim, 768)) | under("vector_in.out_layer", linear(dim, dim))
        made |= under("guidance_in.mlp.0", linear(dim, 256)) | under("guidance_in.mlp.2", linear(dim, dim))
    else:
        made["cond_type_embedding.weight"] = [3, dim]
        made |= under("byt5_in.layernorm", norm(1472, bias=True))
        for name, into in (("fc1", 1472), ("fc2", dim), ("fc3", dim)):
            made |= under(f"byt5_in.{name}", linear(dim, into))
        made |= under("vision_in.proj.0", norm(1152, bias=True)) | under(
            "vision_in.proj.4", norm(dim, bias=True)
        )
        made |= under("vision_in.proj.1", linear(1152, 1152)) | under("vision_in.proj.3", linear(dim, 1152))
    return made


def flux(channels: int = 64, *, guidance: bool = True) -> Shapes:
    """Flux's own names, after src/flux/model.py, modules/layers.py and util.py of black-forest-labs/flux."""
    dim = 3072

    def embedder(into: int) -> Shapes:
        return under("in_layer", linear(dim, into)) | under("out_layer", linear(dim, dim))

    def stream(side: str) -> Shapes:
        return {
            **under(f"{side}_mod.lin", linear(6 * dim, dim)),
            **under(f"{side}_attn.qkv", linear(3 * dim, dim)),
            f"{side}_attn.norm.query_norm.scale": [128],
            f"{side}_attn.norm.key_norm.scale": [128],
            **under(f"{side}_attn.proj", linear(dim, dim)),
            **under(f"{side}_mlp.0", linear(4 * dim, dim)),
            **under(f"{side}_mlp.2", linear(dim, 4 * dim)),
        }

    return {
        **under("img_in", linear(dim, channels)),
        **under("txt_in", linear(dim, 4096)),
        **under("time_in", embedder(256)),
        **under("vector_in", embedder(768)),
        **(under("guidance_in", embedder(256)) if guidance else {}),
        **each("double_blocks", 19, lambda i: stream("img") | stream("txt")),
        **each(
            "single_blocks",
            38,
            lambda i: {
                **under("linear1", linear(7 * dim, dim)),
                **under("linear2", linear(dim, 5 * dim)),
                "norm.query_norm.scale": [128],
                "norm.key_norm.scale": [128],
                **under("modulation.lin", linear(3 * dim, dim)),
            },
        ),
        **under("final_layer.linear", linear(64, dim)),
        **under("final_layer.adaLN_modulation.1", linear(2 * dim, dim)),
    }


def llama_original() -> Shapes:
    """Llama's own names, after llama/model.py of meta-llama/llama3, sizes of the 8B."""
    dim = 4096
    block: Shapes = {
        **under("attention.wq", linear(dim, dim, bias=False)),
        **under("attention.wk", linear(1024, dim, bias=False)),
        **under("attention.wv", linear(1024, dim, bias=False)),
        **under("attention.wo", linear(dim, dim, bias=False)),
        **under("feed_forward.w1", linear(14336, dim, bias=False)),
        **under("feed_forward.w2", linear(dim, 14336, bias=False)),
        **under("feed_forward.w3", linear(14336, dim, bias=False)),
        **under("attention_norm", norm(dim)),
        **under("ffn_norm", norm(dim)),
    }
    return {
        "tok_embeddings.weight": [128256, dim],
        **each("layers", 32, lambda i: block),
        **under("norm", norm(dim)),
        "output.weight": [128256, dim],
    }


def described() -> Iterable[tuple[str, Model]]:
    """Models after their published code."""
    at, ffn = ("self_attn", "cross_attn", "ffn"), 13824
    rule = "wan/modules/model.py of Wan-Video/Wan2.1"
    variants = {
        "wan2.1_t2v_1.3b": ("Wan2.1-T2V-1.3B", wan(1536, 8960, 30)),
        "wan2.1_t2v_14b": ("Wan2.1-T2V-14B", wan(5120, ffn, 40)),
        "wan2.1_i2v_14b": ("Wan2.1-I2V-14B", wan(5120, ffn, 40, channels=36, image=True)),
        "wan2.1_flf2v_14b": ("Wan2.1-FLF2V-14B", wan(5120, ffn, 40, channels=36, image=True, frames=2)),
        "wan2.1_vace_14b": ("Wan2.1-VACE-14B", wan(5120, ffn, 40, vace=8)),
        "wan2.2_ti2v_5b": ("Wan2.2-TI2V-5B", wan(3072, 14336, 30, channels=48, out=48)),
        "wan2.2_i2v_a14b": ("Wan2.2-I2V-A14B, either of its two", wan(5120, ffn, 40, channels=36)),
    }
    for stem, (model, tensors) in variants.items():
        yield stem, Model("wan_dit", "lightx2v", model, rule, tensors, by_part(tensors, 2, at))
    tensors = wan_animate()
    yield (
        "wan2.2_animate_14b",
        Model("wan_animate_dit", "lightx2v", "Wan2.2-Animate-14B", "wan/modules/animate of Wan-Video/Wan2.2",
              tensors, by_part(tensors, 2, at)),
    )  # fmt: skip
    tensors = under("model", wan(1536, 8960, 30))
    yield (
        "self_forcing_dmd",
        Model("self_forcing", "lightx2v", "self_forcing_dmd", f"{rule}, below model. of generator_ema",
              tensors, by_part(tensors, 3, at)),
    )  # fmt: skip
    tensors = wan_t5()
    yield (
        "umt5_xxl_enc",
        Model("wan_t5", "lightx2v", "models_t5_umt5-xxl-enc-bf16", "wan/modules/t5.py of Wan-Video/Wan2.1",
              tensors, by_part(tensors, 2, ("attn", "ffn"))),
    )  # fmt: skip
    tensors = wan_clip()
    yield (
        "wan_clip_vit_h_14",
        Model("wan_clip", "lightx2v", "models_clip_open-clip-xlm-roberta-large-vit-huge-14",
              "wan/modules/clip.py of Wan-Video/Wan2.1", tensors,
              by_part(tensors, 3, ("attn", "mlp"), ("textual",))),
    )  # fmt: skip
    sides = [f"{side}_{name}" for side in ("img", "txt") for name in ("mod", "attn_proj", "mlp")]
    split = [f"{side}_attn_{name}" for side in ("img", "txt") for name in "qkv"]
    tensors = hunyuan(2048, 54)
    yield (
        "hunyuanvideo_1.5",
        Model("hunyuan_dit", "lightx2v", "HunyuanVideo-1.5", "hyvideo of Tencent-Hunyuan/HunyuanVideo-1.5",
              tensors, by_part(tensors, 2, [*sides, *split])),
    )  # fmt: skip
    tensors = hunyuan(3072, 20, 40)
    joined = ["img_attn_qkv", "txt_attn_qkv", "linear1", "linear2", "modulation"]
    yield (
        "hunyuanvideo_1.0",
        Model("hunyuan_dit", "original", "HunyuanVideo", "hyvideo of Tencent-Hunyuan/HunyuanVideo",
              tensors, by_part(tensors, 2, [*sides, *joined])),
    )  # fmt: skip
    layers = ["img_attn", "txt_attn", "img_mlp", "txt_mlp", "linear1", "linear2"]
    for name, tensors in (("dev", flux()), ("schnell", flux(guidance=False)), ("Fill-dev", flux(384))):
        yield (
            f"flux.1_{name.split('-')[0].lower()}",
            Model("flux", "original", f"FLUX.1-{name}", "src/flux of black-forest-labs/flux", tensors,
                  by_part(tensors, 2, layers)),
        )  # fmt: skip
    tensors = llama_original()
    yield (
        "llama_3_8b_original",
        Model("decoder_llm", "original", "Meta-Llama-3-8B", "llama/model.py of meta-llama/llama3", tensors,
              by_part(tensors, 2, ("attention", "feed_forward"))),
    )  # fmt: skip


def shapes_of(module: Any) -> Shapes:
    return {name: list(tensor.shape) for name, tensor in module.state_dict().items()}


def z_image_original(module: Any) -> Model:
    """Z-Image's own names: what Diffusers' convert_z_image_transformer_checkpoint_to_diffusers undoes."""
    tensors: Shapes = {}
    for name, shape in shapes_of(module).items():
        name = name.replace("attention.to_out.0", "attention.out").replace("norm_q", "q_norm")
        name = name.replace("norm_k", "k_norm").replace("all_x_embedder.2-1", "x_embedder")
        name = name.replace("all_final_layer.2-1", "final_layer")
        if name.endswith("attention.to_q.weight"):
            tensors[name.replace("to_q", "qkv")] = [3 * shape[0], *shape[1:]]
        elif not name.endswith(("attention.to_k.weight", "attention.to_v.weight")):
            tensors[name] = shape
    blocks = ("layers.", "noise_refiner.", "context_refiner.")
    quantized = {
        name for name, shape in tensors.items()
        if name.startswith(blocks) and name.endswith(".weight") and len(shape) == 2
    }  # fmt: skip
    source = "diffusers: ZImageTransformer2DModel, its single-file conversion undone"
    return Model("z_image_dit", "original", "Z-Image-Turbo (ComfyUI)", source, tensors, quantized)


def ltx_original(module: Any) -> Shapes:
    """LTX-Video's own names: what Diffusers' convert_ltx_transformer_checkpoint_to_diffusers undoes."""
    again = (("proj_in.", "patchify_proj."), ("time_embed.", "adaln_single."))
    tensors = {}
    for name, shape in shapes_of(module).items():
        for after, before in again:
            name = before + name.removeprefix(after) if name.startswith(after) else name
        tensors[name.replace("norm_q", "q_norm").replace("norm_k", "k_norm")] = shape
    return tensors


def sd3_original(dim: int, heads: int, blocks: int, dual: int, side_of_grid: int) -> Shapes:
    """SD3.5's own names, after mmditx.py of Stability-AI/sd3.5."""

    def side(last: bool, *, second: bool = False, context: bool = False) -> Shapes:
        parts = {
            **under("attn.qkv", linear(3 * dim, dim)),
            "attn.ln_q.weight": [dim // heads],
            "attn.ln_k.weight": [dim // heads],
            **under("adaLN_modulation.1", linear((2 if last and context else 9 if second else 6) * dim, dim)),
        }
        if not (last and context):
            parts |= under("attn.proj", linear(dim, dim))
            parts |= under("mlp.fc1", linear(4 * dim, dim)) | under("mlp.fc2", linear(dim, 4 * dim))
        if second:
            parts |= under("attn2.qkv", linear(3 * dim, dim)) | under("attn2.proj", linear(dim, dim))
            parts |= {"attn2.ln_q.weight": [dim // heads], "attn2.ln_k.weight": [dim // heads]}
        return parts

    def block(i: int) -> Shapes:
        last = i == blocks - 1
        return under("x_block", side(last, second=i < dual)) | under(
            "context_block", side(last, context=True)
        )

    def embedder(into: int) -> Shapes:
        return under("mlp.0", linear(dim, into)) | under("mlp.2", linear(dim, dim))

    return {
        "pos_embed": [1, side_of_grid**2, dim],
        "x_embedder.proj.weight": [dim, 16, 2, 2],
        "x_embedder.proj.bias": [dim],
        **under("t_embedder", embedder(256)),
        **under("y_embedder", embedder(2048)),
        **under("context_embedder", linear(dim, 4096)),
        **each("joint_blocks", blocks, block),
        **under("final_layer.linear", linear(64, dim)),
        **under("final_layer.adaLN_modulation.1", linear(2 * dim, dim)),
    }


def instantiated() -> Iterable[tuple[str, Model]]:
    """Models of diffusers and transformers."""
    import diffusers
    import torch
    import transformers

    def model(family: str, spelling: str, name: str, module: Any, within: str, never: str = "(?!)") -> Model:
        kind = type(module)
        source = f"{kind.__module__.partition('.')[0]}: {kind.__name__}"
        return Model(family, spelling, name, source, shapes_of(module), linears(module, within, never))

    def wan_diffusers(dim: int, ffn: int, layers: int, **more: Any) -> Any:
        return diffusers.WanTransformer3DModel(
            num_attention_heads=dim // 128, ffn_dim=ffn, num_layers=layers, **more
        )

    image = {"in_channels": 36, "image_dim": 1280, "added_kv_proj_dim": 5120}
    blocks = r"^(vace_)?blocks\.\d+\.(attn1|attn2|ffn)\."
    with torch.device("meta"):
        wans = {
            "wan2.1_t2v_1.3b": ("Wan2.1-T2V-1.3B", wan_diffusers(1536, 8960, 30)),
            "wan2.1_t2v_14b": ("Wan2.1-T2V-14B", wan_diffusers(5120, 13824, 40)),
            "wan2.1_i2v_14b": ("Wan2.1-I2V-14B", wan_diffusers(5120, 13824, 40, **image)),
            "wan2.1_flf2v_14b": (
                "Wan2.1-FLF2V-14B",
                wan_diffusers(5120, 13824, 40, **image, pos_embed_seq_len=514),
            ),
            "wan2.1_vace_14b": (
                "Wan2.1-VACE-14B",
                diffusers.WanVACETransformer3DModel(vace_layers=list(range(0, 40, 5))),
            ),
            "wan2.2_ti2v_5b": (
                "Wan2.2-TI2V-5B",
                wan_diffusers(3072, 14336, 30, in_channels=48, out_channels=48),
            ),
            "wan2.2_i2v_a14b": ("Wan2.2-I2V-A14B", wan_diffusers(5120, 13824, 40, in_channels=36)),
        }
        for stem, (name, module) in wans.items():
            yield f"{stem}_diffusers", model("wan_dit", "diffusers", f"{name}-Diffusers", module, blocks)
        yield (
            "wan2.2_animate_14b_diffusers",
            model("wan_animate_dit", "diffusers", "Wan2.2-Animate-14B-Diffusers",
                  diffusers.WanAnimateTransformer3DModel(), blocks),
        )  # fmt: skip
        yield (
            "hunyuanvideo_1.0_diffusers",
            model("hunyuan_dit", "diffusers", "HunyuanVideo-Diffusers",
                  diffusers.HunyuanVideoTransformer3DModel(), r"^(single_)?transformer_blocks\."),
        )  # fmt: skip
        yield (
            "hunyuanvideo_1.5_diffusers",
            model("hunyuan_dit", "diffusers", "HunyuanVideo-1.5-Diffusers",
                  diffusers.HunyuanVideo15Transformer3DModel(), r"^transformer_blocks\."),
        )  # fmt: skip
        yield (
            "qwen_image",
            model("qwen_image_dit", "diffusers", "Qwen-Image", diffusers.QwenImageTransformer2DModel(),
                  r"^transformer_blocks\."),
        )  # fmt: skip
        yield (
            "z_image_turbo",
            model("z_image_dit", "diffusers", "Z-Image-Turbo", diffusers.ZImageTransformer2DModel(),
                  r"^(layers|noise_refiner|context_refiner|all_final_layer)\."),
        )  # fmt: skip
        yield "z_image_turbo_original", z_image_original(diffusers.ZImageTransformer2DModel())
        layered = diffusers.QwenImageTransformer2DModel(
            use_additional_t_cond=True, use_layer3d_rope=True, zero_cond_t=True
        )
        yield (
            "qwen_image_layered",
            model("qwen_image_dit", "diffusers", "Qwen-Image-Layered", layered, r"^transformer_blocks\."),
        )
        omni = diffusers.ZImageTransformer2DModel(siglip_feat_dim=1152)
        yield (
            "z_image_omni",
            model("z_image_dit", "diffusers", "Z-Image-Omni-Base", omni,
                  r"^(layers|noise_refiner|context_refiner|siglip_refiner|all_final_layer)\."),
        )  # fmt: skip
        ltx = diffusers.LTXVideoTransformer3DModel()
        blocks_alone = r"^transformer_blocks\."
        yield "ltx_video_diffusers", model("ltx_video", "diffusers", "LTX-Video", ltx, blocks_alone)
        tensors = ltx_original(ltx)
        source = "diffusers: LTXVideoTransformer3DModel, its single-file conversion undone"
        quantized = by_part(tensors, 2, ("attn1", "attn2", "ff"))
        yield "ltx_video", Model("ltx_video", "original", "LTX-Video", source, tensors, quantized)
        for name, deep, dual in (("medium", 24, 13), ("large", 38, 0)):
            made = diffusers.SD3Transformer2DModel(
                num_layers=deep, num_attention_heads=deep, caption_projection_dim=64 * deep,
                pos_embed_max_size=384 if dual else 192, dual_attention_layers=tuple(range(dual)),
                qk_norm="rms_norm",
            )  # fmt: skip
            title = f"stable-diffusion-3.5-{name}"
            yield (
                f"sd3.5_{name}_diffusers",
                model("sd3", "diffusers", title, made, blocks_alone, r"\.norm[^.]*\.linear$"),
            )
            tensors = sd3_original(64 * deep, deep, deep, dual, 384 if dual else 192)
            quantized = by_part(tensors, 3, ("attn", "attn2", "mlp"))
            source = "mmditx.py of Stability-AI/sd3.5"
            yield f"sd3.5_{name}", Model("sd3", "original", title, source, tensors, quantized)
        yield (
            "minimax_h3",
            model("h3", "diffusers", "MiniMax-H3", diffusers.MiniMaxH3Transformer3DModel(),
                  r"^transformer_blocks\."),
        )  # fmt: skip
        fluxes: dict[str, dict[str, Any]] = {
            "dev": {"guidance_embeds": True},
            "schnell": {},
            "Fill-dev": {"guidance_embeds": True, "in_channels": 384, "out_channels": 64},
        }
        for name, sizes in fluxes.items():
            yield (
                f"flux.1_{name.split('-')[0].lower()}_diffusers",
                model("flux", "diffusers", f"FLUX.1-{name}", diffusers.FluxTransformer2DModel(**sizes),
                      r"^(single_)?transformer_blocks\.", r"\.norm[^.]*\.linear$"),
            )  # fmt: skip
        text = {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
                "num_attention_heads": 28, "num_key_value_heads": 4}  # fmt: skip
        module = transformers.Qwen2_5_VLForConditionalGeneration(
            transformers.Qwen2_5_VLConfig(text_config=text, vision_config={"out_hidden_size": 3584})
        )
        tensors = shapes_of(module)
        layers = linears(module, r"language_model\.layers\.")
        yield (
            "qwen2.5_vl_7b",
            Model("qwen25vl_llm", "transformers", "Qwen2.5-VL-7B-Instruct",
                  "transformers: Qwen2_5_VLForConditionalGeneration", tensors, layers),
        )  # fmt: skip
        # The published files keep the names of the first release: model.layers and visual at the top.
        old = {}
        for name in tensors:
            start = "model." if "language_model" in name else ""
            old[name] = re.sub(r"^model\.(language_model\.)?", start, name)
        yield (
            "qwen2.5_vl_7b_published",
            Model("qwen25vl_llm", "published", "Qwen2.5-VL-7B-Instruct",
                  "transformers: Qwen2_5_VLForConditionalGeneration, names as published",
                  {old[name]: shape for name, shape in tensors.items()}, {old[name] for name in layers}),
        )  # fmt: skip
        llms = {
            "llama_3_8b": ("Meta-Llama-3-8B", transformers.LlamaConfig(
                vocab_size=128256, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32,
                num_attention_heads=32, num_key_value_heads=8)),
            "qwen3_8b": ("Qwen3-8B", transformers.Qwen3Config(
                vocab_size=151936, hidden_size=4096, intermediate_size=12288, num_hidden_layers=36,
                num_attention_heads=32, num_key_value_heads=8, head_dim=128)),
        }  # fmt: skip
        for stem, (name, config) in llms.items():
            module = transformers.AutoModelForCausalLM.from_config(config)
            yield stem, model("decoder_llm", "transformers", name, module, r"^model\.layers\.")
        yield from published_decoders(model)
        config = transformers.Qwen3MoeConfig(num_hidden_layers=2, num_experts=8)
        module = transformers.AutoModelForCausalLM.from_config(config)
        stacked = {
            name for name, shape in shapes_of(module).items() if ".experts." in name and len(shape) == 3
        }
        made = model("decoder_llm", "stacked", "Qwen3-MoE, 2 layers of 8 experts, stacked", module,
                     r"^model\.layers\.", r"mlp\.gate$")  # fmt: skip
        yield "qwen3_moe_stacked", replace(made, quantized=made.quantized | stacked)
        # As published, each expert has three matrices of its own.
        tensors = {name: shape for name, shape in made.tensors.items() if name not in stacked}
        split = set()
        for layer in range(2):
            for expert in range(8):
                for part, shape in (("gate", [768, 2048]), ("up", [768, 2048]), ("down", [2048, 768])):
                    split.add(f"model.layers.{layer}.mlp.experts.{expert}.{part}_proj.weight")
                    tensors[f"model.layers.{layer}.mlp.experts.{expert}.{part}_proj.weight"] = shape
        yield (
            "qwen3_moe_published",
            Model("decoder_llm", "transformers", "Qwen3-MoE, 2 layers of 8 experts", made.source, tensors,
                  made.quantized | split),
        )  # fmt: skip


def published_decoders(model: Callable[..., Model]) -> Iterable[tuple[str, Model]]:
    """Further decoders under the names that files have: experts of a layer apart, but those of gpt-oss."""
    import transformers

    small = {"num_hidden_layers": 2}
    decoders = {
        "mixtral": ("Mixtral, 2 layers", transformers.MixtralConfig(**small), r"\.gate$"),
        "gemma_3_1b": ("gemma-3-1b, 2 layers", transformers.Gemma3TextConfig(**small), "(?!)"),
        "phi_3": ("Phi-3, 2 layers", transformers.Phi3Config(**small), "(?!)"),
        "deepseek_v3": (
            "DeepSeek-V3, 2 layers of 8 experts",
            transformers.DeepseekV3Config(first_k_dense_replace=1, n_routed_experts=8, **small),
            r"\.gate$",
        ),
        "glm_4.5": (
            "GLM-4.5, 2 layers of 8 experts",
            transformers.Glm4MoeConfig(first_k_dense_replace=1, n_routed_experts=8, **small),
            r"\.gate$",
        ),
        "gpt_oss": ("gpt-oss, 2 layers of 8 experts",
                    transformers.GptOssConfig(num_local_experts=8, **small), r"\.router$"),
    }  # fmt: skip
    for stem, (name, config, never) in decoders.items():
        module = transformers.AutoModelForCausalLM.from_config(config)
        made = model("decoder_llm", "transformers", name, module, r"^model\.layers\.", never)
        tensors, quantized = {}, set(made.quantized)
        for key, shape in made.tensors.items():
            stack = re.fullmatch(r"(.*\.)mlp\.experts\.(gate_up|down)_proj", key)
            if stack is None or stem == "gpt_oss":
                tensors[key] = shape
                if stack is not None:
                    quantized.add(key)
                continue
            count, rows, columns = shape
            mixtral = {"gate_up": ("w1", "w3"), "down": ("w2",)}
            usual = {"gate_up": ("gate_proj", "up_proj"), "down": ("down_proj",)}
            parts = (mixtral if stem == "mixtral" else usual)[stack[2]]
            within = "block_sparse_moe" if stem == "mixtral" else "mlp"
            for expert in range(count):
                for part in parts:
                    one = f"{stack[1]}{within}.experts.{expert}.{part}.weight"
                    tensors[one] = [rows // len(parts), columns]
                    quantized.add(one)
        if stem == "mixtral":
            tensors = {
                key.replace(".mlp.gate.", ".block_sparse_moe.gate."): one for key, one in tensors.items()
            }
        made = replace(made, tensors=tensors, quantized=quantized & tensors.keys())
        yield stem, made
        if stem == "gpt_oss":
            yield f"{stem}_listed", with_experts_listed(made, "listed")


def with_experts_listed(made: Model, spelling: str) -> Model:
    """A model whose experts are stacks, transposed, gate and up together, with each of them apart."""
    tensors: dict[str, list[int]] = {}
    quantized = set(made.quantized)
    for key, shape in made.tensors.items():
        stack = re.fullmatch(r"(.*\.experts)\.(gate_up|down)_proj(_bias)?", key)
        if stack is None:
            tensors[key] = shape
            continue
        parts = ("gate", "up") if stack[2] == "gate_up" else ("down",)
        own = [shape[-1] // len(parts), *([] if stack[3] else [shape[1]])]
        for expert in range(shape[0]):
            for part in parts:
                one = f"{stack[1]}.{expert}.{part}_proj.{'bias' if stack[3] else 'weight'}"
                tensors[one] = own
                quantized |= set() if stack[3] else {one}
    name = f"{made.model}, listed"
    return replace(made, spelling=spelling, model=name, tensors=tensors, quantized=quantized & tensors.keys())


STRANGERS = {
    "diffusers": [
        "CogView3PlusTransformer2DModel",
        "CogView4Transformer2DModel", "OvisImageTransformer2DModel",
    ],
    "transformers": ["BertModel", "GPT2LMHeadModel", "SiglipModel", "SiglipTextModel", "ViTModel",
                     "WhisperModel", "XLMRobertaModel"],
}  # fmt: skip


def strangers() -> dict[str, list[str]]:
    """Names of models of no family here, each kind of name once."""
    import importlib

    import torch

    found: dict[str, list[str]] = {}
    for library, names in STRANGERS.items():
        module = importlib.import_module(library)
        for name in names:
            kind = getattr(module, name)
            with torch.device("meta"):
                made = kind(kind.config_class()) if library == "transformers" else kind()
            found[f"{library}: {name}"] = sorted(
                {re.sub(r"(?<![^.])\d{2,}(?![^.])", "9", key) for key in made.state_dict()}
            )
    return found


def spans(numbers: list[int]) -> list[tuple[int, int]]:
    """Ascending numbers as runs, first and last."""
    found: list[tuple[int, int]] = []
    for number in numbers:
        if found and number == found[-1][1] + 1:
            found[-1] = found[-1][0], number
        else:
            found.append((number, number))
    return found


def folded(model: Model) -> dict[str, Any]:
    """JSON of a model, with runs of equal numbered modules written as ``{0..39}``."""
    runs: dict[tuple[str, str, str], list[int]] = {}
    for name, shape in model.tensors.items():
        match = re.search(r"(?<![^.])\d+(?=\.)", name)
        before, number, after = (
            (name[: match.start()], int(match[0]), name[match.end() :]) if match else (name, -1, "")
        )
        facts = json.dumps({"shape": shape, "quantize": name in model.quantized})
        runs.setdefault((before, after, facts), []).append(number)
    tensors: dict[str, Any] = {}
    for (before, after, facts), numbers in runs.items():
        for start, stop in spans(numbers):
            run = "" if start < 0 else str(start) if start == stop else f"{{{start}..{stop}}}"
            tensors[f"{before}{run}{after}"] = json.loads(facts)
    return {
        "family": model.family,
        "spelling": model.spelling,
        "model": model.model,
        "source": model.source,
        "count": len(model.tensors),
        "tensors": tensors,
    }


def dump(data: dict[str, Any]) -> str:
    """One line for each tensor."""
    lines = []
    for key, value in data.items():
        if isinstance(value, dict):
            inner = ",\n".join(
                f"    {json.dumps(name)}: {json.dumps(facts)}" for name, facts in value.items()
            )
            lines.append(f"  {json.dumps(key)}: {{\n{inner}\n  }}")
        else:
            lines.append(f"  {json.dumps(key)}: {json.dumps(value)}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "fixtures/families")
    folder.mkdir(parents=True, exist_ok=True)
    import autoencoder_names
    import control_names
    import language_names
    import published_names
    import single_file_names

    makers = (described, published_names.described, instantiated, single_file_names.instantiated,
              language_names.instantiated, control_names.instantiated,
              autoencoder_names.instantiated)  # fmt: skip
    for make in makers:
        for stem, model in make():
            missing = model.quantized - model.tensors.keys()
            assert not missing, missing
            (folder / f"{stem}.json").write_text(dump(folded(model)))
            print(f"{stem}: {len(model.tensors)} tensors, {len(model.quantized)} quantized")
    (folder / "strangers.json").write_text(json.dumps(strangers(), indent=0) + "\n")


if __name__ == "__main__":
    main()
