"""Names and shapes of text encoders and of language models that see, for ``make_family_names.py``.

Those of published files come from transformers' own way back (``revert_weight_conversion``, which is what
``save_pretrained`` writes), llama.cpp's from the package gguf, OpenCLIP's from ours, held to diffusers' own function.
What is quantized are the layers that vLLM builds as quantized ones, and the experts.
"""

# ruff: noqa: E501  tables of models read better in long lines

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from make_family_names import Model, Shapes, linears, shapes_of, with_experts_listed

LAYERS = [
    "[qkvo]_proj", "q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "wk", "wq_b", "gate_proj", "up_proj",
    "down_proj", "w[123]", "qkv_proj", "gate_up_proj", r"self_attn\.dense", r"mlp\.fc[12]", r"linear_attn\.(in_proj_qkvz|in_proj_qkv|in_proj_z|out_proj)", "[fg]_[ab]_proj",
]  # fmt: skip
QUANTIZED = re.compile(
    rf"^(language_model\.)?model\.(language_model\.)?layers\.\d+\.(.*\.)?({'|'.join(LAYERS)})\.weight$"
)
EXPERTS = re.compile(r"\.experts\.(gate_up|down)_proj$")
MISTRAL = re.compile(r"^layers\.\d+\.(attention\.(indexer\.)?w\w+(?<!weights_proj)|(.*\.)?w[123])\.weight$")
"""The same of Mistral's own names."""

FEW = {"num_hidden_layers": 4, "first_k_dense_replace": 1, "num_experts": 8, "n_routed_experts": 8,
       "num_local_experts": 8}  # fmt: skip
"""Models of all kinds of layers, of two or more each, and of eight experts."""


def few(kind: str, **more: Any) -> Any:
    """The configuration of a model of a few layers and experts, all else as its class takes it."""
    import transformers

    config = transformers.AutoConfig.for_model(kind)
    for one in (config, getattr(config, "text_config", None)):
        for key, value in {**FEW, **more}.items():
            if isinstance(getattr(one, key, None), int):
                setattr(one, key, value)
        for key in ("layer_types", "mlp_layer_types", "indexer_types"):
            if getattr(one, key, None):
                setattr(one, key, list(getattr(one, key))[: FEW["num_hidden_layers"]])
    return config


def published(module: Any) -> Shapes:
    """Names and shapes of the files of a model."""
    from transformers.core_model_loading import revert_weight_conversion

    tensors = revert_weight_conversion(module, module.state_dict())
    return {name: list(tensor.shape) for name, tensor in tensors.items()}


def of_llama(kind: str, layers: int, tensors: Shapes) -> tuple[Shapes, dict[str, str]]:
    """Names and shapes under llama.cpp's names, and those names."""
    import gguf

    table = gguf.get_tensor_name_map(getattr(gguf.MODEL_ARCH, kind), layers)
    names = {name: table.get_name(name, try_suffixes=(".weight",)) for name in tensors}
    return {names[name]: shape for name, shape in tensors.items()}, names


def instantiated() -> Iterable[tuple[str, Model]]:
    """Text encoders, then language models."""
    import torch

    with torch.device("meta"):
        yield from encoders()
        yield from decoders()
        yield from deepseek_v4()


def encoders() -> Iterable[tuple[str, Model]]:
    """T5, umT5, CLIP's, and what CLIP sees with."""
    import transformers

    xxl = {"d_model": 4096, "d_ff": 10240, "d_kv": 64, "num_heads": 64, "num_layers": 24,
           "feed_forward_proj": "gated-gelu"}  # fmt: skip
    for stem, family, name, module in (
        ("t5_xxl", "t5", "t5-v1_1-xxl", transformers.T5EncoderModel(transformers.T5Config(vocab_size=32128, **xxl))),
        ("umt5_xxl", "wan_t5", "umt5-xxl",
         transformers.UMT5EncoderModel(transformers.UMT5Config(vocab_size=256384, **xxl))),
    ):  # fmt: skip
        tensors = {key: shape for key, shape in shapes_of(module).items() if "embed_tokens" not in key}
        quantized = linears(module, r"^encoder\.block\.")
        source = f"transformers: {type(module).__name__}"
        yield stem, Model(family, "transformers", name, source, tensors, quantized)
        renamed, names = of_llama("T5ENCODER", 24, tensors)
        yield (
            f"{stem}_gguf",
            Model(family, "gguf", name, f"{source}; gguf: tensor_mapping", renamed,
                  {names[key] for key in quantized}),
        )  # fmt: skip
    for stem, name, width, layers, heads in (
        ("clip_l", "clip-vit-large-patch14", 768, 12, 12),
        ("clip_g", "CLIP-ViT-bigG-14-laion2B-39B-b160k", 1280, 32, 20),
    ):
        config = transformers.CLIPTextConfig(
            hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers, num_attention_heads=heads,
            projection_dim=width,
        )  # fmt: skip
        alone = transformers.CLIPTextModel(config)
        module = transformers.CLIPTextModelWithProjection(config) if stem == "clip_g" else alone
        tensors = {
            key if "text_" in key else f"text_model.{key}": to for key, to in shapes_of(module).items()
        }
        source = f"transformers: {type(module).__name__}"
        quantized = {f"text_model.{key.removeprefix('text_model.')}" for key in linears(module, r"layers\.")}
        yield stem, Model("clip", "transformers", name, source, tensors, quantized)
        if stem == "clip_l":
            yield (
                f"{stem}_transformers_5",
                Model(
                    "clip", "transformers_5", name, source, shapes_of(alone), linears(alone, r"^encoder\.")
                ),
            )
        else:
            yield f"{stem}_openclip", openclip(name, module)
    config = transformers.CLIPVisionConfig(
        hidden_size=1280, intermediate_size=5120, num_hidden_layers=32, num_attention_heads=16, patch_size=14,
        projection_dim=1024,
    )  # fmt: skip
    module = transformers.CLIPVisionModelWithProjection(config)
    yield (
        "clip_vision_h",
        Model("wan_clip", "transformers", "CLIP-ViT-H-14-laion2B-s32B-b79K, what it sees with",
              "transformers: CLIPVisionModelWithProjection", shapes_of(module), linears(module, r"layers\.")),
    )  # fmt: skip


def openclip(name: str, module: Any) -> Model:
    """A text encoder as OpenCLIP calls it: diffusers' own function must make the class' names and shapes of it."""
    import torch
    from diffusers.loaders.single_file_utils import convert_open_clip_checkpoint

    from transcode import catalog

    direction = catalog.family("clip").spelled("transformers").direction("openclip")
    shapes = shapes_of(module)
    tensors: Shapes = {"logit_scale": []}
    for key, shape in shapes.items():
        hit = direction.find(key)
        assert hit is not None, key
        (other,) = hit.others
        if other in tensors:
            tensors[other][0] += shape[0]
        else:
            tensors[other] = list(shape)
    prefix = "conditioner.embedders.1.model."
    held = {prefix + key: torch.empty(shape, device="meta") for key, shape in tensors.items()}
    made = convert_open_clip_checkpoint(module, held, prefix=prefix)
    assert {key: list(tensor.shape) for key, tensor in made.items()} == shapes
    quantized = {
        key for key in tensors if re.search(r"resblocks\.\d+\.(attn\.out_proj|mlp\.c_\w+)\.weight$", key)
    }
    source = "transformers: CLIPTextModelWithProjection; diffusers' convert_open_clip_checkpoint makes its names of these"
    return Model("clip", "openclip", name, source, tensors, quantized)


def decoders() -> Iterable[tuple[str, Model]]:
    """Language models as published, and two of those that see as their classes call them in memory."""
    import transformers

    def model(stem: str, spelling: str, name: str, source: str, tensors: Shapes) -> tuple[str, Model]:
        rule = MISTRAL if spelling == "original" else QUANTIZED
        quantized = {key for key in tensors if rule.match(key) or EXPERTS.search(key)}
        return stem, Model("decoder_llm", spelling, name, source, tensors, quantized)

    text = "AutoModelForCausalLM"
    sees = "AutoModelForImageTextToText"
    for stem, kind, auto, spelling, name in (
        ("glm_5", "glm_moe_dsa", text, "transformers", "GLM-5"),
        ("deepseek_v3.2", "deepseek_v32", text, "transformers", "DeepSeek-V3.2"),
        ("minimax_m2", "minimax_m2", text, "transformers", "MiniMax-M2"),
        ("minimax_m3", "minimax_m3_vl", sees, "llava", "MiniMax-M3"),
        ("qwen2", "qwen2", text, "transformers", "Qwen2.5"),
        ("qwen2_moe", "qwen2_moe", text, "transformers", "Qwen2-MoE"),
        ("mistral", "mistral", text, "transformers", "Mistral"),
        ("qwen3_next", "qwen3_next", text, "transformers", "Qwen3-Next"),
        ("qwen3.5", "qwen3_5", sees, "multimodal", "Qwen3.5"),
        ("qwen3.5_moe", "qwen3_5_moe", sees, "multimodal", "Qwen3.5-MoE"),
        ("kimi_linear", "kimi_linear", text, "transformers", "Kimi-Linear"),
        ("kimi_k2.5", "kimi_k25", sees, "llava", "Kimi-K2.5"),
        ("llama_4", "llama4", sees, "llava", "Llama-4"),
        ("qwen2_vl", "qwen2_vl", sees, "transformers", "Qwen2-VL"),
        ("qwen3_vl", "qwen3_vl", sees, "multimodal", "Qwen3-VL"),
        ("qwen3_vl_moe", "qwen3_vl_moe", sees, "multimodal", "Qwen3-VL-MoE"),
        ("gemma_3", "gemma3", sees, "llava", "gemma-3"),
        ("gemma_4", "gemma4", sees, "multimodal", "gemma-4"),
        ("mistral_3", "mistral3", sees, "llava", "Mistral-Small-3.1"),
        ("mistral_large_4", "mistral_large4", sees, "original", "Mistral-Large-4"),
        ("glm_4.1v", "glm4v", sees, "multimodal", "GLM-4.1V"),
        ("glm_4.5v", "glm4v_moe", sees, "multimodal", "GLM-4.5V"),
        ("phi_2", "phi", text, "transformers", "phi-2"),
        ("phi_3.5_moe", "phimoe", text, "transformers", "Phi-3.5-MoE"),
        ("phi_4_multimodal", "phi4_multimodal", text, "transformers", "Phi-4-multimodal"),
    ):
        module = getattr(transformers, auto).from_config(few(kind))
        tensors = published(module)
        if kind == "kimi_k25":  # whose way back takes its layers for the blocks of what it sees with
            tensors = {
                re.sub(r"^(language_model.*)\.blocks\.", r"\1.layers.", key): to
                for key, to in tensors.items()
            }
        counts = f"{name}, 4 layers" + (" of 8 experts" if "expert" in "".join(tensors) else "")
        source = f"transformers: {type(module).__name__}"
        yield (made := model(stem, spelling, counts, f"{source}, as it saves them", tensors))
        if stem == "llama_4":
            yield f"{stem}_listed", with_experts_listed(made[1], "listed_llava")
        if stem == "qwen3.5_moe":
            yield model(f"{stem}_memory", "stacked_multimodal", counts, source, shapes_of(module))
        if stem == "deepseek_v3.2":
            yield f"{stem}_inference", of_deepseeks_program(made[1])
        if stem in ("gemma_3", "mistral_3"):
            yield model(f"{stem}_multimodal", "multimodal", counts, source, shapes_of(module))


def deepseek_v4() -> Iterable[tuple[str, Model]]:
    """As released: what transformers saves, and of what stands outside of layers its map's left sides.

    Of its matrices the release keeps the router, the weights of the indexer's heads and what compresses keys and
    values; all others are fp8, experts mxfp4.
    """
    import transformers

    module = transformers.AutoModelForCausalLM.from_config(few("deepseek_v4"))
    outer = {"model.embed_tokens": "embed", "model.hc_head.hc_": "hc_head_", "model.": ""}
    tensors: Shapes = {}
    for key, shape in published(module).items():
        start = next((start for start in outer if key.startswith(start)), "")
        # transformers' way back takes the norm of keys and values for that of what compresses them.
        key = key.removeprefix(start).replace(".attn.norm.", ".attn.kv_norm.")
        tensors[outer.get(start, "") + key] = shape
    taken = re.compile(
        r"^layers\.\d+\.(attn\.(indexer\.)?w(q_[ab]|kv|o_[ab])|ffn\.(experts\.\d+|shared_experts)\.w[123])\.weight$"
    )
    source = "transformers: DeepseekV4ForCausalLM, as it saves them, and its conversion_mapping"
    quantized = {key for key in tensors if taken.match(key)}
    counts = "DeepSeek-V4, 4 layers of 8 experts"
    yield "deepseek_v4", Model("deepseek_v4", "original", counts, source, tensors, quantized)
    held = shapes_of(module)
    taken = re.compile(
        r"\.(self_attn\.(compressor\.indexer\.q_b|q_[ab]|kv|o_[ab])_proj|shared_experts\.\w+)\.weight$"
        r"|\.experts\.(gate_up|down)_proj$"
    )
    quantized = {key for key in held if taken.search(key)}
    source = "transformers: DeepseekV4ForCausalLM"
    yield "deepseek_v4_memory", Model("deepseek_v4", "transformers", counts, source, held, quantized)


def of_deepseeks_program(published: Model) -> Model:
    """Names after ``mapping`` of inference/convert.py in deepseek-ai/DeepSeek-V3, which V3.2 keeps."""
    words = {
        "embed_tokens": "embed", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
        "q_proj": "wq", "q_a_proj": "wq_a", "q_a_layernorm": "q_norm", "q_b_proj": "wq_b", "gate_proj": "w1",
        "kv_a_proj_with_mqa": "wkv_a", "kv_a_layernorm": "kv_norm", "kv_b_proj": "wkv_b", "o_proj": "wo",
        "down_proj": "w2", "up_proj": "w3", "lm_head": "head", "self_attn": "attn", "mlp": "ffn",
        "e_score_correction_bias": "bias",
    }  # fmt: skip

    def name(key: str) -> str:
        return ".".join(words.get(word, word) for word in key.removeprefix("model.").split("."))

    return replace(
        published,
        spelling="inference",
        source=f"{published.source}; inference/convert.py of deepseek-ai/DeepSeek-V3",
        tensors={name(key): shape for key, shape in published.tensors.items()},
        quantized={name(key) for key in published.quantized},
    )
