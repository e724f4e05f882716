"""The way converters commonly go, LightX2V's too: load all, quantize with eager torch, save all.

    python tools/baselines/load_all.py SRC DST.safetensors --scheme int8

Written from the facts on disk, to be measured against: names, shapes, dtypes and int8 codes are those that
LightX2V's converter writes for a Wan checkpoint. All arithmetic is in the dtype of the source. For fp8 it
rounds with torch's cast, which costs less than the rounding on bits that LightX2V calls; ties differ.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

TARGETS = ("self_attn", "cross_attn", "ffn")


def int8(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes ``[N, K]`` and scale ``[N, 1]`` in the dtype of the weight."""
    scale = weight.abs().amax(dim=1, keepdim=True).clamp(min=1e-5) / 127
    return torch.clamp(torch.round(weight / scale), -128, 127).to(torch.int8), scale


def fp8(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes ``[N, K]`` (E4M3) and scale ``[N, 1]`` in the dtype of the weight."""
    scale = weight.abs().amax(dim=1, keepdim=True).clamp(min=1e-5) / 448
    return torch.clamp(weight / scale, -448, 448).to(torch.float32).to(torch.float8_e4m3fn), scale


def main() -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("src", type=Path)
    parser.add_argument("dst", type=Path)
    parser.add_argument("--scheme", choices=("int8", "fp8"), default="int8")
    options = parser.parse_args()
    quantize = int8 if options.scheme == "int8" else fp8

    weights: dict[str, torch.Tensor] = {}
    for file in sorted(options.src.glob("*.safetensors")) if options.src.is_dir() else [options.src]:
        weights.update(load_file(file))
    converted: dict[str, torch.Tensor] = {}
    for name in list(weights):
        weight = weights.pop(name)
        parts = name.split(".")
        if len(parts) > 2 and parts[2] in TARGETS and name.endswith(".weight") and weight.ndim == 2:
            converted[name], converted[f"{name}_scale"] = quantize(weight)
        else:
            converted[name] = weight
    options.dst.parent.mkdir(parents=True, exist_ok=True)
    save_file(converted, options.dst)
    return 0


if __name__ == "__main__":
    sys.exit(main())
