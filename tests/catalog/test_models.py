"""The tables of ``formats/models`` name the tensors that the classes have, with any config."""

# ruff: noqa: E501  tables of cases read better in long lines

from __future__ import annotations

import inspect
import json

import pytest
import torch

from transcode.catalog.models import Misstated, model, models
from transcode.errors import RecipeError

TINY = {
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
MOE = {**TINY, "moe_intermediate_size": 24, "num_experts": 3, "num_experts_per_tok": 2}
WAN = {
    "num_layers": 2,
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "ffn_dim": 40,
    "text_dim": 16,
    "freq_dim": 8,
    "in_channels": 5,
    "out_channels": 3,
}
FLUX = {
    "num_layers": 2,
    "num_single_layers": 1,
    "attention_head_dim": 8,
    "num_attention_heads": 2,
    "joint_attention_dim": 24,
    "pooled_projection_dim": 20,
    "axes_dims_rope": [2, 2, 4],
}
QWEN = {
    "num_layers": 2,
    "attention_head_dim": 8,
    "num_attention_heads": 2,
    "joint_attention_dim": 24,
    "axes_dims_rope": [2, 2, 4],
}

CONFIGS = [
    ("llama", TINY), ("llama", {**TINY, "attention_bias": True}), ("llama", {**TINY, "mlp_bias": True, "tie_word_embeddings": True}),
    ("llama", {**TINY, "head_dim": 24}), ("mistral", TINY), ("mistral", {**TINY, "head_dim": 24}), ("qwen2", TINY), ("qwen2", {**TINY, "tie_word_embeddings": True}),
    ("qwen3", TINY), ("qwen3", {**TINY, "head_dim": 16, "attention_bias": True}), ("mixtral", {**TINY, "num_local_experts": 3}),
    ("qwen2_moe", {**MOE, "shared_expert_intermediate_size": 40}),
    ("qwen2_moe", {**MOE, "shared_expert_intermediate_size": 40, "decoder_sparse_step": 2, "qkv_bias": False}),
    ("qwen2_moe", {**MOE, "shared_expert_intermediate_size": 40, "mlp_only_layers": [1]}),
    ("qwen3_moe", {**MOE, "head_dim": 8}), ("qwen3_moe", {**MOE, "attention_bias": True, "mlp_only_layers": [0]}),
    ("WanTransformer3DModel", WAN), ("WanTransformer3DModel", {**WAN, "image_dim": 20, "added_kv_proj_dim": 24}),
    ("WanTransformer3DModel", {**WAN, "image_dim": 20, "added_kv_proj_dim": 24, "pos_embed_seq_len": 6, "cross_attn_norm": False, "patch_size": [1, 1, 2]}),
    ("FluxTransformer2DModel", FLUX), ("FluxTransformer2DModel", {**FLUX, "guidance_embeds": True, "patch_size": 2, "in_channels": 16, "out_channels": 5}),
    ("QwenImageTransformer2DModel", QWEN), ("QwenImageTransformer2DModel", {**QWEN, "use_additional_t_cond": True, "in_channels": 16, "out_channels": 5}),
]  # fmt: skip


def saved(name, config, folder):
    """Names and shapes in the file that the class itself writes, and its config.json."""
    from safetensors import safe_open

    table = model(name)
    library = pytest.importorskip(table.library)
    if table.library == "transformers":
        made = getattr(library, table.class_name)(library.AutoConfig.for_model(name, **config)).bfloat16()
    else:
        made = getattr(library, table.class_name)(**config).to(torch.bfloat16)
    made.save_pretrained(folder)
    (file,) = folder.glob("*.safetensors")
    with safe_open(file, "pt") as opened:
        shapes = {key: tuple(opened.get_slice(key).get_shape()) for key in opened.keys()}  # noqa: SIM118  it is no dictionary
    return shapes, json.loads((folder / "config.json").read_text())


@pytest.mark.parametrize(("name", "config"), CONFIGS)
def test_tensors_are_those_of_the_class(name, config, tmp_path):
    shapes, written = saved(name, config, tmp_path)
    assert dict(model(name).tensors(written)) == shapes
    assert dict(model(name).tensors(config)) == shapes  # what is not said is the class's default
    assert all(model(name).knows(key) for key in shapes)
    assert not model(name).knows("foo.weight")


@pytest.mark.parametrize("name", models())
def test_defaults_are_those_of_the_class(name):
    table = model(name)
    library = pytest.importorskip(table.library)
    assert any(tried == name for tried, _ in CONFIGS)
    if table.library == "transformers":
        config = type(library.AutoConfig.for_model(name))()
        for key, default in table.values({}).items():
            if hasattr(config, key) and getattr(config, key) is not None:
                assert getattr(config, key) == default, key
        asked = {
            name
            for group in table.groups
            for sizes in group.names.values()
            for one in sizes
            for name in one.names
        }
        assert {key for key in asked if not hasattr(config, key)} <= {"head_dim"}
        return
    defaults = {
        key: one.default
        for key, one in inspect.signature(getattr(library, table.class_name)).parameters.items()
    }
    for key, default in table.defaults.items():
        if key not in table.where or key in defaults:
            told = defaults[key]
            assert (list(told) if isinstance(told, tuple) else told) == default, key


def test_any_number_of_layers_costs_nothing_ahead():
    names = model("llama").tensors({"num_hidden_layers": 10**15})
    assert len([next(names) for _ in range(50)]) == 50


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"num_hidden_layers": "3"}, "num_hidden_layers is '3', not a whole number"),
        ({"hidden_size": 3.5}, "hidden_size is 3.5, not a whole number"),
        ({"tie_word_embeddings": "no"}, "tie_word_embeddings is 'no', not true or false"),
        ({"num_attention_heads": 0}, "hidden_size // num_attention_heads cannot be computed"),
        ({"num_attention_heads": True}, "not a whole number"),
        ({"head_dim": "64"}, "head_dim is '64', not a whole number"),
        ({"hidden_size": None}, "cannot be computed"),
    ],
)
def test_configs_of_which_none_can_be_built(config, why):
    with pytest.raises(Misstated, match=why):
        list(model("llama").tensors(config))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("model: a\nlibrary: transformers\nclass: A\ntensors:\n  - names: {x: [wide]}\n", "asks for wide, which has no default"),
        ("model: a\nlibrary: keras\nclass: A\n", "'keras' is not allowed"),
        ("model: a\nlibrary: diffusers\nclass: A\ntensors:\n  - names: {x: ['f(1)']}\n", "is not understood"),
        ("model: a\nlibrary: diffusers\nclass: A\nspare: ['(']\n", "is no regular expression"),
        ("model: a\nlibrary: diffusers\nclass: A\nlike: b\n", "unknown model 'b'"),
    ],
)  # fmt: skip
def test_mistakes_in_a_table(text, why, tmp_path, monkeypatch):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "a.yaml").write_text(text)
    monkeypatch.setenv("TRANSCODE_FORMATS", str(tmp_path))
    with pytest.raises(RecipeError, match=why):
        model("a")
