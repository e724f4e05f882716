"""LoRAs of layers that the model holds as transposes, in stacks, or apart: against torch's own arithmetic."""

import json

import pytest
import torch
from safetensors.torch import save_file

import transcode as tc
from transcode.errors import PlanError

E, R, C, F = 3, 8, 12, 6
LAYER = "model.layers.0"


def rand(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape) + len(shape)))


def merged(folder, lora, options=None):
    path = folder / "lora"
    path.mkdir(exist_ok=True)
    save_file({key: value.contiguous() for key, value in lora.items()}, path / "adapter_model.safetensors")
    (path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, **(options or {})}))
    source = folder / "model.safetensors" if (folder / "model.safetensors").exists() else folder
    flow = tc.open(source) | tc.lora(str(path))
    return {name: torch.from_numpy(tensor.numpy().copy()) for name, tensor in flow.items()}


def qwen(folder, stacked):
    """A layer of Qwen3-MoE, its experts listed as published, or stacked as transformers 5 has them."""
    attention = {f"{LAYER}.self_attn.{one}_proj.weight": rand(C, C) for one in "qkvo"}
    norms = {f"{LAYER}.{one}.weight": rand(C) for one in ("input_layernorm", "post_attention_layernorm")}
    norms |= {f"{LAYER}.self_attn.{one}_norm.weight": rand(4) for one in "qk"}
    ends = {
        "model.embed_tokens.weight": rand(20, C),
        "model.norm.weight": rand(C),
        "lm_head.weight": rand(20, C),
    }
    gate, up, down = rand(E, F, C), rand(E, F, C) + 1, rand(E, C, F)
    experts = {f"{LAYER}.mlp.gate.weight": rand(E, C)}
    if stacked:
        experts[f"{LAYER}.mlp.experts.gate_up_proj"] = torch.cat([gate, up], 1)
        experts[f"{LAYER}.mlp.experts.down_proj"] = down
    for e in range(0 if stacked else E):
        for name, of in (("gate", gate), ("up", up), ("down", down)):
            experts[f"{LAYER}.mlp.experts.{e}.{name}_proj.weight"] = of[e]
    tensors = attention | norms | ends | experts
    save_file({key: value.contiguous() for key, value in tensors.items()}, folder / "model.safetensors")
    return tensors


def test_a_lora_of_listed_experts_goes_into_their_stack(tmp_path):
    before = qwen(tmp_path, stacked=True)
    lora, delta = {}, torch.zeros(E, 2 * F, C)
    for e, part in ((0, "gate"), (2, "up")):
        module = f"base_model.model.{LAYER}.mlp.experts.{e}.{part}_proj"
        up, down = rand(F, 2), rand(2, C)
        lora |= {f"{module}.lora_B.weight": up, f"{module}.lora_A.weight": down}
        delta[e, F * (part == "up") :][:F] = up @ down
    found = merged(tmp_path, lora)
    name = f"{LAYER}.mlp.experts.gate_up_proj"
    torch.testing.assert_close(found[name].reshape(E, 2 * F, C), before[name] + delta)
    other = f"{LAYER}.mlp.experts.down_proj"
    assert found[other].equal(before[other])


def test_a_lora_of_a_stack_goes_into_listed_experts(tmp_path):
    """As PEFT's ParamWrapper computes it: down_e is rows of down, up_e every E-th column of up."""
    before = qwen(tmp_path, stacked=False)
    up, down = rand(2 * F, 2 * E), rand(2 * E, C)
    module = f"base_model.model.{LAYER}.mlp.experts"
    lora = {f"{module}.lora_B.weight": up, f"{module}.lora_A.weight": down}
    options = {"target_parameters": ["mlp.experts.gate_up_proj"], "lora_alpha": 2, "target_modules": []}
    found = merged(tmp_path, lora, options)
    for e in range(E):
        delta = up.reshape(2 * F, 2, E)[:, :, e] @ down.reshape(E, 2, C)[e]
        for name, some in (("gate", delta[:F]), ("up", delta[F:])):
            key = f"{LAYER}.mlp.experts.{e}.{name}_proj.weight"
            torch.testing.assert_close(found[key], before[key] + some)


def clip(folder, theirs):
    """A text encoder in an all-in-one file, or of transformers: one's projection is the other's transpose."""
    projection = rand(C, R)
    start = "conditioner.embedders.1.model." if theirs else ""
    block = f"{start}transformer.resblocks.0" if theirs else "text_model.encoder.layers.0"
    names = [("attn.out_proj", "self_attn.out_proj"), ("mlp.c_fc", "mlp.fc1"), ("mlp.c_proj", "mlp.fc2")]
    tensors = {f"{block}.{pair[not theirs]}.weight": rand(C, C) for pair in names}
    if theirs:
        tensors |= {
            f"{block}.attn.in_proj_weight": rand(3 * C, C),
            f"{start}token_embedding.weight": rand(9, C),
        }
    else:
        tensors |= {f"{block}.self_attn.{one}_proj.weight": rand(C, C) for one in "qkv"}
        tensors["text_model.embeddings.token_embedding.weight"] = rand(9, C)
    key = f"{start}text_projection" if theirs else "text_projection.weight"
    tensors[key] = projection if theirs else projection.T
    save_file({one: value.contiguous() for one, value in tensors.items()}, folder / "model.safetensors")
    return key, tensors


@pytest.mark.parametrize("theirs", [True, False])
def test_a_lora_of_a_transpose(theirs, tmp_path):
    key, before = clip(tmp_path, theirs)
    up, down = rand(R, 2), rand(2, C)
    lora = {"lora_te2_text_projection.lora_up.weight": up, "lora_te2_text_projection.lora_down.weight": down}
    found = merged(tmp_path, lora)[key]
    torch.testing.assert_close(found, before[key] + (up @ down).T if theirs else before[key] + up @ down)
    lora = {"lora_te2_text_projection.diff": rand(R, C)}
    found = merged(tmp_path, lora)[key]
    torch.testing.assert_close(found, before[key] + (rand(R, C).T if theirs else rand(R, C)))


def test_what_cannot_be_turned_over_is_refused(tmp_path):
    clip(tmp_path, True)
    lora = {
        "lora_te2_text_projection.hada_w1_a": rand(R, 2), "lora_te2_text_projection.hada_w1_b": rand(2, C),
        "lora_te2_text_projection.hada_w2_a": rand(R, 2), "lora_te2_text_projection.hada_w2_b": rand(2, C),
    }  # fmt: skip
    with pytest.raises(
        PlanError,
        match=r"LoHa, which cannot be turned over as 'conditioner\.embedders\.1\.model\.text_projection' is",
    ):
        merged(tmp_path, lora)


def test_experts_whose_stack_is_turned_are_refused_with_the_reason(tmp_path):
    """gpt-oss: [E, in, out], gate and up alternate."""
    layer = f"{LAYER}.mlp"
    tensors = {
        f"{layer}.experts.gate_up_proj": rand(E, C, 2 * F),
        f"{layer}.experts.gate_up_proj_bias": rand(E, 2 * F),
        f"{layer}.experts.down_proj": rand(E, F, C), f"{layer}.experts.down_proj_bias": rand(E, C),
        f"{layer}.router.weight": rand(E, C), f"{layer}.router.bias": rand(E),
        f"{LAYER}.self_attn.sinks": rand(4),
        **{f"{LAYER}.self_attn.{one}_proj.weight": rand(C, C) for one in "qkvo"},
        **{f"{LAYER}.{one}.weight": rand(C) for one in ("input_layernorm", "post_attention_layernorm")},
        "model.embed_tokens.weight": rand(20, C), "model.norm.weight": rand(C), "lm_head.weight": rand(20, C),
    }  # fmt: skip
    save_file(tensors, tmp_path / "model.safetensors")
    module = f"base_model.model.{layer}.experts.1.gate_proj"
    lora = {f"{module}.lora_B.weight": rand(F, 2), f"{module}.lora_A.weight": rand(2, C)}
    with pytest.raises(PlanError, match="in a stack whose matrices are turned over or lie otherwise"):
        merged(tmp_path, lora)
