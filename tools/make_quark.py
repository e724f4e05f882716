"""Write ``fixtures/quark``: a linear layer of each kind that AMD's Quark exports, by Quark itself.

Needs amd-quark 0.13 with onnx, onnxruntime and onnxslim, and transformers, in an environment of its own:

    python tools/make_quark.py fixtures/quark
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import torch
from quark.torch import ModelQuantizer, export_safetensors
from quark.torch.quantization.config import config as quark
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

LAYER = "model.layers.0.mlp.up_proj"
_MIN_MAX = {"observer_method": "min_max"}
_INT8 = {"symmetric": True, "scale_type": "float", "round_method": "half_even", "is_dynamic": False}
KINDS = {
    "fp8_tensor": (
        quark.FP8E4M3PerTensorSpec(is_dynamic=False, **_MIN_MAX),
        quark.FP8E4M3PerTensorSpec(is_dynamic=True, **_MIN_MAX),
    ),
    "fp8_channel": (
        quark.FP8E4M3PerChannelSpec(ch_axis=0, is_dynamic=False),
        quark.FP8E4M3PerChannelSpec(ch_axis=1, is_dynamic=True),
    ),
    "int8_channel": (quark.Int8PerChannelSpec(ch_axis=0, **_INT8), None),
    "int8_tensor": (quark.Int8PerTensorSpec(**_MIN_MAX, **_INT8), None),
    "mxfp4": (
        quark.OCP_MXFP4Spec(ch_axis=-1, is_dynamic=False),
        quark.OCP_MXFP4Spec(ch_axis=-1, is_dynamic=True),
    ),
}


def make(kind: str, folder: Path) -> None:
    """Quantize a model of one layer, and keep one matrix of it with what Quark says of it."""
    weight, inputs = KINDS[kind]
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1, "vocab_size": 32}
    model = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=2, num_key_value_heads=2))
    layer = quark.QLayerConfig(
        weight=weight.to_quantization_spec(),
        input_tensors=None if inputs is None else inputs.to_quantization_spec(),
    )
    quantizer = ModelQuantizer(quark.QConfig(global_quant_config=layer, exclude=["lm_head"]))
    model = quantizer.freeze(quantizer.quantize_model(model.to(torch.bfloat16), None))
    with tempfile.TemporaryDirectory() as exported:
        export_safetensors(model, exported)
        tensors = load_file(Path(exported) / "model.safetensors")
        config = json.loads((Path(exported) / "config.json").read_text())
    kept = {name: one for name, one in tensors.items() if name.startswith(LAYER)}
    kept["lm_head.weight"] = tensors["lm_head.weight"]
    (folder / kind).mkdir(parents=True, exist_ok=True)
    save_file(kept, folder / kind / "model.safetensors", {"format": "pt"})
    said = {"model_type": "toy", "quantization_config": config["quantization_config"]}
    (folder / kind / "config.json").write_text(json.dumps(said, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    for one in KINDS:
        make(one, Path(sys.argv[1]))
