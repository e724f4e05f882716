"""A model of two shards, as files by name."""

from __future__ import annotations

import json

import numpy as np
from safetensors.numpy import save


def model(shape: tuple[int, int] = (64, 256), blocks: int = 4) -> dict[str, bytes]:
    rng = np.random.default_rng(3)
    files: dict[str, bytes] = {}
    weight_map = {}
    total = 0
    for shard in range(2):
        tensors = {}
        for block in range(shard * blocks // 2, (shard + 1) * blocks // 2):
            for name in ("attn.q", "attn.k", "ffn"):
                tensors[f"blocks.{block}.{name}.weight"] = rng.standard_normal(shape).astype(np.float16)
            tensors[f"blocks.{block}.norm.weight"] = rng.standard_normal(shape[1]).astype(np.float32)
        name = f"model-{shard + 1:05}-of-00002.safetensors"
        files[name] = save(tensors)
        weight_map |= dict.fromkeys(tensors, name)
        total += sum(one.nbytes for one in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    files["model.safetensors.index.json"] = json.dumps(index).encode()
    files["config.json"] = json.dumps({"model_type": "x", "torch_dtype": "float16"}).encode()
    files["tokenizer.json"] = b"{}" * 100
    return files


def weights(files: dict[str, bytes]) -> int:
    """Bytes of the weight files."""
    return sum(len(data) for name, data in files.items() if name.endswith(".safetensors"))
