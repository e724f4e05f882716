"""Write ``fixtures/quanto``: a linear layer of each kind that optimum-quanto saves, by optimum-quanto itself.

Needs optimum-quanto 0.2.7 and transformers:

    python tools/make_quanto.py fixtures/quanto
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import torch
from optimum.quanto import QuantizedModelForCausalLM, qfloat8, qint2, qint4, qint8
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

LAYER = "model.layers.0.mlp.up_proj"
MAP = "quanto_qmap.json"
KINDS = {"int8": qint8, "float8": qfloat8, "int4": qint4, "int2": qint2}


def make(kind: str, folder: Path) -> None:
    """Quantize a model of one layer, and keep one matrix of it with what quanto says of it."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1, "vocab_size": 32}
    if KINDS[kind].bits < 8:  # two groups to a row, and a bias, which tells how many rows there are
        sizes |= {"hidden_size": 192, "intermediate_size": 25, "mlp_bias": True}
    model = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=2, num_key_value_heads=2)).bfloat16()
    with tempfile.TemporaryDirectory() as saved:
        QuantizedModelForCausalLM.quantize(model, weights=KINDS[kind], exclude="lm_head").save_pretrained(
            saved
        )
        tensors = load_file(Path(saved) / "model.safetensors")
        named = json.loads((Path(saved) / MAP).read_text())
    kept = {name: one for name, one in tensors.items() if name.startswith((LAYER, "lm_head"))}
    values = model.get_submodule(LAYER).weight.dequantize().detach().contiguous()
    (folder / kind).mkdir(parents=True, exist_ok=True)
    save_file({"weight": values}, folder / f"{kind}.safetensors")
    save_file(kept, folder / kind / "model.safetensors", {"format": "pt"})
    (folder / kind / MAP).write_text(json.dumps({LAYER: named[LAYER]}, indent=4) + "\n")
    (folder / kind / "config.json").write_text('{"model_type": "toy"}\n')


if __name__ == "__main__":
    for one in KINDS:
        make(one, Path(sys.argv[1]))
