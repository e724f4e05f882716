"""What a consumer would not read, or read as something else, is refused while planning, or kept with the reason."""

# ruff: noqa: E501  tables of cases read better in long lines

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import transcode as tc
from transcode import catalog
from transcode.errors import PlanError

CT = "compressed_tensors"
AT = "model.layers.0"

# Who refuses: convention, scheme, options, what is said.
UNREAD: list[tuple[str, str, dict[str, Any], str]] = [
    ("comfyui", "fp8", {"granularity": "channel"}, "does not read fp8 with granularity=channel; use tensor"),
    ("comfyui", "int8", {"symmetric": False}, "does not read int8 with symmetric=false; use true"),
    ("comfyui_scaled", "fp8", {"format": "e5m2"}, "does not read fp8 with format=e5m2; use e4m3fn"),
    ("modelopt", "fp8", {"granularity": "tensor"}, "does not read fp8 with granularity=tensor; use channel"),
    ("modelopt", "fp8", {"granularity": "block"}, "does not read fp8 with granularity=block"),
    ("deepseek", "fp8", {"granularity": "channel"}, "does not read fp8 with granularity=channel; use block"),
    ("deepseek", "fp8", {"block": [64, 64]}, "does not read fp8 with block=[64, 64]; use [128, 128]"),
    ("awq", "int4", {"symmetric": True, "optimize": "signed"}, "does not read int4 with optimize=signed; use none"),
    (CT, "fp8", {"format": "e5m2"}, "does not read fp8 with format=e5m2"),
    (CT, "fp8", {"granularity": "block", "block": [64, 64]}, "does not read fp8 with block=[64, 64]"),
    ("lightx2v", "int8", {"symmetric": False}, "does not read int8 with symmetric=false"),
    ("lightx2v", "int8", {"granularity": "group", "group_size": 64}, "does not read int8 with granularity=group"),
    ("lightx2v", "fp8", {"format": "e5m2"}, "does not read fp8 with format=e5m2"),
    ("lightx2v", "mxfp6", {"format": "e2m3"}, "does not read mxfp6 with format=e2m3"),
]  # fmt: skip

PARTLY: list[tuple[str, str, dict[str, Any], str]] = [
    (CT, "int8", {"symmetric": False}, "int8 with symmetric=false is read by transformers, not by vLLM"),
    (CT, "int8", {"granularity": "group", "group_size": 64}, "granularity=group is read by transformers, not by"),
    (CT, "int4", {"symmetric": False}, "by vLLM and SGLang, and by transformers with CompressedTensorsConfig(dequantize=True)"),
    (CT, "int4", {"optimize": "signed"}, "vLLM's Marlin with 8-bit inputs was wrong on those below zero"),
    ("gptq", "int4", {"optimize": "signed"}, "optimize=signed is read by kernels that multiply by a scale of either sign"),
    ("lightx2v", "fp8", {"granularity": "tensor"}, "is read by LightX2V's vllm kernels, and with a calibration by fp8-pertensor"),
]  # fmt: skip


def planned(source: Path, out: Path, convention: str, scheme: str, **options: Any) -> Any:
    return (tc.open(source) | tc.quantize(scheme, **options)).plan(tc.write(out, convention=convention))


def fates(plan: Any) -> dict[str, str]:
    return {tensor.name: str(tensor.scheme and tensor.scheme.name) for tensor in plan.tensors}


@pytest.fixture
def llama(save):
    """A model's folder of linear layers, with a configuration, by their names and shapes."""

    def call(shapes: dict[str, tuple[int, ...]], **config: Any) -> Path:
        draw = torch.Generator().manual_seed(1)
        tensors = {f"{n}.weight": torch.randn(s, generator=draw) for n, s in shapes.items()}
        tensors[f"{AT}.input_layernorm.weight"] = torch.ones(128)
        folder: Path = save(tensors).parent
        (folder / "config.json").write_text(json.dumps(config))
        return folder

    return call


@pytest.mark.parametrize(("convention", "scheme", "options", "said"), UNREAD)
def test_an_option_that_the_consumer_does_not_read_is_refused(
    convention, scheme, options, said, save, tmp_path
):
    source = save({"a.weight": torch.randn(256, 256)})
    with pytest.raises(PlanError) as error:
        planned(source, tmp_path / "o.safetensors", convention, scheme, **options)
    assert f"a.weight: {convention} {said}" in str(error.value)
    assert "convention='neutral'" in str(error.value)
    # nothing stops those who want it all the same, for a loader of their own
    whole = {"granularity": "block", **options} if "block" in options else options
    planned(source, tmp_path / "o.safetensors", "neutral", scheme, **whole)


@pytest.mark.parametrize(("convention", "scheme", "options", "said"), PARTLY)
def test_what_some_loaders_read_is_written_with_a_warning(convention, scheme, options, said, save, tmp_path):
    source = save({"a.weight": torch.randn(256, 256)})
    plan = planned(source, tmp_path / "o.safetensors", convention, scheme, **options)
    assert [text for text in map(str, plan.log.warnings) if said in text]


@pytest.mark.parametrize("convention", [n for n in catalog.conventions() if catalog.convention(n).schemes])
def test_a_padded_tensor_is_taken_by_nobody_but_us(convention, save, tmp_path):
    """ComfyUI finds ffn_dim of Wan in a weight's shape and then refuses the bias; the others know all shapes."""
    schemes = [s for s in ("nvfp4", "mxfp8", "mxfp4", "int4") if s in catalog.convention(convention).schemes]
    source = save({"a.weight": torch.randn(40, 40), "a.bias": torch.randn(40)})
    for scheme in schemes:
        if convention == "neutral":
            planned(source, tmp_path / "o", convention, scheme, on_bad_shape="pad")
            continue
        with pytest.raises(PlanError, match=r"a\.weight: cannot be padded: .*on_bad_shape='keep'"):
            planned(source, tmp_path / "o", convention, scheme, on_bad_shape="pad")


QKV = {f"{AT}.self_attn.{n}_proj": (128, 128) for n in "qkvo"}
MLP = {f"{AT}.mlp.gate_proj": (256, 128), f"{AT}.mlp.up_proj": (256, 128), f"{AT}.mlp.down_proj": (128, 256)}


@pytest.mark.parametrize(("convention", "options"), [("deepseek", {}), (CT, {"granularity": "block"})])
@pytest.mark.parametrize("member", ["q", "k"])
def test_joined_layers_are_kept_where_blocks_do_not_divide_one(member, convention, options, llama, tmp_path):
    """vLLM: validate_fp8_block_shape asks it of all that are joined but the last."""
    odd = {**QKV, f"{AT}.self_attn.{member}_proj": (64, 128)}
    plan = planned(llama({**odd, **MLP}), tmp_path / "o", convention, "fp8", **options)
    found = fates(plan)
    for n in "qkv":
        assert found[f"{AT}.self_attn.{n}_proj.weight"] == "None"
    for n in ("self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"):
        assert found[f"{AT}.{n}.weight"] == "fp8"
    said = " ".join(map(str, plan.log.warnings))
    assert "64 rows are not a multiple of 128" in said
    assert (
        f"{AT}.self_attn.v_proj.weight: not quantized: {AT}.self_attn.{member}_proj.weight, which it is"
        in said
    )


def test_the_last_of_what_is_joined_need_not_be_whole_blocks(llama, tmp_path):
    shapes = {**QKV, f"{AT}.self_attn.v_proj": (64, 128), **MLP}
    plan = planned(llama(shapes), tmp_path / "o", CT, "fp8", granularity="block")
    assert set(fates(plan).values()) == {"fp8", "None"}
    assert fates(plan)[f"{AT}.self_attn.v_proj.weight"] == "fp8"
    # transformers without a GPU divides 192 rows by two scales and decodes blocks of 96
    shapes[f"{AT}.self_attn.o_proj"] = (192, 128)
    assert (
        fates(planned(llama(shapes), tmp_path / "o", "deepseek", "fp8"))[f"{AT}.self_attn.o_proj.weight"]
        == "None"
    )


@pytest.mark.parametrize("convention", [CT, "modelopt"])
def test_all_experts_of_a_layer_stay_where_one_does(convention, llama, tmp_path):
    experts = {}
    for layer in (0, 1):
        for e in (0, 1):
            for n, shape in (("gate_proj", (48, 128)), ("up_proj", (48, 128)), ("down_proj", (128, 48))):
                wide = tuple(64 if size == 48 and layer else size for size in shape)
                experts[f"model.layers.{layer}.mlp.experts.{e}.{n}"] = wide
    found = fates(planned(llama({**QKV, **experts}), tmp_path / "o", convention, "mxfp8"))
    assert {found[f"{n}.weight"] for n in experts if "layers.0" in n} == {"None"}  # 48 columns
    assert {found[f"{n}.weight"] for n in experts if "layers.1" in n} == {"mxfp8"}
    assert found[f"{AT}.self_attn.q_proj.weight"] == "mxfp8"


def test_a_member_with_a_nan_keeps_the_others(llama, tmp_path):
    folder = llama({**QKV, **MLP})
    tensors = load_file(folder / "model.safetensors")
    tensors[f"{AT}.self_attn.k_proj.weight"][3, 4] = float("nan")
    save_file(tensors, folder / "model.safetensors")
    found = fates(planned(folder, tmp_path / "o", CT, "int8", on_nonfinite="keep"))
    assert {n[-13:-7] for n, scheme in found.items() if scheme == "None" and "proj" in n} == {
        "q_proj",
        "k_proj",
        "v_proj",
    }
    assert (
        fates(planned(folder, tmp_path / "o", "neutral", "int8", on_nonfinite="keep"))[
            f"{AT}.self_attn.q_proj.weight"
        ]
        == "int8"
    )


@pytest.mark.parametrize(
    "how", [{"exclude": ["v_proj"]}, {"overrides": {"v_proj": "fp8"}}, {"overrides": {"v_proj": "keep"}}]
)
def test_who_quantizes_a_part_of_what_is_joined_is_warned(how, llama, tmp_path):
    plan = planned(llama({**QKV, **MLP}), tmp_path / "o", CT, "int8", **how)
    said = [
        text for text in map(str, plan.log.warnings) if "refuse them unless all are quantized alike" in text
    ]
    assert len(said) == 1
    assert "v_proj" in said[0]
    assert not any(
        "refuse them" in str(t)
        for t in planned(llama({**QKV, **MLP}), tmp_path / "o", "lightx2v", "int8", **how).log.warnings
    )


def test_experts_that_vllm_does_not_take_are_kept(llama, tmp_path):
    experts = {f"{AT}.mlp.experts.0.{n}_proj": (128, 128) for n in ("gate", "up", "down")}
    for convention, scheme, options in (
        ("modelopt", "fp8", {}),
        (CT, "int8", {"granularity": "tensor"}),
        (CT, "fp8", {"granularity": "tensor"}),
    ):
        plan = planned(llama({**QKV, **experts}), tmp_path / "o", convention, scheme, **options)
        assert {fates(plan)[f"{n}.weight"] for n in experts} == {"None"}
        assert fates(plan)[f"{AT}.self_attn.q_proj.weight"] == scheme
        assert any("it is of an expert, and vLLM takes" in text for text in map(str, plan.log.warnings))


@pytest.mark.parametrize("convention", [CT, "modelopt", "deepseek", "comfyui"])
def test_stacks_are_kept_where_no_loader_takes_them(convention, llama, tmp_path):
    folder = llama({**QKV, **MLP})
    tensors = load_file(folder / "model.safetensors")
    save_file(
        {**tensors, f"{AT}.mlp.experts.down_proj": torch.randn(2, 128, 128)}, folder / "model.safetensors"
    )
    plan = planned(folder, tmp_path / "o", convention, "fp8")
    assert fates(plan)[f"{AT}.mlp.experts.down_proj"] == "None"
    assert any("takes no 3-D tensor quantized" in text for text in map(str, plan.log.warnings))


@pytest.mark.parametrize("convention", [CT, "modelopt"])
def test_an_embedding_is_no_linear_layer(convention, llama, tmp_path):
    """config.json speaks of Linear modules: transformers would fill the embedding with noise."""
    folder = llama({**QKV, **MLP, "model.embed_tokens": (128, 128)})
    with pytest.raises(PlanError, match=r"embed_tokens\.weight: an embedding cannot be mxfp8 here"):
        planned(folder, tmp_path / "o", convention, "mxfp8", include=["embed_tokens"])


@pytest.mark.parametrize(
    ("convention", "scheme", "dtype"),
    [(CT, "mxfp8", "bfloat16"), (CT, "mxfp4", "bfloat16"), (CT, "nvfp4", "bfloat16"), ("modelopt", "mxfp8", "bfloat16"),
     (CT, "int8", "float32"), (CT, "int4", "float32"), ("modelopt", "nvfp4", "float32")],
)  # fmt: skip
def test_a_model_has_the_dtype_that_its_tensors_are_decoded_to(convention, scheme, dtype, llama, tmp_path):
    """compressed-tensors 0.20 decodes these to BF16 and casts nothing; vLLM takes ModelOpt's mxfp8 in BF16 alone."""
    for key in ("dtype", "torch_dtype"):
        folder = llama({**QKV, **MLP}, **{key: "float32", "text_config": {key: "float32", "n": 1}})
        flow = tc.open(folder) | tc.quantize(scheme)
        flow | tc.write(tmp_path / key, convention=convention)
        config = json.loads((tmp_path / key / "config.json").read_text())
        assert (config[key], config["text_config"]) == (dtype, {key: dtype, "n": 1})
        notes = map(str, flow.plan(tc.write(tmp_path / "n", convention=convention)).log.notes)
        said = [
            text for text in notes if re.search(rf"{key} is bfloat16, to which .* instead of float32", text)
        ]
        assert len(said) == (dtype == "bfloat16")
    folder = llama({**QKV, **MLP}, n=1)
    tc.open(folder) | tc.quantize(scheme) | tc.write(tmp_path / "none", convention=convention)
    config = json.loads((tmp_path / "none" / "config.json").read_text())
    assert config.get("torch_dtype") == ("bfloat16" if dtype == "bfloat16" else None)
