"""Other projects' ways from one quantized format to another, in the way they are commonly called.

    python tools/baselines/recoders.py SRC DST --by deepseek

SRC and DST are folders of a model. ``deepseek``: FP8 in blocks of 128x128 to BF16, as DeepSeek's own
``fp8_cast_bf16.py`` goes: shard by shard, all tensors of one loaded, scales looked up in whichever shard
holds them, at most two shards kept; written anew here by that description, for a CPU. Of llm-compressor the
same is done by its converter, which is ``convert_checkpoint`` of compressed-tensors (``compressed_tensors``).
Exits with 3 where the package is not installed.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

MISSING = 3
_BLOCK = 128
_SHARDS = 2
_INDEX = "model.safetensors.index.json"


def dequantized(codes: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Codes ``[N, K]`` times the scale of their block, ``[ceil(N / 128), ceil(K / 128)]``, in BF16."""
    rows, columns = codes.shape
    wide = scale.repeat_interleave(_BLOCK, 0)[:rows].repeat_interleave(_BLOCK, 1)[:, :columns]
    return (codes.float() * wide).to(torch.bfloat16)


def deepseek(source: Path, out: Path) -> None:
    """Load a shard, decode its weights, save it; then the index without scales."""
    out.mkdir(parents=True)
    index = json.loads((source / _INDEX).read_text())
    where: dict[str, str] = index["weight_map"]
    loaded: dict[str, dict[str, torch.Tensor]] = {}

    def tensors(file: str) -> dict[str, torch.Tensor]:
        if file not in loaded:
            loaded[file] = load_file(source / file)
        return loaded[file]

    for file in sorted(set(where.values())):
        made: dict[str, torch.Tensor] = {}
        for name, tensor in tensors(file).items():
            if name.endswith("_scale_inv"):
                continue
            scale = f"{name}_scale_inv"
            if tensor.element_size() == 1 and scale in where:
                made[name] = dequantized(tensor, tensors(where[scale])[scale])
            else:
                made[name] = tensor
        save_file(made, out / file, {"format": "pt"})
        while len(loaded) > _SHARDS:
            del loaded[next(iter(loaded))]
    kept = {name: file for name, file in where.items() if not name.endswith("_scale_inv")}
    (out / _INDEX).write_text(json.dumps({"metadata": {}, "weight_map": kept}))
    config = json.loads((source / "config.json").read_text())
    config.pop("quantization_config", None)
    (out / "config.json").write_text(json.dumps(config))


def compressed_tensors(source: Path, out: Path) -> None:
    """Blocks of FP8 to BF16."""
    from compressed_tensors.entrypoints.convert import FP8BlockDequantizer, convert_checkpoint

    convert_checkpoint(source, out, FP8BlockDequantizer.from_pretrained(source), max_workers=1, device="cpu")


BY: dict[str, tuple[Callable[[Path, Path], None], str]] = {
    "deepseek": (deepseek, "torch"),
    "compressed_tensors": (compressed_tensors, "compressed_tensors"),
}


def main() -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path, help="folder to write, replaced")
    parser.add_argument("--by", choices=list(BY), required=True)
    given = parser.parse_args()
    convert, package = BY[given.by]
    if find_spec(package) is None:
        print(f"{package} is not installed", file=sys.stderr)
        return MISSING
    shutil.rmtree(given.out, ignore_errors=True)
    torch.set_num_threads(1)
    convert(given.source, given.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
