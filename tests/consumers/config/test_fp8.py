"""FP8 in blocks is decoded by transformers as it is here."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

import transcode as tc
from tests.consumers.config.reading import config_of, same, weights

pytest.importorskip("transformers")
pytest.importorskip(
    "compressed_tensors", reason="needs compressed-tensors, which is a development dependency"
)


def test_transformers_reads_deepseeks_fp8(llama, tmp_path):
    source = llama()
    tc.open(source) | tc.quantize("fp8", exclude=["o_proj"]) | tc.write(tmp_path / "q", convention="deepseek")
    stated = config_of(tmp_path / "q")["quantization_config"]
    kept = ["lm_head", *(f"model.layers.{n}.self_attn.o_proj" for n in (0, 1))]
    assert stated == {
        "activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8",
        "weight_block_size": [128, 128], "modules_to_not_convert": kept,
    }  # fmt: skip
    before = config_of(source)
    assert {**before, "quantization_config": stated} == config_of(tmp_path / "q")
    tc.open(tmp_path / "q") | tc.dequantize("BF16", convention="deepseek") | tc.write(tmp_path / "d")
    found = weights(tmp_path / "q")  # without a GPU it is decoded while it is loaded
    same(found, weights(tmp_path / "d"))
    assert torch.equal(found[f"{kept[1]}.weight"], weights(source)[f"{kept[1]}.weight"])


def test_transformers_reads_scales_that_are_powers_of_two(llama, tmp_path):
    """Its own rounding of the same weights gives the same codes and scales, and it decodes to the same."""
    finegrained = pytest.importorskip("transformers.integrations.finegrained_fp8")
    source = llama()
    flow = tc.open(source) | tc.quantize("fp8", scale_dtype="F8_E8M0")
    flow | tc.write(tmp_path / "q", convention="deepseek")
    stated = config_of(tmp_path / "q")["quantization_config"]
    assert stated["scale_fmt"] == "ue8m0"
    assert stated["weight_block_size"] == [128, 128]
    parts = load_file(tmp_path / "q" / "model.safetensors")
    config = SimpleNamespace(scale_fmt="ue8m0", weight_block_size=(128, 128))
    theirs = finegrained.Fp8Quantize(SimpleNamespace(quantization_config=config))
    plain, seen = weights(source), 0
    for name, codes in parts.items():
        if codes.dtype == torch.float8_e4m3fn:
            seen += 1
            made = theirs._quantize_one(name, plain[name])
            assert parts[f"{name}_scale_inv"].dtype == torch.float8_e8m0fnu
            for key in (name, f"{name}_scale_inv"):
                assert torch.equal(made[key].view(torch.uint8), parts[key].view(torch.uint8)), key
    assert seen == 14
    tc.open(tmp_path / "q") | tc.dequantize("BF16") | tc.write(tmp_path / "d")
    found = weights(tmp_path / "q")
    same(found, weights(tmp_path / "d"))
    tc.open(tmp_path / "q") | tc.write(tmp_path / "r", convention="deepseek")
    again = load_file(tmp_path / "r" / "model.safetensors")
    assert all(torch.equal(again[name].view(torch.uint8), parts[name].view(torch.uint8)) for name in parts)


def test_powers_of_two_are_floats_for_those_who_know_no_others(llama, tmp_path):
    flow = tc.open(llama()) | tc.quantize("fp8", scale_dtype="F8_E8M0")
    flow | tc.write(tmp_path / "q", convention="deepseek")
    tc.open(tmp_path / "q") | tc.write(tmp_path / "c", convention="compressed_tensors")
    name = "model.layers.0.mlp.up_proj.weight"
    before, after = (load_file(tmp_path / one / "model.safetensors") for one in "qc")
    assert torch.equal(before[f"{name}_scale_inv"].float(), after[f"{name}_scale"].float())
    assert torch.equal(before[name].view(torch.uint8), after[name].view(torch.uint8))
