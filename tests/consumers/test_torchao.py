"""Tensors that torchao flattened: decoded as it does, written so that it builds the same again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import transcode as tc
from transcode.consumers import torchao
from transcode.errors import PlanError

ao = pytest.importorskip("torchao.quantization")
mx = pytest.importorskip("torchao.prototype.mx_formats")
support = pytest.importorskip("torchao.prototype.safetensors.safetensors_support")

LAYER = "model.layers.0.mlp.up_proj"
NAME = f"{LAYER}.weight"
FP4 = torch.float4_e2m1fn_x2
KINDS = {
    "rows of int8": ao.Int8WeightOnlyConfig(version=2),
    "int8": ao.Int8WeightOnlyConfig(version=2, granularity=ao.PerTensor()),
    "groups of int8": ao.Int8WeightOnlyConfig(version=2, granularity=ao.PerGroup(96)),
    "int8 with zero points": ao.IntxWeightOnlyConfig(mapping_type=ao.MappingType.ASYMMETRIC),
    "rows of fp8": ao.Float8WeightOnlyConfig(),
    "e5m2": ao.Float8WeightOnlyConfig(weight_dtype=torch.float8_e5m2, granularity=ao.PerTensor()),
    "mxfp8": mx.MXDynamicActivationMXWeightConfig(),
    "mxfp4": mx.MXDynamicActivationMXWeightConfig(activation_dtype=FP4, weight_dtype=FP4),
    "nvfp4": mx.NVFP4WeightOnlyConfig(),
}
UNPACKED = ao.IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=ao.PerGroup(32))


def theirs(config: Any, file: Path, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    """A layer that torchao quantized and flattened; its weight."""
    torch.manual_seed(0)
    layer = torch.nn.Linear(192, 80).to(dtype)
    ao.quantize_(layer, config)
    weight: torch.Tensor = layer.weight.data
    save(file, *support.flatten_tensor_state_dict({NAME: weight, f"{LAYER}.bias": layer.bias.data}))
    return weight


def save(file: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
    save_file({name: one.contiguous() for name, one in tensors.items()}, file, metadata)


def said(file: Path) -> dict[str, str]:
    with safe_open(file, "pt") as opened:
        return dict(opened.metadata())


def decoded(file: Path, out: Path, to: str = "BF16") -> torch.Tensor:
    tc.open(file) | tc.dequantize(to) | tc.write(out, force=True)
    assert not torchao.listed(said(out))
    return load_file(out)[NAME]


def stated(file: Path) -> Any:
    """What metadata says of the tensor; it lists parts in no order."""
    one = json.loads(said(file)[NAME])
    return {**one, "_tensor_data_names": set(one["_tensor_data_names"])}


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_decoded_as_torchao_does_and_written_back_to_the_bit(kind: str, tmp_path: Path) -> None:
    source, back = tmp_path / "s.safetensors", tmp_path / "b.safetensors"
    weight = theirs(KINDS[kind], source)
    assert torch.equal(decoded(source, tmp_path / "d.safetensors"), weight.dequantize())
    tc.open(source) | tc.write(tmp_path / "n.safetensors", convention="neutral")
    tc.open(tmp_path / "n.safetensors") | tc.write(back, convention="torchao")
    parts, own = load_file(source), load_file(back)
    assert parts.keys() == own.keys()
    for name, one in parts.items():
        assert (one.dtype, one.shape) == (own[name].dtype, own[name].shape)
        assert one.reshape(-1).view(torch.uint8).equal(own[name].reshape(-1).view(torch.uint8))
    assert stated(back) == stated(source)
    built, left = support.unflatten_tensor_state_dict(own, said(back))
    assert not left
    assert type(built[NAME]) is type(weight)
    assert torch.equal(built[NAME].dequantize(), weight.dequantize())


@pytest.mark.parametrize("group", [32, 128])
def test_its_int4_is_decoded_as_it_does_and_written_back_to_the_bit(group: int, tmp_path: Path) -> None:
    """Its encoder is a library of CUDA's; its decoder is that of its GPTQ."""
    api = pytest.importorskip("torchao.prototype.gptq.api")
    torch.manual_seed(0)
    codes = torch.randint(-8, 8, (80, 256), dtype=torch.int8)
    scale, zero = torch.rand(256 // group, 80).bfloat16(), torch.randn(256 // group, 80).bfloat16()
    packed = codes[:, ::2] & 15 | codes[:, 1::2] << 4
    weight = ao.Int4Tensor(packed, scale, zero, [1, group], torch.Size((80, 256)))
    source, back = tmp_path / "s.safetensors", tmp_path / "b.safetensors"
    save(source, *support.flatten_tensor_state_dict({NAME: weight}))
    theirs = api._int4_row_dequantize_zp(codes, scale.float(), zero.float(), group)
    assert torch.equal(decoded(source, tmp_path / "d.safetensors", "F32"), theirs)
    tc.open(source) | tc.write(tmp_path / "n.safetensors", convention="neutral")
    tc.open(tmp_path / "n.safetensors") | tc.write(back, convention="torchao")
    built, left = support.unflatten_tensor_state_dict(load_file(back), said(back))
    assert (stated(back), left) == (stated(source), {})
    for part in ("qdata", "scale", "zero_point"):
        assert torch.equal(getattr(built[NAME], part), getattr(weight, part))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_codes_of_few_bits_in_whole_bytes_are_integers_with_zero_points(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    weight = theirs(UNPACKED, tmp_path / "s.safetensors", dtype)
    to = {torch.float32: "F32", torch.float16: "F16"}[dtype]
    assert torch.equal(
        decoded(tmp_path / "s.safetensors", tmp_path / "d.safetensors", to), weight.dequantize()
    )


@pytest.mark.parametrize(("elements", "called"), [(torch.float8_e4m3fn, "mxfp8"), (FP4, "mxfp4")])
def test_scales_in_plain_rows_are_read(elements: torch.dtype, called: str, tmp_path: Path) -> None:
    from torchao.prototype.mx_formats.mx_tensor import MXTensor

    weight = MXTensor.to_mx(torch.randn(80, 192).bfloat16(), elements)
    source = tmp_path / "s.safetensors"
    save(source, *support.flatten_tensor_state_dict({NAME: weight}))
    assert torch.equal(decoded(source, tmp_path / "d.safetensors"), weight.dequantize())
    tensors, metadata = load_file(source), said(source)
    one = json.loads(metadata[NAME])
    one["_data"]["is_swizzled_scales"] = True
    save(source, tensors, {**metadata, NAME: json.dumps(one)})
    with pytest.raises(PlanError, match="is_swizzled_scales is True"):
        decoded(source, tmp_path / "d.safetensors")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"_type": "Int4TilePackedTo4dTensor"}, f"{NAME}: is a Int4TilePackedTo4dTensor of torchao"),
        ({"_type": "Float8Tensor"}, "says of it that it is Float8Tensor"),
        ({"_data": {"block_size": [1, 64]}}, r"says of it that block_size is \[1, 64\]"),
        ({"_data": {"block_size": [1, 192], "act_pre_scales": 2}}, "act_pre_scales is 2, which is not known"),
    ],
)
def test_what_metadata_says_otherwise_is_refused(change: dict[str, Any], words: str, tmp_path: Path) -> None:
    source = tmp_path / "s.safetensors"
    theirs(KINDS["rows of int8"], source)
    metadata = said(source)
    one = {**json.loads(metadata[NAME]), **change}
    save(source, load_file(source), {**metadata, NAME: json.dumps(one)})
    with pytest.raises(PlanError, match=words):
        decoded(source, tmp_path / "d.safetensors")


def test_without_a_list_of_tensors_or_beside_what_scales_inputs_nothing_is_decoded(tmp_path: Path) -> None:
    source, bare = tmp_path / "s.safetensors", tmp_path / "bare.safetensors"
    theirs(KINDS["rows of int8"], source)
    save(bare, load_file(source), {})
    with pytest.raises(PlanError, match="does not list it"):
        decoded(bare, tmp_path / "d.safetensors")
    more = {**load_file(source), f"{LAYER}._weight_act_pre_scale": torch.ones(192)}
    save(source, more, said(source))
    with pytest.raises(PlanError, match="_weight_act_pre_scale' stands beside it"):
        decoded(source, tmp_path / "d.safetensors")


def test_zero_points_of_an_int8_tensor_are_looked_at(tmp_path: Path) -> None:
    source = tmp_path / "s.safetensors"
    theirs(KINDS["rows of int8"], source)
    tensors = load_file(source)
    tensors[f"{LAYER}._weight_zero_point"][3] = 5
    save(source, tensors, said(source))
    with pytest.raises(tc.errors.DataError, match="holds one of 5"):
        decoded(source, tmp_path / "d.safetensors")


def test_the_list_follows_the_tensors(tmp_path: Path) -> None:
    """Some are decoded, some are renamed: it says of each what it is, in every file."""
    torch.manual_seed(0)
    names = [f"model.layers.{n}.mlp.up_proj.weight" for n in range(3)]
    plain = {name: torch.randn(64, 64).bfloat16() for name in names}
    save_file(plain, tmp_path / "p.safetensors")
    flow = tc.open(tmp_path / "p.safetensors") | tc.quantize("int8")
    flow | tc.write(tmp_path / "q", convention="torchao", layout="chunked", max_shard_size=6000)
    files = sorted((tmp_path / "q").glob("*.safetensors"))
    assert len(files) > 1
    assert all(torchao.listed(said(file)).keys() == set(names) for file in files)
    flow = tc.open(tmp_path / "q") | tc.dequantize(only=["layers.1"]) | tc.rename({r"layers\.2": "layers.7"})
    flow | tc.write(tmp_path / "o.safetensors")
    kinds = {name: one["_type"] for name, one in torchao.listed(said(tmp_path / "o.safetensors")).items()}
    renamed = names[2].replace("layers.2", "layers.7")
    assert kinds == {names[0]: "Int8Tensor", names[1]: "Tensor", renamed: "Int8Tensor"}
    built, left = support.unflatten_tensor_state_dict(
        load_file(tmp_path / "o.safetensors"), said(tmp_path / "o.safetensors")
    )
    assert (built.keys(), left) == (kinds.keys(), {})


def test_of_a_part_of_a_model_it_says_what_is_below(tmp_path: Path) -> None:
    theirs(KINDS["rows of fp8"], tmp_path / "s.safetensors")
    metadata = said(tmp_path / "s.safetensors")
    inner = torchao.below({**metadata, "format": "pt"}, "model.")
    assert torchao.listed(inner).keys() == {
        NAME.removeprefix("model."),
        f"{LAYER}.bias".removeprefix("model."),
    }
    assert torchao.without(inner) == {"format": "pt"}
    assert torchao.listed(torchao.below(metadata, "other.")) == {}


@pytest.mark.parametrize("names", ["3", "[1]", '["a.weight"]', "no JSON", '"a.weight"'])
def test_what_is_not_its_list_is_not_taken_for_one(names: str) -> None:
    assert torchao.listed({"tensor_names": names, "a.bias": "{}"}) == {}


def test_transformers_loads_it_and_computes_the_same(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "vocab_size": 32}
    config = transformers.LlamaConfig(**sizes, num_attention_heads=2, num_key_value_heads=2)
    transformers.LlamaForCausalLM(config).bfloat16().save_pretrained(tmp_path / "m")
    load = transformers.AutoModelForCausalLM.from_pretrained
    flow = tc.open(tmp_path / "m") | tc.quantize(
        "int8", granularity="group", group_size=32, overrides={"up_proj": "fp8"}
    )
    flow | tc.write(tmp_path / "q", convention="torchao", layout="chunked", max_shard_size=60_000)
    tc.open(tmp_path / "q") | tc.dequantize() | tc.write(tmp_path / "d")
    ours, plain = (load(tmp_path / one, dtype=torch.bfloat16) for one in ("q", "d"))
    mlp = ours.model.layers[1].mlp
    assert type(mlp.up_proj.weight.data) is ao.Float8Tensor
    assert type(mlp.down_proj.weight.data) is ao.Int8Tensor
    with torch.no_grad():
        assert torch.equal(*(one(torch.arange(8)[None]).logits for one in (ours, plain)))


def test_experts_are_kept(save, tmp_path):
    """transformers 5 stacks experts by the names of plain weights: of others it draws them at random."""
    layer = "model.layers.0"
    shapes = {f"{layer}.self_attn.{one}_proj": (64, 64) for one in "qkvo"}
    experts = [f"{layer}.mlp.experts.{expert}" for expert in range(2)]
    shapes |= {f"{name}.{one}_proj": (64, 64) for name in experts for one in ("gate", "up", "down")}
    tensors = {f"{name}.weight": torch.ones(shape) for name, shape in shapes.items()}
    source = save(tensors | {f"{layer}.input_layernorm.weight": torch.ones(64)})
    plan = (tc.open(source) | tc.quantize("int8")).plan(tc.write(tmp_path / "o", convention="torchao"))
    assert {one.name for one in plan.tensors if one.scheme is not None} == {
        f"{layer}.self_attn.{one}_proj.weight" for one in "qkvo"
    }
