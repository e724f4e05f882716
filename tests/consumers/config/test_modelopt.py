"""ModelOpt has a name for what was done, which vLLM looks for in two files."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import transcode as tc
from tests.consumers.config.reading import config_of, same

pytest.importorskip("transformers")
pytest.importorskip(
    "compressed_tensors", reason="needs compressed-tensors, which is a development dependency"
)


ALGORITHMS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("fp8", {}, {"quant_algo": "FP8_PER_CHANNEL_PER_TOKEN"}),
    ("nvfp4", {}, {"quant_algo": "W4A16_NVFP4", "group_size": 16}),
    ("mxfp8", {}, {"quant_algo": "MXFP8", "group_size": 32}),
]


@pytest.mark.parametrize(("scheme", "options", "told"), ALGORITHMS)
def test_modelopt_names_the_algorithm_twice(scheme, options, told, llama, tmp_path):
    """In config.json and in hf_quant_config.json: vllm/model_executor/layers/quantization/modelopt.py."""
    flow = tc.open(llama()) | tc.quantize(scheme, **options)
    flow | tc.write(tmp_path / "q", convention="modelopt")
    beside = json.loads((tmp_path / "q" / "hf_quant_config.json").read_text())
    assert beside["producer"]["name"] == "modelopt"
    assert beside["quantization"] == {**told, "kv_cache_quant_algo": None, "exclude_modules": ["lm_head"]}
    stated = config_of(tmp_path / "q")["quantization_config"]
    assert (stated["quant_method"], stated["ignore"]) == ("modelopt", ["lm_head"])
    assert {key: stated[key] for key in told} == told
    assert stated["config_groups"]["group_0"]["targets"] == ["Linear"]
    assert ("input_activations" in stated["config_groups"]["group_0"]) == (scheme != "nvfp4")
    if told["quant_algo"] == "FP8_PER_CHANNEL_PER_TOKEN":
        scale = load_file(tmp_path / "q" / "model.safetensors")["model.layers.0.mlp.up_proj.weight_scale"]
        assert (scale.shape, scale.dtype) == ((384,), torch.float32)
    tc.open(tmp_path / "q") | tc.dequantize("F32", convention="modelopt") | tc.write(tmp_path / "d")
    tc.open(llama()) | tc.quantize(scheme, **options) | tc.write(tmp_path / "n", convention="neutral")
    tc.open(tmp_path / "n") | tc.dequantize("F32", convention="neutral") | tc.write(tmp_path / "nd")
    found, neutral = (load_file(tmp_path / at / "model.safetensors") for at in ("d", "nd"))
    if scheme == "mxfp8":
        same(found, neutral)
    for name, value in load_file(llama() / "model.safetensors").items():
        error = (found[name].float() - value.float()).norm() / value.float().norm()
        assert error < (0.3 if scheme == "nvfp4" else 0.07), name


def test_modelopt_mixed(llama, tmp_path):
    flow = tc.open(llama()) | tc.quantize("nvfp4", overrides={"layers.1": "mxfp8"})
    flow | tc.write(tmp_path / "q", convention="modelopt")
    stated = json.loads((tmp_path / "q" / "hf_quant_config.json").read_text())["quantization"]
    assert stated["quant_algo"] == "MIXED_PRECISION"
    layers = stated["quantized_layers"]
    assert len(layers) == 14
    assert layers["model.layers.0.self_attn.q_proj"] == {"quant_algo": "W4A16_NVFP4", "group_size": 16}
    assert layers["model.layers.1.mlp.up_proj"] == {"quant_algo": "MXFP8", "group_size": 32}
    groups = config_of(tmp_path / "q")["quantization_config"]["config_groups"]
    assert sorted(name for group in groups.values() for name in group["targets"]) == sorted(layers)
