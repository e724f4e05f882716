"""What was asked for and has no effect is an error or a warning that says so."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

import transcode as tc

NOTHING = [
    # options, the reason on the first line: the most frequent one, with its count
    (["--model", "flux"], "no tensor becomes int8: 33 of 33 matrices: outside blocks"),
    (["--exclude", "*"], "no tensor becomes int8: 36 of 36 matrices: exclude *"),
    (["--override", "*=bf16"], "24 of 33 matrices: override *"),
]


@pytest.mark.parametrize(("options", "told"), NOTHING)
def test_nothing_quantized(options, told, wan, tmp_path, refused, cli):
    out = tmp_path / "o.safetensors"
    options = ["--scheme", "int8", *options]
    said = refused("run", wan, out, *options)
    assert said.startswith("transcode: error: quantize: no tensor becomes int8: ")
    assert told in said
    assert not out.exists()
    assert "no tensor becomes" in refused("run", wan, out, *options, "--dry-run")
    allowed = cli("run", wan, out, *options, "--allow-unmatched")
    assert told in allowed.err
    assert {t.dtype for t in load_file(out).values()} == {torch.bfloat16}


def test_nothing_quantized_for_shapes(save, tmp_path, refused):
    tensors = {f"blocks.{i}.ffn.weight": torch.ones(32, 65) for i in range(3)}
    told = refused("run", save(tensors), tmp_path / "o.safetensors", "--scheme", "mxfp8")
    assert "3 of 3 matrices: 65 columns are not a multiple of 32" in told


def test_misfits_that_differ_are_counted_together(save, tmp_path, refused):
    shapes = [(32, 65), (32, 65), (32, 33)]
    tensors = {f"blocks.{i}.ffn.weight": torch.ones(*shape) for i, shape in enumerate(shapes)}
    told = refused("run", save(tensors), tmp_path / "o.safetensors", "--scheme", "mxfp8")
    assert "3 of 3 matrices: 65 columns are not a multiple of 32" in told


def test_a_quantized_source_is_not_quantized_again(wan, tmp_path, refused, cli):
    once = tmp_path / "once.safetensors"
    cli("run", wan, once, "--scheme", "int8")
    told = refused("run", once, tmp_path / "twice.safetensors", "--scheme", "int8")
    assert not (tmp_path / "twice.safetensors").exists()
    assert "24 of 33 matrices: quantized already: int8 as lightx2v stores it" in told
    assert "--dequantize" in told


LORAS = {
    "diffusers": "diffusion_model.blocks.0.attn.{}.weight",
    "kohya": "lora_unet_blocks_0_attn.{}.weight",
    "peft": "base_model.model.blocks.0.attn.{}.weight",
}
FACTORS = {
    "diffusers": ("lora_A", "lora_B"),
    "kohya": ("lora_down", "lora_up"),
    "peft": ("lora_A", "lora_B"),
}


@pytest.mark.parametrize("kind", LORAS)
def test_a_lora_is_no_model(kind, save, tmp_path, refused, cli):
    names = [LORAS[kind].format(factor) for factor in FACTORS[kind]]
    lora = save(dict(zip(names, (torch.ones(8, 64), torch.ones(64, 8)), strict=True)))
    out = tmp_path / "o.safetensors"
    told = refused("run", lora, out, "--scheme", "int8")
    assert "is a LoRA" in told
    assert "--lora" in told
    assert not out.exists()
    # On purpose; and all that does not quantize stays possible.
    cli("run", lora, out, "--scheme", "int8", "--include", "*")
    assert load_file(out)[names[0]].dtype == torch.int8
    cli("run", lora, out, "--cast", "bf16", "--rename", "attn", "x", "--force")
    assert {t.dtype for t in load_file(out).values()} == {torch.bfloat16}


def test_an_adapter_by_its_config(save, tmp_path, refused):
    tensors = {"base_model.model.layers.0.mlp.prompt.weight": torch.ones(64, 64)}
    adapter = save(tensors, "peft/adapter_model.safetensors")
    (adapter.parent / "adapter_config.json").write_text(json.dumps({"peft_type": "PROMPT_TUNING"}))
    for src in (adapter, adapter.parent):
        told = refused("run", src, tmp_path / "o.safetensors", "--scheme", "int8")
        assert "adapter_config.json stands beside it" in told


def test_a_model_with_a_few_adapters_is_a_model(save, tmp_path, cli):
    tensors = {f"blocks.{i}.ffn.weight": torch.ones(64, 64) for i in range(5)}
    tensors |= {
        "blocks.0.ffn.lora_A.weight": torch.ones(4, 64),
        "blocks.0.ffn.lora_B.weight": torch.ones(64, 4),
    }
    cli("run", save(tensors), tmp_path / "o.safetensors", "--scheme", "int8")


ERRORS = [
    (["--scheme", "int8", "--share-scale", "self_attn.q,self_attn.k"], "no two tensors with a global scale"),
    (["--scheme", "nvfp4", "--share-scale", "self_attn.q,nowhere"], "self_attn.q,nowhere"),
    (["--scheme", "int8", "--group-size", "32"], "group_size does nothing with granularity=channel"),
    (["--scheme", "int8:group_size=32,granularity=tensor"], "group_size does nothing"),
    (["--scheme", "fp8", "-O", "block=[64,64]"], "block does nothing with granularity=channel"),
    (["--scheme", "int8", "--override", "ffn=int8:group_size=32"], "group_size does nothing"),
    (["--scheme", "int8", "--layout", "by_block", "--name", "wan"], "name: 'wan' does nothing"),
    (["--scheme", "int8", "--device-memory", "1GB"], "device_memory does nothing"),
    (
        ["--scheme", "int8:granularity=tensor", "--granularity", "channel"],
        "granularity of int8 is given twice",
    ),
    (["--scheme", "int8", "--granularity", "tensor", "-O", "granularity=channel"], "given twice"),
    (["--scheme", "int8:granularity=tensor,granularity=channel"], "given twice"),
    (["--metadata", "a=1", "--metadata", "a=2"], "the key 'a' is given twice"),
]


@pytest.mark.parametrize(("options", "told"), ERRORS)
def test_options_without_effect(options, told, wan, tmp_path, refused):
    assert told in refused("run", wan, tmp_path / "o", *options)
    assert list(tmp_path.iterdir()) == []


def test_options_that_have_their_partner(wan, save, tmp_path, cli):
    cli("run", wan, tmp_path / "a", "--scheme", "int8", "--granularity", "group", "--group-size", "32",
        "--convention", "neutral")  # fmt: skip
    cli(
        "run",
        wan,
        tmp_path / "b",
        "--scheme",
        "int4",
        "--group-size",
        "32",
        "--convention",
        "compressed_tensors",
    )
    # deepseek itself says granularity=block
    plan = tc.open(
        save({"layers.0.up_proj.weight": torch.ones(128, 128)}, "big/m.safetensors")
    ) | tc.quantize("fp8", block=[128, 128], targets=["up_proj"])
    plan.plan(tc.write(tmp_path / "c.safetensors", convention="deepseek"))
    # the index of this convention bears the name
    cli("run", wan, tmp_path / "d", "--layout", "by_block", "--name", "wan")
    assert (tmp_path / "d" / "wan.safetensors.index.json").exists()


WARNINGS = [
    (["--keep", "*"], "every tensor matches, none is left out"),
    (["--rename", "blocks", "blocks"], "every name that a rule matches stays as it is"),
    (["--to", "lightx2v"], "spelled as lightx2v already, none changes"),
    (["--scheme", "int8", "--keep-dtype", "bf16"], "keep_dtype BF16: no tensor that is kept has another"),
    (["--scheme", "int8", "--override", "*=fp8", "--override", "ffn=bf16"], "override 'ffn' does nothing"),
    (["--measure"], "measure: nothing is quantized"),
]


@pytest.mark.parametrize(("options", "told"), WARNINGS)
def test_stages_that_change_nothing_say_so(options, told, wan, tmp_path, cli):
    assert told in cli("run", wan, tmp_path / "o.safetensors", *options, "--dry-run").err


QUIET = [
    ["--keep", "blocks"],
    ["--rename", "^blocks", "layers"],
    ["--to", "diffusers"],
    ["--scheme", "int8", "--keep-dtype", "f32", "--override", "ffn=fp8", "--override", "self_attn=bf16"],
]


@pytest.mark.parametrize("options", QUIET)
def test_stages_with_an_effect_are_quiet(options, wan, tmp_path, cli):
    assert cli("run", wan, tmp_path / "o.safetensors", *options, "--dry-run").err == ""
