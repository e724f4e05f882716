"""What is written for vLLM and transformers is read by the code of compressed-tensors and of transformers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import transcode as tc
from tests.consumers.config.reading import CT, config_of, same, weights
from transcode.stages.calibrate import Calibrate

pytest.importorskip("transformers")
pytest.importorskip(
    "compressed_tensors", reason="needs compressed-tensors, which is a development dependency"
)


CASES: list[tuple[str, dict[str, Any]]] = [
    ("int8", {}), ("int8", {"granularity": "tensor"}), ("int8", {"granularity": "group", "group_size": 32}),
    ("int8", {"symmetric": False}), ("int4", {}), ("int4", {"group_size": 32, "symmetric": False}),
    ("fp8", {}), ("fp8", {"granularity": "tensor"}), ("fp8", {"granularity": "block"}),
    ("mxfp8", {}), ("mxfp4", {}), ("nvfp4", {}),
]  # fmt: skip

# compressed-tensors' own name of what a case is: quant_scheme.py.
PRESETS: list[tuple[str, dict[str, Any], str, str]] = [
    ("int8", {}, "W8A8", "int-quantized"),
    ("int4", {}, "W4A16", "pack-quantized"),
    ("int4", {"symmetric": False}, "W4A16_ASYM", "pack-quantized"),
    ("fp8", {}, "FP8_DYNAMIC", "float-quantized"),
    ("fp8", {"granularity": "block"}, "FP8_BLOCK", "float-quantized"),
    ("mxfp8", {}, "MXFP8A16", "mxfp8-quantized"),
    ("mxfp4", {}, "MXFP4A16", "mxfp4-pack-quantized"),
    ("nvfp4", {}, "NVFP4A16", "nvfp4-pack-quantized"),
]


@pytest.mark.parametrize(
    ("scheme", "options", "tied"), [*((*case, False) for case in CASES), ("int4", {}, True)]
)
def test_transformers_decodes_it_as_we_do(scheme, options, tied, llama, tmp_path):
    from transformers import CompressedTensorsConfig

    source = llama(tied)
    tc.open(source) | tc.quantize(scheme, **options) | tc.write(tmp_path / "q", convention=CT)
    tc.open(tmp_path / "q") | tc.dequantize("BF16", convention=CT) | tc.write(tmp_path / "d")
    found = weights(tmp_path / "q", quantization_config=CompressedTensorsConfig(dequantize=True))
    same(found, weights(tmp_path / "d"))
    # Both could be wrong alike: the values are those of the source, but for the steps of the scheme.
    step = 0.3 if "4" in scheme and scheme != "fp8" else 0.07
    for name, value in weights(source).items():
        error = (found[name].float() - value.float()).norm() / value.float().norm()
        assert error < step, name
        assert (error > 0) == ("_proj" in name), name


@pytest.mark.parametrize(("scheme", "options"), [c for c in CASES if c != CASES[5]])
def test_the_layers_that_compressed_tensors_makes_take_the_tensors(scheme, options, llama, tmp_path):
    """Names, dtypes, shapes. Not of asymmetric int4: there 0.20 expects zero points that are not packed."""
    tc.open(llama()) | tc.quantize(scheme, **options) | tc.write(tmp_path / "q", convention=CT)
    weights(tmp_path / "q")


@pytest.mark.parametrize(("scheme", "options", "preset", "form"), PRESETS)
def test_a_group_is_the_preset_of_that_name(scheme, options, preset, form, llama, tmp_path):
    from compressed_tensors.quantization import QuantizationConfig
    from compressed_tensors.quantization.quant_scheme import preset_name_to_scheme

    tc.open(llama()) | tc.quantize(scheme, **options) | tc.write(tmp_path / "q", convention=CT)
    stated = config_of(tmp_path / "q")["quantization_config"]
    read = QuantizationConfig.model_validate(stated)
    assert (read.format, read.quantization_status.value, read.ignore) == (form, "compressed", ["lm_head"])
    (group,) = read.config_groups.values()
    expected = preset_name_to_scheme(preset, ["Linear"])
    assert group.model_copy(update={"format": None}) == expected
    assert group.format == form


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("rows", "columns"), [(8, 128), (37, 384), (1, 128), (2051, 1024)])
def test_int4_is_packed_as_compressed_tensors_packs(rows, columns, symmetric, save, tmp_path):
    from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32

    x = torch.randn(rows, columns, generator=torch.Generator().manual_seed(rows)) + 0.3
    flow = tc.open(save({"layers.0.q.weight": x})) | tc.quantize("int4", group_size=64, symmetric=symmetric)
    flow | tc.write(tmp_path / "n.safetensors", convention="neutral")
    neutral, name = load_file(tmp_path / "n.safetensors"), "layers.0.q.weight"
    nibbles = torch.stack((neutral[name] & 15, neutral[name] >> 4), -1).reshape(rows, columns)
    codes = torch.where(nibbles > 7, nibbles.int() - 16, nibbles.int()).to(torch.int8)
    for threads in (1, 2):
        path = tmp_path / f"{threads}.safetensors"
        flow | tc.write(path, convention=CT, workers=threads, memory="2MB")
        found = load_file(path)
        assert torch.equal(found["layers.0.q.weight_packed"], pack_to_int32(codes, 4))
        assert torch.equal(found["layers.0.q.weight_shape"], torch.tensor([rows, columns]))
        assert torch.equal(found["layers.0.q.weight_scale"], neutral[f"{name}_scale"])
        if not symmetric:
            zeros = pack_to_int32(neutral[f"{name}_zero_point"], 4, packed_dim=0)
            assert torch.equal(found["layers.0.q.weight_zero_point"], zeros)
    for convention, path in (("neutral", "n.safetensors"), (CT, "1.safetensors")):
        out = tmp_path / f"{convention}-d.safetensors"
        tc.open(tmp_path / path) | tc.dequantize("F32", convention=convention) | tc.write(out)
    same(load_file(tmp_path / f"{CT}-d.safetensors"), load_file(tmp_path / "neutral-d.safetensors"))


@pytest.mark.parametrize("preset", ["W4A16", "W4A16_ASYM"])
def test_what_compressed_tensors_packed_is_read(preset, save, tmp_path):
    """Its own scales, codes and packing; decoded by it and by us."""
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization.quant_scheme import preset_name_to_scheme
    from compressed_tensors.quantization.utils import calculate_qparams

    scheme = preset_name_to_scheme(preset, ["Linear"])
    x = torch.randn(45, 512, generator=torch.Generator().manual_seed(7)) + 0.2
    groups = x.reshape(45, 4, 128)
    scale, zero = calculate_qparams(groups.amin(-1), groups.amax(-1), scheme.weights)
    compressor = BaseCompressor.get_value_from_registry("pack-quantized")
    given = {"weight": x, "weight_scale": scale, "weight_zero_point": zero.to(torch.int8)}
    packed = compressor.compress(given, scheme)
    save({f"a.{name}": value for name, value in packed.items()})
    flow = tc.open(tmp_path / "model.safetensors") | tc.dequantize("F32", convention=CT)
    flow | tc.write(tmp_path / "out" / "d.safetensors")
    found = load_file(tmp_path / "out" / "d.safetensors")
    same(found, {"a.weight": compressor.decompress(packed, scheme)["weight"]})


def test_mixed_schemes_are_told_by_name(llama, tmp_path):
    from transformers import AutoModelForCausalLM

    flow = tc.open(llama()) | tc.quantize(
        "int4", overrides={"layers.1.mlp": "fp8", "down_proj": "keep"}, exclude=["layers.0.*.v_proj"]
    )
    plan = flow.plan(tc.write(tmp_path / "q", convention=CT))
    flow | tc.write(tmp_path / "q", convention=CT)
    assert not any("quantization_config" in said for said in map(str, plan.log.warnings))
    stated = config_of(tmp_path / "q")["quantization_config"]
    assert stated["format"] == "mixed-precision"
    assert stated["ignore"] == ["lm_head", "model.layers.0.mlp.down_proj", "model.layers.0.self_attn.v_proj"]
    first, second = stated["config_groups"].values()
    assert (first["targets"], first["format"]) == (["Linear"], "pack-quantized")
    mlp = [f"model.layers.1.mlp.{name}" for name in ("down_proj", "gate_proj", "up_proj")]
    assert (second["targets"], second["format"]) == (mlp, "float-quantized")
    tc.open(tmp_path / "q") | tc.dequantize("BF16", convention=CT) | tc.write(tmp_path / "d")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "q", dtype=torch.bfloat16)
    model(torch.arange(4)[None])  # decodes; dequantize=True of transformers 5 knows one scheme to a model
    found = {name: value for name, value in model.state_dict().items() if "weight_" not in name}
    same(found, weights(tmp_path / "d"))


def test_calibrated_nvfp4_says_that_inputs_are_quantized(llama, tmp_path):
    """W4A4, with the scale that the calibration gave; alpha is computed by the consumer."""
    from compressed_tensors.quantization import QuantizationConfig
    from compressed_tensors.quantization.quant_scheme import preset_name_to_scheme

    names = [name for name in load_file(llama() / "model.safetensors") if "_proj" in name]
    torch.save({"absmax": {name: torch.tensor(5.25) for name in names}}, tmp_path / "calib.pt")
    flow = tc.open(llama()) | tc.quantize("nvfp4") | Calibrate(str(tmp_path / "calib.pt"))
    flow | tc.write(tmp_path / "ct", convention=CT)
    stated = config_of(tmp_path / "ct")["quantization_config"]
    (group,) = QuantizationConfig.model_validate(stated).config_groups.values()
    expected = preset_name_to_scheme("NVFP4", ["Linear"])
    assert group.weights == expected.weights
    found, told = group.input_activations.model_dump(), expected.input_activations.model_dump()
    assert {**found, "observer": None} == {**told, "observer": None}
    stored = load_file(tmp_path / "ct" / "model.safetensors")
    stem = names[0].removesuffix(".weight")
    assert torch.equal(stored[f"{stem}.input_global_scale"], torch.tensor([512.0]))  # 2688 / 5.25
    assert not any(name.endswith(".alpha") for name in stored)

    flow | tc.write(tmp_path / "mo", convention="modelopt")
    assert config_of(tmp_path / "mo")["quantization_config"]["quant_algo"] == "NVFP4"
    stored = load_file(tmp_path / "mo" / "model.safetensors")
    assert torch.equal(stored[f"{stem}.input_scale"], torch.tensor(1 / 512))
    with pytest.raises(tc.TranscodeError, match="the consumer computes alpha itself"):
        (
            tc.open(llama())
            | tc.quantize("nvfp4")
            | Calibrate(str(tmp_path / "calib.pt"), keep_global_scale=False)
            | tc.write(tmp_path / "no", convention=CT)
        )
