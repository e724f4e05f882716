"""What is said of the cache of keys and values goes along where weights become others, with its scales."""

from __future__ import annotations

import json

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

import transcode as tc

LAYER = "model.layers.0.self_attn"
FP8 = {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "tensor", "dynamic": False}
NAMES = {"compressed_tensors": "{0}.{1}_scale", "modelopt": "{0}.{1}_proj.{1}_scale"}


@pytest.fixture
def source(tmp_path):
    """A layer in a scheme, with scales of its cache; nobody need have made the file at once."""

    def make(convention, scheme, said):
        plain, out = tmp_path / "plain", tmp_path / "source"
        plain.mkdir()
        rng = np.random.default_rng(0)
        tensors = {f"{LAYER}.{one}_proj.weight": rng.standard_normal((128, 128)) for one in "qkvo"}
        tensors |= {"model.layers.0.input_layernorm.weight": np.ones(128)}
        tensors |= {"model.layers.0.mlp.up_proj.weight": rng.standard_normal((128, 128))}
        tensors = {name: one.astype(ml_dtypes.bfloat16) for name, one in tensors.items()}
        tensors |= {NAMES[convention].format(LAYER, one): np.float32([0.25]) for one in "kv"}
        save_file(tensors, plain / "model.safetensors")
        (plain / "config.json").write_text('{"model_type": "llama", "torch_dtype": "bfloat16"}')
        tc.open(plain) | tc.quantize(scheme) | tc.write(out, convention=convention)
        config = json.loads((out / "config.json").read_text())
        config["quantization_config"]["kv_cache_scheme"] = said
        (out / "config.json").write_text(json.dumps(config))
        return out

    return make


def written(folder):
    """What the file says, in both places; and which scales it holds."""
    stated = json.loads((folder / "config.json").read_text()).get("quantization_config", {})
    beside = folder / "hf_quant_config.json"
    second = json.loads(beside.read_text())["quantization"]["kv_cache_quant_algo"] if beside.exists() else ""
    held = {one.name for one in tc.open(folder) if one.name.endswith(("k_scale", "v_scale"))}
    return stated.get("kv_cache_scheme"), second, held


@pytest.mark.parametrize(
    ("convention", "scheme", "to", "target"),
    [
        ("compressed_tensors", "fp8", "int8", "compressed_tensors"),
        ("compressed_tensors", "fp8", None, "modelopt"),
        ("modelopt", "nvfp4", "mxfp8", "modelopt"),
        ("modelopt", "nvfp4", None, "compressed_tensors"),
    ],
)
def test_it_goes_along(convention, scheme, to, target, source, tmp_path):
    said = FP8 if convention == "compressed_tensors" else {"num_bits": 8, "type": "float", "dynamic": False}
    flow = tc.open(source(convention, scheme, said))
    flow = flow if to is None else flow | tc.quantize(to)
    flow | tc.write(tmp_path / "out", convention=target)
    stated, second, held = written(tmp_path / "out")
    assert held == {NAMES[convention].format(LAYER, one) for one in "kv"}
    if target == "modelopt":
        assert (stated, second) == ({"num_bits": 8, "type": "float", "dynamic": False}, "FP8")
    else:
        assert {key: value for key, value in stated.items() if value is not None} == FP8


def test_nothing_is_said_that_is_not_so(source, tmp_path):
    """Of a cache in another format its scales are left out, and of a model that is decoded."""
    path = source("compressed_tensors", "fp8", {**FP8, "num_bits": 4})
    tc.open(path) | tc.quantize("int8") | tc.write(tmp_path / "out", convention="compressed_tensors")
    assert written(tmp_path / "out") == (None, "", set())
    tc.open(path) | tc.dequantize("BF16") | tc.write(tmp_path / "decoded")
    assert written(tmp_path / "decoded") == (None, "", set())
    config = json.loads((path / "config.json").read_text())
    config["quantization_config"]["kv_cache_scheme"] = FP8
    (path / "config.json").write_text(json.dumps(config))
    flow = tc.open(path) | tc.drop("k_scale", "v_scale") | tc.quantize("int8")
    flow | tc.write(tmp_path / "none", convention="compressed_tensors")
    assert written(tmp_path / "none") == (None, "", set())
