"""What decoding and casting must not leave lying there: codes without scales, scales without codes, words of
config.json without which the values are not those of the model.
"""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

LAYER = "model.layers.0.self_attn.q_proj."
OTHER = "model.layers.0.self_attn.k_proj."
F8 = torch.float8_e4m3fn


def values(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 0.02


def int8(layer: str = LAYER, seed: int = 0) -> dict[str, torch.Tensor]:
    w = values(64, 64, seed=seed)
    scale = w.abs().amax(1, keepdim=True) / 127
    return {f"{layer}weight": (w / scale).round().to(torch.int8), f"{layer}weight_scale": scale}


def config(weights: dict | None = None, **more: object) -> dict:
    weights = weights or {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel"}
    groups = {"group_0": {"targets": ["Linear"], "weights": weights}}
    stated = {"quant_method": "compressed-tensors", "config_groups": groups, "ignore": ["lm_head"], **more}
    return {"model_type": "llama", "dtype": "bfloat16", "quantization_config": stated}


@pytest.fixture
def folder(tmp_path):
    def call(tensors: dict[str, torch.Tensor], told: object = None):
        path = tmp_path / "model"
        path.mkdir()
        save_file(tensors, path / "model.safetensors", {"format": "pt"})
        if told is not None:
            (path / "config.json").write_text(json.dumps(told))
        return path

    return call


def decoded(cli, source, tmp_path) -> dict[str, torch.Tensor]:
    cli("run", source, tmp_path / "out", "--dequantize", "f32")
    return load_file(tmp_path / "out" / "model.safetensors")


def test_what_is_whole_is_decoded(cli, folder, tmp_path):
    tensors = int8()
    found = decoded(cli, folder(tensors, config()), tmp_path)
    codes, scale = tensors.values()
    assert torch.equal(found[f"{LAYER}weight"], codes.float() * scale)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int32])
def test_codes_without_a_scale(dtype, refused, folder, tmp_path):
    alone = {f"{OTHER}weight": torch.ones(64, 64, dtype=dtype)}
    message = refused("run", folder(int8() | alone, config()), tmp_path / "out", "--dequantize", "f32")
    assert f"{OTHER}weight: holds " in message
    assert "no scale belongs" in message


def test_a_scale_without_codes(refused, cli, folder, tmp_path):
    both = int8() | int8(OTHER, 1)
    source = folder(both, config())
    message = refused("run", source, tmp_path / "out", "--drop", f"{OTHER}weight", "--dequantize", "f32")
    assert f"{OTHER}weight_scale: is a scale of '{OTHER}weight', which is not there" in message
    # and what the hint says is a way out
    cli("run", source, tmp_path / "o2", "--drop", f"re:{OTHER}", "--dequantize", "f32")
    assert set(load_file(tmp_path / "o2" / "model.safetensors")) == {f"{LAYER}weight"}


def test_a_scale_of_what_is_no_matrix(refused, folder, tmp_path):
    norm = {"norm.weight": values(64).to(F8), "norm.weight_scale": torch.tensor(0.5)}
    message = refused("run", folder(int8() | norm), tmp_path / "out", "--dequantize", "f32")
    assert "norm.weight: holds F8_E4M3[64], to which 'norm.weight_scale' belongs" in message


@pytest.mark.parametrize(
    ("convention", "scheme", "gone", "why"),
    [
        ("quanto", "int8", "weight._scale", "weight._data: holds I8[64,64], to which no scale belongs"),
        ("quanto", "int8", "weight._data", "weight._scale: is a scale of '{}weight._data'"),
        ("gptq", "int4", "scales", "qweight: holds I32[8,64], to which no scale belongs"),
        ("gptq", "int4", "qweight", "g_idx: is a part of '{}qweight'"),
        ("awq", "int4", "qzeros", "cannot be decoded"),
        ("sdnq", "int8", "weight", "scale: is a scale of '{}weight'"),
        ("sdnq", "affine", "scale", "weight: holds U8[2048], to which no scale belongs"),
        ("sdnq", "affine", "zero_point", "cannot be decoded"),
    ],
)
def test_a_layer_that_lacks_a_part_beside_whole_ones(
    convention, scheme, gone, why, cli, refused, folder, tmp_path
):
    """The parts that were left went into the output as they were, or were decoded without zero points."""
    plain = {f"{one}weight": values(64, 64) for one in (LAYER, OTHER)}
    source, quantized = folder(plain, {"model_type": "llama"}), tmp_path / "q"
    sized = ["-O", "group_size=64"] if scheme in ("int4", "affine") else []
    cli("run", source, quantized, "--scheme", scheme, "--convention", convention, *sized)
    tensors = load_file(quantized / "model.safetensors")
    del tensors[f"{OTHER}{gone}"]
    save_file(tensors, quantized / "model.safetensors")  # and no record, which nobody else's files have
    said = refused("run", quantized, tmp_path / "out", "--dequantize", "f32", "--convention", "plain")
    assert why.format(OTHER) in said
    assert OTHER in said


def test_norms_beside_sdnq_are_no_scales(cli, folder, tmp_path):
    norm = "double_blocks.0.img_attn.norm.query_norm.scale"
    source = folder({f"{LAYER}weight": values(64, 64), norm: values(64)})
    cli("run", source, tmp_path / "q", "--scheme", "int8", "--convention", "sdnq")
    cli("run", tmp_path / "q", tmp_path / "out", "--dequantize", "f32", "--convention", "plain")
    assert load_file(tmp_path / "out" / "model.safetensors").keys() == {f"{LAYER}weight", norm}


def test_a_scale_beside_plain_values_is_told(cli, folder, tmp_path):
    plain = {f"{OTHER}weight": values(64, 64), f"{OTHER}weight_scale": values(64, 1)}
    said = cli("run", folder(int8() | plain, config()), tmp_path / "out", "--dequantize", "f32").err
    assert f"1 scales belong to tensors that are not quantized, and stay ({OTHER}weight_scale ...)" in said


@pytest.mark.parametrize("how", [("--dequantize", "bf16"), ("--cast", "bf16")])
def test_fp8_without_the_scale_that_config_speaks_of(how, refused, folder, tmp_path):
    """One shard of several: its scales are in another."""
    told = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}
    tensors = {f"{OTHER}weight": values(128, 128).to(F8)}
    if how[0] == "--dequantize":
        tensors |= {f"{LAYER}weight": values(128, 128).to(F8), f"{LAYER}weight_scale_inv": torch.ones(1, 1)}
    message = refused("run", folder(tensors, told), tmp_path / "out", *how)
    assert (
        f"{OTHER}weight: is F8_E4M3 and has no scale, though config.json says quant_method 'fp8'" in message
    )


@pytest.mark.parametrize("name", ["weight_scale_1", "weight.scale", "w_scale"])
def test_fp8_is_not_cast_beside_what_may_be_its_scale(name, refused, folder, tmp_path):
    tensors = {"a.weight": values(64, 64).to(F8), f"a.{name}": torch.tensor(0.01)}
    message = refused("run", folder(tensors), tmp_path / "out", "--cast", "bf16")
    assert f"a.weight: is F8_E4M3, and 'a.{name}' stands beside it, which may be its scale" in message


@pytest.mark.parametrize("marker", ["scaled_fp8", "a.comfy_quant"])
def test_fp8_is_not_cast_under_a_marker(marker, refused, cli, folder, tmp_path):
    mark = torch.zeros(2, dtype=F8) if marker == "scaled_fp8" else torch.tensor(list(b'{"format": "x"}'))
    tensors = {
        "a.weight": values(64, 64).to(F8),
        marker: mark.to(F8 if marker == "scaled_fp8" else torch.uint8),
    }
    source = folder(tensors)
    assert f"{marker}: marks 'a.weight' as quantized" in refused(
        "run", source, tmp_path / "out", "--cast", "bf16"
    )
    cli("run", source, tmp_path / "out", "--drop", marker, "--cast", "bf16")
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert found.keys() == {"a.weight"}
    assert torch.equal(found["a.weight"], tensors["a.weight"].bfloat16())


def test_a_marker_of_another_part_is_not_of_this(cli, folder, tmp_path):
    """A text encoder with scales, a transformer without: what has none is cast, the marker stays."""
    codes, mark = values(64, 64).to(F8), torch.zeros(2, dtype=F8)
    tensors = {
        "t5.a.weight": codes.clone(),
        "t5.a.scale_weight": torch.tensor(0.5),
        "t5.scaled_fp8": mark,
        "dit.a.weight": codes,
    }
    said = cli("run", folder(tensors), tmp_path / "out", "--cast", "bf16").err
    assert "1 tensors are quantized" in said
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert torch.equal(found.pop("dit.a.weight"), codes.bfloat16())
    for name, value in found.items():
        assert value.dtype == tensors[name].dtype, name
        assert torch.equal(
            value.reshape(-1).view(torch.uint8), tensors[name].reshape(-1).view(torch.uint8)
        ), name


def test_names_of_flux_are_no_scales(cli, folder, tmp_path):
    """``norm.query_norm.scale`` is a tensor of its own."""
    names = ["double_blocks.0.img_attn.norm.query_norm.scale", "double_blocks.0.img_attn.qkv.weight"]
    tensors = {names[0]: values(64).to(F8), names[1]: values(64, 64).to(F8)}
    cli("run", folder(tensors), tmp_path / "out", "--cast", "bf16")
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert all(torch.equal(found[name], tensors[name].bfloat16()) for name in names)


def rotation(location: str) -> dict:
    apply = {"targets": ["re:.*q_proj$"], "location": location}
    return {"config_groups": {"R1": {"type": "hadamard", "apply": [apply]}}}


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"transform_config": rotation("input")}, "transform_config with location 'input'"),
        ({"transform_config": rotation("q_attn")}, "transform_config with location 'q_attn'"),
        (
            {"sparsity_config": {"format": "sparse-24-bitmask"}},
            "sparsity_config with format 'sparse-24-bitmask'",
        ),
    ],
)
@pytest.mark.parametrize("how", [["--dequantize", "f32"], ["--scheme", "int8"]])
def test_words_that_change_values(how, more, words, refused, folder, tmp_path):
    """Neither may they be lost with the quantization_config that is replaced over plain weights."""
    tensors = int8() if how[0] == "--dequantize" else {f"{LAYER}weight": values(64, 64)}
    source = folder(tensors, config(**more))
    said = refused("run", source, tmp_path / "out", *how, "--convention", "compressed_tensors")
    assert f"config.json says {words}" in said


@pytest.mark.parametrize(
    "more",
    [
        {"transform_config": {}},
        {"transform_config": rotation("weight_input")},
        {"sparsity_config": {"format": "dense"}},
    ],
)
def test_words_that_change_nothing(more, cli, folder, tmp_path):
    tensors = int8()
    found = decoded(cli, folder(tensors, config(**more)), tmp_path)
    codes, scale = tensors.values()
    assert torch.equal(found[f"{LAYER}weight"], codes.float() * scale)


def test_zero_points_that_are_not_there(refused, folder, tmp_path):
    told = config({"num_bits": 8, "type": "int", "symmetric": False, "strategy": "channel"})
    message = refused("run", folder(int8(), told), tmp_path / "out", "--dequantize", "f32")
    assert f"{LAYER}weight: cannot be decoded" in message
    assert "config.json says num_bits 8, symmetric false" in message


@pytest.mark.parametrize("bits", [2, 8])
def test_words_of_another_width(bits, refused, folder, tmp_path):
    """pack-quantized of 8 bits: four codes to a word, where int4 has eight."""
    told = config({"num_bits": bits, "type": "int", "symmetric": True, "strategy": "channel"})
    packed = torch.ones(64, 16, dtype=torch.int32)
    tensors = {f"{LAYER}weight_packed": packed, f"{LAYER}weight_scale": torch.ones(64, 1)}
    message = refused("run", folder(tensors, told), tmp_path / "out", "--dequantize", "f32")
    assert f"{LAYER}weight: cannot be decoded" in message
    assert f"num_bits {bits}" in message
