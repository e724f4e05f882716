"""Write ``fixtures/owners``: a small model in each format, made by the package whose format it is.

    python tools/make_owners.py fixtures/owners [NAME ...]

Needs the packages that it asks for (compressed-tensors, nvidia-modelopt, gptqmodel, autoawq, bitsandbytes,
mlx, comfy-kitchen, transformers), best in an environment of their own. The model has a dense layer and one
with experts; of each, some matrices are kept. Beside them stand the digests of what the owner's decoder makes
of them, by which transcode is measured.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import owners
import torch
from safetensors.torch import load_file, save_file

KEPT = re.compile(
    r"0\.self_attn\.o_proj|0\.mlp\.down_proj|experts\.\d\.down_proj|_(blocks|scales)$|\.norm\.|gate\.weight"
)
"""Of the tensors."""

_QUANTIZED = re.compile(r"layers\.\d\.\S+_proj\.weight")
_PACKAGES = {
    "transformers_fp8": "transformers",
    "transformers_mxfp4": "transformers",
    "modelopt": "nvidia-modelopt",
}
_KEEP = ("lm_head", "model.layers.1.mlp.gate")


def model(folder: Path) -> Path:
    """A Qwen3 of two layers with random weights in BF16: one dense, one of two experts."""
    from transformers import AutoModelForCausalLM, Qwen3MoeConfig

    torch.manual_seed(0)
    config = Qwen3MoeConfig(
        num_hidden_layers=2, vocab_size=32, hidden_size=128, intermediate_size=128, head_dim=64,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=64, moe_intermediate_size=128,
        num_experts=2, num_experts_per_tok=1, mlp_only_layers=[0], architectures=["Qwen3MoeForCausalLM"],
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).to(torch.bfloat16).save_pretrained(folder)
    return folder


def layered(name: str, source: Path) -> owners.Model:
    """The model of that folder with each linear layer made by its owner."""
    make, say = owners.LAYERS[name]
    tensors: dict[str, torch.Tensor] = {}
    decoded: dict[str, torch.Tensor] = {}
    for stored, weight in load_file(source / "model.safetensors").items():
        if not _QUANTIZED.fullmatch(stored.removeprefix("model.")) or not KEPT.search(stored):
            tensors[stored] = weight
            continue
        layer = make(weight)
        stem = stored.removesuffix("weight")
        tensors |= {f"{stem}{part}": one for part, one in layer.parts.items()}
        decoded[stored] = layer.decoded
    config: dict[str, Any] = {
        "model_type": "qwen3_moe",
        "architectures": ["Qwen3MoeForCausalLM"],
        "torch_dtype": "bfloat16",
    }
    if say is not None:
        key = "quantization" if name.startswith("mlx") else "quantization_config"
        config[key] = say(list(_KEEP))
    return owners.Model(tensors, config, decoded)


def kept_of(weight: str) -> bool:
    """Whether a weight is kept; that of gpt-oss has other names in the file."""
    return bool(KEPT.search(weight)) or weight.endswith("experts.gate_up_proj")


def digests(decoded: Mapping[str, torch.Tensor]) -> dict[str, list[Any]]:
    """Dtype, shape and SHA-256 of the bytes of each tensor, in which a zero has no sign."""
    return {
        name: [
            str(one.dtype).removeprefix("torch."),
            list(one.shape),
            hashlib.sha256((one + 0).contiguous().view(torch.uint8).numpy().tobytes()).hexdigest(),
        ]
        for name, one in sorted(decoded.items())
    }


def write(name: str, made: owners.Model, folder: Path) -> None:
    """A folder as loaders take it, with ``decoded.json``."""
    folder.mkdir(parents=True, exist_ok=True)
    kept = {stored: one.contiguous() for stored, one in made.tensors.items() if KEPT.search(stored)}
    save_file(kept, folder / "model.safetensors", {"format": "mlx" if name.startswith("mlx") else "pt"})
    package = next((one for start, one in _PACKAGES.items() if name.startswith(start)), None)
    package = package or next(
        one for one in ("compressed-tensors", "gptqmodel", "autoawq", "bitsandbytes", "mlx", "comfy-kitchen")
        if name.startswith(one.replace("-", "_"))
    )  # fmt: skip
    decoded = digests({stored: one for stored, one in made.decoded.items() if kept_of(stored)})
    told = {"by": f"{package} {version(package)}", "decoded": decoded}
    for file, value in {"config.json": made.config, "decoded.json": told, **made.beside}.items():
        (folder / file).write_text(json.dumps(value, indent=1, sort_keys=True) + "\n")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", help="some of them")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        source = model(Path(name))
        for one in given.names or [*owners.LAYERS, *owners.MODELS]:
            made = owners.MODELS[one](source) if one in owners.MODELS else layered(one, source)
            write(one, made, given.folder / one)
            print(one, len(made.decoded), flush=True)


if __name__ == "__main__":
    main()
