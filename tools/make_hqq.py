"""Write ``fixtures/hqq``: linear layers of each width that hqq packs, and what hqq decodes them to.

Needs hqq 0.2.8:

    python tools/make_hqq.py fixtures/hqq
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from hqq.core.quantize import BaseQuantizeConfig, HQQLinear
from safetensors.torch import save_file

ROWS, COLUMNS = 48, 80
KINDS = {
    "rows8": (8, 64, 1, torch.float32), "rows4": (4, 64, 1, torch.bfloat16),
    "rows3": (3, 32, 1, torch.float16), "rows2": (2, 16, 1, torch.float16),
    "rows1": (1, 8, 1, torch.bfloat16), "columns4": (4, 64, 0, torch.float16),
    "columns3": (3, 64, 0, torch.bfloat16), "columns2": (2, 16, 0, torch.float32),
}  # fmt: skip
"""Name -> bits, values of a group, axis, dtype that it computes in."""


def make(folder: Path) -> None:
    """All layers in one file, the values in another."""
    stored: dict[str, torch.Tensor] = {}
    decoded: dict[str, torch.Tensor] = {}
    for name, (bits, group, axis, dtype) in KINDS.items():
        torch.manual_seed(0)
        config = BaseQuantizeConfig(nbits=bits, group_size=group, axis=axis)
        linear = torch.nn.Linear(COLUMNS, ROWS).to(dtype)
        layer = HQQLinear(linear, config, compute_dtype=dtype, device="cpu")
        state = {
            f"blocks.{name}.{part}": one.detach().contiguous() for part, one in layer.state_dict().items()
        }
        stored |= state
        decoded[f"blocks.{name}.weight"] = layer.dequantize().detach().contiguous()
    folder.mkdir(parents=True, exist_ok=True)
    save_file(stored, folder / "stored.safetensors")
    save_file(decoded, folder / "decoded.safetensors")


if __name__ == "__main__":
    make(Path(sys.argv[1]))
