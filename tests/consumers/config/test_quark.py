"""What AMD's Quark exported is read as it is; what is written for it has the same parts and says the same.

``fixtures/quark`` is by Quark itself (``tools/make_quark.py``).
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import transcode as tc
from transcode.errors import PlanError

FIXTURES = Path(__file__).parents[3] / "fixtures" / "quark"
NAME = "model.layers.0.mlp.up_proj.weight"
E2M1 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])
KINDS = {
    "fp8_channel": ("fp8", {}),
    "fp8_tensor": ("fp8", {"granularity": "tensor"}),
    "int8_channel": ("int8", {}),
    "int8_tensor": ("int8", {"granularity": "tensor", "scale_dtype": "F32"}),
    "mxfp4": ("mxfp4", {}),
}
UNSAID = {
    "block_size",
    "enable_buffer_reuse",
    "max_input_numel",
    "scale_type",
    "scale_calculation_mode",
    "scale_format",
}
"""Of its observers alone, or null where it is not looked at."""


def formula(parts: dict[str, torch.Tensor]) -> torch.Tensor:
    """``dequantize`` of Quark's kernels."""
    codes, scale = parts[NAME], parts[f"{NAME}_scale"].float()
    if codes.dtype == torch.uint8:  # two codes to a byte, the first lowest; exponents
        numbers = torch.stack([codes & 15, codes >> 4], -1).reshape(len(codes), -1).long()
        values = E2M1[numbers & 7] * (1 - 2 * (numbers >> 3))
        return values * (2.0 ** (parts[f"{NAME}_scale"].float() - 127)).repeat_interleave(32, 1)
    return codes.float() * (scale[:, None] if scale.ndim else scale)


def decoded(source: Path, out: Path) -> torch.Tensor:
    tc.open(source) | tc.dequantize("F32") | tc.write(out)
    assert "quantization_config" not in json.loads((out / "config.json").read_text())
    return load_file(out / "model.safetensors")[NAME]


@pytest.mark.parametrize("kind", KINDS)
def test_what_quark_exported_is_decoded_and_written_back(kind, tmp_path):
    parts = load_file(FIXTURES / kind / "model.safetensors")
    assert torch.equal(decoded(FIXTURES / kind, tmp_path / "d"), formula(parts))
    tc.open(FIXTURES / kind) | tc.write(tmp_path / "n", convention="neutral")
    tc.open(tmp_path / "n") | tc.write(tmp_path / "b", convention="quark")
    back = load_file(tmp_path / "b" / "model.safetensors")
    assert back.keys() == parts.keys()
    assert all(back[name].dtype == one.dtype for name, one in parts.items())
    assert all(
        back[name].reshape(-1).view(torch.uint8).equal(one.reshape(-1).view(torch.uint8))
        for name, one in parts.items()
    )


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_says_what_quark_says(kind, tmp_path):
    scheme, options = KINDS[kind]
    weight = torch.randn(96, 64, generator=torch.Generator().manual_seed(1)).bfloat16()
    (tmp_path / "m").mkdir()
    save_file(
        {NAME: weight, "lm_head.weight": torch.ones(32, 64).bfloat16()}, tmp_path / "m" / "model.safetensors"
    )
    (tmp_path / "m" / "config.json").write_text('{"model_type": "toy"}')
    flow = tc.open(tmp_path / "m") | tc.quantize(scheme, exclude=["lm_head"], **options)
    flow | tc.write(tmp_path / "q", convention="quark")
    written, theirs = (load_file(one / "model.safetensors") for one in (tmp_path / "q", FIXTURES / kind))
    assert {n: (t.dtype, t.shape) for n, t in written.items()} == {
        n: (t.dtype, t.shape) for n, t in theirs.items()
    }
    said, wanted = (
        json.loads((one / "config.json").read_text())["quantization_config"]
        for one in (tmp_path / "q", FIXTURES / kind)
    )
    assert said["exclude"] == wanted["exclude"] == ["lm_head"]
    assert said["export"] == wanted["export"]
    own, their = (one["global_quant_config"]["weight"] for one in (said, wanted))
    assert {key: own[key] for key in their if key not in UNSAID} == {
        key: value for key, value in their.items() if key not in UNSAID
    }
    inputs, those = (one["global_quant_config"]["input_tensors"] for one in (said, wanted))
    assert (inputs and (inputs["dtype"], inputs["is_dynamic"])) == (
        those and (those["dtype"], those["is_dynamic"])
    )
    values = decoded(tmp_path / "q", tmp_path / "d")
    assert torch.equal(values, formula(written))
    assert (values - weight.float()).norm() < 0.13 * weight.float().norm()


def test_layers_of_several_kinds_are_named_and_left_out_by_name(tmp_path):
    (tmp_path / "m").mkdir()
    names = [f"model.layers.{n}.mlp.up_proj" for n in range(3)]
    save_file({f"{n}.weight": torch.randn(32, 64) for n in names}, tmp_path / "m" / "model.safetensors")
    (tmp_path / "m" / "config.json").write_text('{"model_type": "toy"}')
    flow = tc.open(tmp_path / "m") | tc.quantize("fp8", overrides={"layers.1": "mxfp4"})
    flow | tc.write(tmp_path / "q", convention="quark")
    said = json.loads((tmp_path / "q" / "config.json").read_text())["quantization_config"]
    assert said["global_quant_config"]["weight"]["dtype"] == "fp8_e4m3"
    assert {name: one["weight"]["dtype"] for name, one in said["layer_quant_config"].items()} == {
        names[1]: "fp4"
    }
    flow = tc.open(tmp_path / "q") | tc.dequantize(only=["layers.1"])
    flow | tc.write(tmp_path / "d", convention="quark")
    said = json.loads((tmp_path / "d" / "config.json").read_text())["quantization_config"]
    assert said["layer_quant_config"] == {}
    assert names[1] in said["exclude"]


@pytest.mark.parametrize("algorithms", [{"name": "rotation"}, [{"name": "awq"}, {"name": "quarot"}]])
def test_turned_weights_are_not_taken_for_plain_ones(algorithms, tmp_path):
    config = json.loads((FIXTURES / "mxfp4" / "config.json").read_text())
    config["quantization_config"]["algo_config"] = algorithms
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text(json.dumps(config))
    (tmp_path / "m" / "model.safetensors").write_bytes(
        (FIXTURES / "mxfp4" / "model.safetensors").read_bytes()
    )
    with pytest.raises(PlanError, match="says algo_config"):
        tc.open(tmp_path / "m") | tc.dequantize() | tc.write(tmp_path / "d")
