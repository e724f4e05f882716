"""Other projects' own quantizers in the way they are commonly called: load all, quantize, save all.

    python tools/baselines/quantizers.py SRC DST.safetensors --by comfy_kitchen --scheme int8

``comfy_kitchen`` (its eager CPU functions, those that ComfyUI loads quantized models for) makes int8, mxfp8
and nvfp4; ``torchao`` (``quantize_`` with its weight-only configs) int8 and fp8. Matrices of attention and
feed-forward in the blocks of a Wan checkpoint are quantized, as ``transcode run`` does. Exits with 3 where
the package is not installed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

TARGETS = ("self_attn", "cross_attn", "ffn")
SCHEMES = {"comfy_kitchen": ("int8", "mxfp8", "nvfp4"), "torchao": ("int8", "fp8")}
MISSING = 3

Parts = dict[str, torch.Tensor]
"""What is stored of a matrix, by the ending of its name."""


def comfy_kitchen(scheme: str) -> Callable[[torch.Tensor], Parts]:
    """Its quantizer of a scheme."""
    import comfy_kitchen as kitchen

    def nvfp4(weight: torch.Tensor) -> Parts:
        scale = weight.abs().amax().float() / (6 * 448)
        codes, scales = kitchen.quantize_nvfp4(weight, scale)
        return {"": codes, "_scale": scales, "_scale_2": scale}

    def two(quantize: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]) -> Callable[..., Parts]:
        return lambda weight: dict(zip(("", "_scale"), quantize(weight), strict=True))

    return {"int8": two(kitchen.quantize_int8_rowwise), "mxfp8": two(kitchen.quantize_mxfp8), "nvfp4": nvfp4}[
        scheme
    ]


def torchao(scheme: str) -> Callable[[torch.Tensor], Parts]:
    """Its quantizer of a scheme, which takes modules."""
    from torchao.quantization import Float8WeightOnlyConfig, Int8WeightOnlyConfig, quantize_

    config = Int8WeightOnlyConfig() if scheme == "int8" else Float8WeightOnlyConfig()

    def quantize(weight: torch.Tensor) -> Parts:
        linear = torch.nn.Linear(1, 1, bias=False)
        linear.weight = torch.nn.Parameter(weight, requires_grad=False)
        quantize_(linear, config)
        return {"": linear.weight.qdata, "_scale": linear.weight.scale}

    return quantize


def main() -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("src", type=Path)
    parser.add_argument("dst", type=Path)
    parser.add_argument("--by", choices=SCHEMES, required=True)
    parser.add_argument("--scheme", default="int8")
    options = parser.parse_args()
    if options.scheme not in SCHEMES[options.by]:
        parser.error(f"{options.by} is measured for {', '.join(SCHEMES[options.by])}")
    if find_spec(options.by) is None:
        print(f"{options.by} is not installed", file=sys.stderr)
        return MISSING
    quantize = (comfy_kitchen if options.by == "comfy_kitchen" else torchao)(options.scheme)
    weights = load_file(options.src)
    converted: dict[str, torch.Tensor] = {}
    with torch.inference_mode():
        for name in list(weights):
            weight = weights.pop(name)
            parts = name.split(".")
            if len(parts) > 2 and parts[2] in TARGETS and name.endswith(".weight") and weight.ndim == 2:
                converted |= {name + ending: part.contiguous() for ending, part in quantize(weight).items()}
            else:
                converted[name] = weight
    save_file(converted, options.dst)
    return 0


if __name__ == "__main__":
    sys.exit(main())
