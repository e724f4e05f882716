"""Language models whose names do not change, or are converted by lists: small models of their classes are
recognised, quantized where the published ones are, decoded, loaded strictly, and compute the same.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import transcode as tc
from transcode import catalog

from .test_language_names import tiny

transformers = pytest.importorskip("transformers", reason="transformers is not installed")

KINDS = ("mistral", "qwen3_5")
FURTHER = ("gemma4", "glm4v", "glm4v_moe", "kimi_k25", "llama4_text", "phi")
TEXT: dict[str, Any] = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 2, "max_position_embeddings": 64,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
VISION: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "patch_size": 4,
}
PARTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "gemma4": (
        {"num_key_value_heads": 1, "head_dim": 16, "global_head_dim": 32, "sliding_window": 16,
         "layer_types": ["sliding_attention", "full_attention"], "vocab_size_per_layer_input": 64,
         "hidden_size_per_layer_input": 8},
        {"num_key_value_heads": 2, "head_dim": 16, "global_head_dim": 16},
    ),
    "kimi_k25": (
        {"num_key_value_heads": 2, "moe_intermediate_size": 16, "n_routed_experts": 4, "kv_lora_rank": 16,
         "q_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "qk_head_dim": 16, "v_head_dim": 16,
         "head_dim": 8, "n_group": 1, "topk_group": 1, "num_experts_per_tok": 2, "first_k_dense_replace": 1},
        {"pos_emb_height": 4, "pos_emb_width": 4, "pos_emb_time": 2},
    ),
}  # fmt: skip
"""Of models whose sizes depend on each other: more of their texts' and their pictures' configurations."""


def small(kind: str) -> torch.nn.Module:
    """A random model, the same whenever it is asked for."""
    if kind not in PARTS:
        made: torch.nn.Module = tiny(kind).float()
        return made
    text, vision = PARTS[kind]
    config = transformers.AutoConfig.for_model(kind, text_config=TEXT | text, vision_config=VISION | vision)
    torch.manual_seed(1)
    model: torch.nn.Module = transformers.AutoModelForImageTextToText.from_config(config).eval()
    for value in model.parameters():
        torch.nn.init.normal_(value, std=0.1)
    return model


@pytest.mark.parametrize("kind", [*KINDS, *(pytest.param(kind, marks=pytest.mark.whole) for kind in FURTHER)])
def test_a_small_model_of_its_class(kind: str, tmp_path: Path) -> None:
    model = small(kind)
    state = {name: one.to(torch.bfloat16).contiguous() for name, one in model.state_dict().items()}
    known = catalog.detect(list(state), {name: tuple(one.shape) for name, one in state.items()})
    assert known is not None
    assert known.name == "decoder_llm"
    save_file(state, tmp_path / "model.safetensors")
    (
        tc.open(tmp_path / "model.safetensors")
        | tc.quantize("int8")
        | tc.write(tmp_path / "q.safetensors", convention="lightx2v")
    )
    stored = load_file(tmp_path / "q.safetensors")
    codes = {name for name, one in stored.items() if one.dtype == torch.int8}
    linears = {f"{name}.weight" for name, one in model.named_modules() if isinstance(one, torch.nn.Linear)}
    assert codes
    stacks = {name for name, one in state.items() if one.dim() == 3}
    assert codes <= linears | stacks
    assert not any(word in name for name in codes for word in ("vision", "visual", "lm_head", "router"))
    tc.open(tmp_path / "q.safetensors") | tc.dequantize("f32") | tc.write(tmp_path / "d.safetensors")
    wanted = {
        name: stored[name].float() * stored[f"{name}_scale"] if name in codes else one.float()
        for name, one in state.items()
    }
    outs = []
    for tensors in (wanted, load_file(tmp_path / "d.safetensors")):
        model.load_state_dict({name: one.float() for name, one in tensors.items()}, strict=True)
        with torch.no_grad():
            outs.append(model(input_ids=torch.tensor([[3, 5, 9]])).logits)
    assert outs[0].isfinite().all()
    assert outs[0].any()
    assert torch.equal(*outs)
