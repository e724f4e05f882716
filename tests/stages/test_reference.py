"""A header that is taken from another file, where a language model gets llama.cpp's names."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import transcode as tc
from tests.laws.gguf_file import NUMBERS, gguf
from transcode.errors import PlanError

SHAPES = {
    "blk.0.attn_q.weight": (64, 64), "blk.0.attn_k.weight": (32, 64), "blk.0.attn_v.weight": (32, 64),
    "blk.0.attn_output.weight": (64, 64), "blk.0.attn_norm.weight": (64,), "blk.0.ffn_norm.weight": (64,),
    "blk.0.ffn_gate.weight": (96, 64), "blk.0.ffn_up.weight": (96, 64), "blk.0.ffn_down.weight": (64, 96),
    "token_embd.weight": (10, 64), "output.weight": (10, 64), "output_norm.weight": (64,),
}  # fmt: skip
NAMES = {
    "blk.0.attn_q": "layers.0.self_attn.q_proj", "blk.0.attn_k": "layers.0.self_attn.k_proj",
    "blk.0.attn_v": "layers.0.self_attn.v_proj", "blk.0.attn_output": "layers.0.self_attn.o_proj",
    "blk.0.attn_norm": "layers.0.input_layernorm", "blk.0.ffn_norm": "layers.0.post_attention_layernorm",
    "blk.0.ffn_gate": "layers.0.mlp.gate_proj", "blk.0.ffn_up": "layers.0.mlp.up_proj",
    "blk.0.ffn_down": "layers.0.mlp.down_proj", "token_embd": "embed_tokens", "output_norm": "norm",
}  # fmt: skip
HEADER = {
    "general.architecture": ("string", "llama"), "llama.attention.head_count": ("uint32", 4),
    "llama.attention.head_count_kv": ("uint32", 2), "llama.block_count": ("uint32", 1),
    "llama.embedding_length": ("uint32", 64), "tokenizer.chat_template": ("string", "{{ messages }}"),
    "tokenizer.ggml.tokens": ("array", ("string", [f"t{n}" for n in range(10)])),
}  # fmt: skip
FREQS = np.arange(1, 9, dtype=np.float32)


def tensors() -> dict[str, np.ndarray]:
    draw = np.random.default_rng(2)
    return {name: draw.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}


def weights(folder: Path) -> Path:
    """Alone, under the hub's names: no config.json, no tokenizer."""
    folder.mkdir()
    made = {}
    for name, array in tensors().items():
        stem = name.removesuffix(".weight")
        made[f"model.{NAMES[stem]}.weight" if stem in NAMES else "lm_head.weight"] = array
    save_file(made, folder / "model.safetensors")
    return folder


def other(path: Path) -> Path:
    named = {
        **{name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()},
        "rope_freqs.weight": FREQS,
    }
    path.write_bytes(
        gguf([(n, NUMBERS["F32"], one.shape, one.tobytes()) for n, one in named.items()], HEADER)
    )
    return path


def test_weights_alone_become_a_whole_model(tmp_path: Path) -> None:
    source, like, out = weights(tmp_path / "hf"), other(tmp_path / "other.gguf"), tmp_path / "out.gguf"
    with pytest.raises(PlanError, match=r"there is no config\.json"):
        (tc.open(source) | tc.convert("gguf")).plan(tc.write(out))
    tc.open(source) | tc.convert("gguf") | tc.quantize(like=like) | tc.write(out)
    made, said = tc.open(out), tc.open(like).metadata
    assert {key: made.metadata[key] for key in HEADER} == {key: said[key] for key in HEADER}
    for name, array in tensors().items():
        if name.startswith(("blk.0.attn_q", "blk.0.attn_k")):  # rows in pairs, by heads that the header tells
            heads = 4 if "attn_q" in name else 2
            array = array.reshape(heads, 2, 8, 64).swapaxes(1, 2).reshape(array.shape)
        np.testing.assert_array_equal(made[name].numpy(), array, err_msg=name)
    np.testing.assert_array_equal(made["rope_freqs.weight"].numpy(), FREQS)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"num_attention_heads": 8}, r"says num_attention_heads: 4, the source 8"),
        ({"model_type": "qwen2"}, r"says architecture: llama, the source qwen2"),
    ],
)
def test_the_header_of_another_model(tmp_path: Path, config: dict[str, object], message: str) -> None:
    source, like = weights(tmp_path / "hf"), other(tmp_path / "other.gguf")
    (source / "config.json").write_text(json.dumps({"model_type": "llama", "hidden_size": 64} | config))
    with pytest.raises(PlanError, match=message):
        (tc.open(source) | tc.convert("gguf") | tc.quantize(like=like)).plan(tc.write(tmp_path / "x.gguf"))
