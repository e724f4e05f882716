"""Write ``fixtures/sdnq``: two linear layers of each kind that SDNQ stores, and digests of their values.

Needs sdnq 0.2.8 with diffusers and transformers, in an environment of its own:

    python tools/make_sdnq.py fixtures/sdnq
"""

from __future__ import annotations

import json
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from sdnq.dequantizer import dequantize_sdnq_model
from sdnq.quantizer import sdnq_post_load_quant

KINDS: dict[str, dict[str, Any]] = {
    "int8": {"weights_dtype": "int8"},
    "int8_rows": {"weights_dtype": "int8", "group_size": -1},
    "int8_columns": {"weights_dtype": "int8", "group_size": -1, "use_quantized_matmul": True},
    "int8_bf16": {"weights_dtype": "int8", "dequantize_fp32": False},
    "uint8": {"weights_dtype": "uint8"},
    "uint8_columns": {"weights_dtype": "uint8", "group_size": -1, "use_quantized_matmul": True},
    "fp8": {"weights_dtype": "float8_e4m3fn"},
    "fp8_e5m2": {"weights_dtype": "float8_e5m2", "group_size": -1},
    "int4": {"weights_dtype": "int4"},
    "uint4": {"weights_dtype": "uint4"},
    "uint4_128": {"weights_dtype": "uint4", "group_size": 128},
    "uint2": {"weights_dtype": "uint2"},
    "mixed": {"weights_dtype": "uint4", "modules_dtype_dict": {"int8": ["wide"]}},
    "mixed_packed": {"weights_dtype": "uint4", "modules_quant_config": {"wide": {"weights_dtype": "uint2"}}},
    "svd": {"weights_dtype": "uint4", "use_svd": True, "svd_rank": 4},
    "svd_int4": {"weights_dtype": "int4", "use_svd": True, "svd_rank": 3},
    "svd_fp8": {"weights_dtype": "float8_e4m3fn", "use_svd": True, "svd_rank": 2},
    "svd_rows": {"weights_dtype": "int8", "group_size": -1, "use_svd": True, "svd_rank": 3},
    "svd_columns": {"weights_dtype": "int8", "use_svd": True, "svd_rank": 3, "use_quantized_matmul": True},
    "svd_line_columns": {
        "weights_dtype": "uint4",
        "use_svd": True,
        "svd_rank": 3,
        "use_quantized_matmul": True,
    },
    "svd_bf16": {"weights_dtype": "uint4", "use_svd": True, "svd_rank": 4},
    "int5": {"weights_dtype": "int5"},
    "float4": {"weights_dtype": "float4_e2m1fn"},
    "turned": {"weights_dtype": "int8", "use_hadamard": True},
    "codebook": {"weights_dtype": "uint4", "use_codebook": True, "codebook_steps": 2},
}
"""The last four are no formats of transcode."""


class Net(torch.nn.Module):  # type: ignore[misc]  # torch is skipped
    """A layer of two groups, one of many, and one that stays.

    Args:
        rows: of the first; SDNQ keeps codes as columns from 32 on.
    """

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.net = torch.nn.ModuleDict(
            {
                "narrow": torch.nn.Linear(128, rows, bias=False),
                "wide": torch.nn.Linear(2048, 4, bias=False),
                "kept": torch.nn.Linear(16, 8, bias=False),
            }
        )


def make(kind: str, folder: Path) -> None:
    """Quantize a model, and keep its tensors, what SDNQ says of them, and digests of what it decodes."""
    torch.manual_seed(0)
    dtype = torch.bfloat16 if kind.endswith("bf16") else torch.float32
    net = Net(32 if kind.endswith("columns") else 16)
    model = sdnq_post_load_quant(
        net.to(dtype), torch_dtype=dtype, add_skip_keys=False, minimum_allowed_numel=1,
        modules_to_not_convert=["kept"], **KINDS[kind],
    )  # fmt: skip
    (folder / kind).mkdir(parents=True, exist_ok=True)
    stored = {name: one.contiguous() for name, one in model.state_dict().items()}
    save_file(stored, folder / kind / "model.safetensors", {"format": "pt"})
    said = {"model_type": "toy", "quantization_config": model.quantization_config.to_dict()}
    (folder / kind / "config.json").write_text(json.dumps(said, indent=1, sort_keys=True) + "\n")
    values = dequantize_sdnq_model(model).state_dict()
    digests = {name: sha256(one.float().numpy().tobytes()).hexdigest() for name, one in values.items()}
    (folder / kind / "values.json").write_text(json.dumps(digests, indent=1) + "\n")


if __name__ == "__main__":
    for one in KINDS:
        make(one, Path(sys.argv[1]))
