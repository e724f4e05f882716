"""Language models in the names of transformers' classes in memory, and of releases: each tensor, and back."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import transcode as tc

transformers = pytest.importorskip("transformers")

SIZES: dict[str, Any] = {
    "num_hidden_layers": 2, "first_k_dense_replace": 1, "num_experts": 3, "n_routed_experts": 3,
    "num_local_experts": 3, "hidden_size": 32, "intermediate_size": 48, "moe_intermediate_size": 24,
    "shared_expert_intermediate_size": 24, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
    "vocab_size": 64, "q_lora_rank": 24, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8,
    "v_head_dim": 8, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1, "index_n_heads": 2,
    "index_head_dim": 16, "index_topk": 4, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
    "linear_key_head_dim": 8, "linear_value_head_dim": 8, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2, "o_lora_rank": 8, "o_groups": 2, "depth": 1, "num_heads": 2, "out_hidden_size": 32,
    "max_position_embeddings": 64, "dense_intermediate_size": 48, "shared_intermediate_size": 24,
    "num_position_embeddings": 16,
}  # fmt: skip
"""Of whatever has such keys."""

LISTS = ("layer_types", "mlp_layer_types", "indexer_types")
SEEING = ("minimax_m3_vl", "mistral3", "qwen3_5_moe", "qwen3_5", "glm4v", "glm4v_moe")
ANGLES = {"glm4v": [2, 1, 1], "glm4v_moe": [1, 1, 0]}
"""How many of a small head's angles are of time, of rows and of columns."""

# The spelling of its files, and that in memory.
KINDS = {
    "mixtral": ("transformers", "stacked"), "kimi_linear": ("transformers", "stacked"),
    "qwen3_5_moe": ("multimodal", "stacked_multimodal"), "minimax_m3_vl": ("llava", "stacked_multimodal"),
}  # fmt: skip
OTHERS = [
    "qwen2_moe", "qwen3_moe", "qwen3_next", "qwen3_5_moe_text", "deepseek_v2", "deepseek_v3", "deepseek_v32",
    "glm4_moe", "glm4_moe_lite", "glm_moe_dsa", "minimax_m2", "phimoe",
]  # fmt: skip
"""As :data:`KINDS`' first, of whose rules they have fewer or others."""


def tiny(kind: str) -> Any:
    """A random model of a few layers."""
    config = transformers.AutoConfig.for_model(kind)
    for one in (config, getattr(config, "text_config", None), getattr(config, "vision_config", None)):
        for key, value in SIZES.items():
            if isinstance(getattr(one, key, None), int):
                setattr(one, key, value)
        for key in LISTS:
            if kinds := getattr(one, key, None):
                setattr(one, key, [*dict.fromkeys(kinds), *kinds][:2])
    if kind == "minimax_m3_vl":
        config.projector_hidden_size = 32
    if kind in ANGLES:
        config.text_config.rope_parameters["mrope_section"] = ANGLES[kind]
    auto = transformers.AutoModelForImageTextToText if kind in SEEING else transformers.AutoModelForCausalLM
    torch.manual_seed(1)
    model = auto.from_config(config).eval()
    for value in model.parameters():
        torch.nn.init.normal_(value, std=0.1)
    return model


def converted(source: Path, to: str, target: Path) -> dict[str, torch.Tensor]:
    tc.open(source) | tc.convert(to) | tc.write(target)
    return load_file(target / "model.safetensors")


def equal(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(ours[name].equal(theirs[name]) for name in ours)


@pytest.mark.parametrize("kind", [*KINDS, *(pytest.param(one, marks=pytest.mark.whole) for one in OTHERS)])
def test_files_become_what_the_class_holds_and_come_back(kind: str, tmp_path: Path) -> None:
    files, memory = KINDS.get(kind, ("transformers", "stacked"))
    model = tiny(kind)
    model.save_pretrained(tmp_path / "hf")
    held = {name: one for name, one in model.state_dict().items() if name != "lm_head.weight" or one.ndim}
    there = converted(tmp_path / "hf", memory, tmp_path / "there")
    assert equal(there, held)
    back = converted(tmp_path / "there", files, tmp_path / "back")
    assert equal(back, load_file(tmp_path / "hf" / "model.safetensors"))


def test_deepseek_v4_as_released(tmp_path: Path) -> None:
    """transformers loads what we write in the names of the releases, and computes the same."""
    model = tiny("deepseek_v4")
    held = tmp_path / "held"
    held.mkdir()
    save_file(
        {name: one.contiguous() for name, one in model.state_dict().items()}, held / "model.safetensors"
    )
    model.config.save_pretrained(held)
    released = converted(held, "original", tmp_path / "released")
    fixture = json.loads((Path(__file__).parents[2] / "fixtures/families/deepseek_v4.json").read_text())
    folded = {re.sub(r"\d+|\{[^}]*\}", "#", name) for name in fixture["tensors"]}
    assert {re.sub(r"\d+", "#", name) for name in released} <= folded
    assert equal(converted(tmp_path / "released", "transformers", tmp_path / "back"), model.state_dict())
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "released", dtype=torch.float32)
    tokens = torch.tensor([[3, 4, 5, 6, 7, 8]])
    with torch.no_grad():
        assert loaded(tokens).logits.equal(model(tokens).logits)


def permuted(rows: torch.Tensor, heads: int) -> torch.Tensor:
    """``permute_for_rope`` of transformers' convert_mistral3_weights_to_hf.py, undone."""
    pairs = rows.view(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:])
    return pairs.transpose(1, 2).reshape(rows.shape)


def test_mistrals_own_names_of_a_model_that_sees(tmp_path: Path) -> None:
    """Names and rows of q and k, of text by its heads and of sight by its own; known by params.json alone."""
    model = tiny("mistral3")
    model.save_pretrained(tmp_path / "hf")
    first = load_file(tmp_path / "hf" / "model.safetensors")
    ours = converted(tmp_path / "hf", "original", tmp_path / "own")
    table = [
        (r"^language_model\.model\.", ""), (r"^language_model\.lm_head", "output"),
        (r"embed_tokens", "tok_embeddings"), (r"(self_attn|attention)\.(.)_proj", r"attention.w\2"),
        (r"(mlp|feed_forward)\.gate_proj", "feed_forward.w1"), (r"input_layernorm", "attention_norm"),
        (r"(mlp|feed_forward)\.down_proj", "feed_forward.w2"), ("post_attention_layernorm", "ffn_norm"),
        (r"(mlp|feed_forward)\.up_proj", "feed_forward.w3"), ("vision_tower", "vision_encoder"),
        (r"multi_modal_projector\.linear_1", "vision_language_adapter.w_in"),
        (r"multi_modal_projector\.linear_2", "vision_language_adapter.w_out"),
        (r"multi_modal_projector\.norm", "pre_mm_projector_norm"),
        (r"multi_modal_projector\.patch_merger", "patch_merger"),
    ]  # fmt: skip
    theirs = {}
    for name, tensor in first.items():
        for old, new in table:
            name = re.sub(old, new, name)
        heads = 4 if "wq" in name or "vision" in name else 2
        theirs[name] = permuted(tensor, heads) if re.search(r"attention\.w[qk]\.", name) else tensor
    assert equal(ours, theirs)
    for file in (tmp_path / "own").glob("*.json"):
        file.unlink()
    params: dict[str, Any] = {"dim": 32, "n_heads": 4, "n_kv_heads": 2, "n_layers": 2}
    params["vision_encoder"] = {"num_attention_heads": 4}
    (tmp_path / "own" / "params.json").write_text(json.dumps(params))
    assert equal(converted(tmp_path / "own", "llava", tmp_path / "back"), first)


def test_deepseeks_own_program(tmp_path: Path) -> None:
    """The names of ``inference/convert.py``, written out here; scales of fp8 too."""
    model = tiny("deepseek_v32")
    model.save_pretrained(tmp_path / "hf")
    first = load_file(tmp_path / "hf" / "model.safetensors")
    for name in [name for name in first if re.search(r"_proj(_with_mqa)?\.weight$|indexer\.wk\.", name)]:
        if "weights_proj" not in name:
            first[name] = first[name].to(torch.float8_e4m3fn)
            first[f"{name}_scale_inv"] = torch.randn(1, 1).abs()
    save_file(first, tmp_path / "hf" / "model.safetensors")
    words = {
        "embed_tokens": "embed", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
        "q_proj": "wq", "q_a_proj": "wq_a", "q_a_layernorm": "q_norm", "q_b_proj": "wq_b", "gate_proj": "w1",
        "kv_a_proj_with_mqa": "wkv_a", "kv_a_layernorm": "kv_norm", "kv_b_proj": "wkv_b", "o_proj": "wo",
        "down_proj": "w2", "up_proj": "w3", "lm_head": "head", "self_attn": "attn", "mlp": "ffn",
        "weight_scale_inv": "scale", "e_score_correction_bias": "bias",
    }  # fmt: skip
    theirs = {
        ".".join(words.get(word, word) for word in name.removeprefix("model.").split(".")): tensor
        for name, tensor in first.items()
    }
    ours = converted(tmp_path / "hf", "inference", tmp_path / "own")
    assert equal(ours, theirs)
    assert equal(converted(tmp_path / "own", "transformers", tmp_path / "back"), first)
