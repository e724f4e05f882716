#!/usr/bin/env python3
"""Make ``fixtures/ggml``: what ggml's own code makes of some rows, and what the gguf package decodes.

Needs ``pip install gguf pywhispercpp``, the second for its ``libggml-base``, whose path is the argument.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

FOLDER = Path(__file__).parent.parent / "fixtures" / "ggml"
ENCODED = (
    "Q1_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL",
    "IQ4_XS", "IQ3_S", "TQ1_0", "TQ2_0", "MXFP4", "NVFP4",
)  # fmt: skip


def rows() -> np.ndarray[Any, Any]:
    """Rows of 256 of every kind that a weight may have: float32 ``[54, 256]``."""
    draw = np.random.default_rng(7)
    normal = draw.standard_normal((54, 256))
    normal[3:6] = draw.standard_t(2, (3, 256))
    normal[6:9] = draw.integers(-8, 8, (3, 256)) / 4
    normal[9] = 0
    normal[10] = -0.0
    normal[11, ::3] = -0.0
    normal[12:15] *= draw.random((3, 256)) < 0.03
    normal[15:18] = np.abs(normal[15:18])
    normal[18:21] = -np.abs(normal[18:21])
    normal[21:24] = normal[21:24, :1]
    normal[24:27] *= 1e-6
    normal[27:30] *= 1e-12
    normal[30:33] *= 1e-20
    normal[33:36] *= 1e-39
    normal[36:39] *= 1e4
    normal[39:42] *= 10.0 ** draw.integers(-6, 2, (3, 256))
    normal[42:45] = normal[42:45] * 0.02 + 0.005
    normal[45, :128] = 0
    normal[46:48, 16:48] *= 1e-9
    values = normal.astype(np.float32)
    values[48:51] = (values[48:51].view(np.uint32) & 0xFFFF0000).view(np.float32)
    return values


WEIGHTED = (
    "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS",
    "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S",
)  # fmt: skip


def weights() -> np.ndarray[Any, Any]:
    """Weights of columns as activations have them, some far larger, some zero, a whole block equal: float32
    ``[512]``.
    """
    draw = np.random.default_rng(9)
    one = draw.standard_normal((16, 512)) * np.exp(draw.standard_normal(512))
    mean = np.square(one).mean(0)
    mean[draw.integers(0, 512, 9)] *= 1e4
    mean[draw.integers(0, 512, 40)] = 0
    mean[64:96] = 1
    single: np.ndarray[Any, Any] = mean.astype(np.float32)
    return single


def main() -> None:
    import gguf
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
    from gguf.quants import _type_traits

    library = ctypes.CDLL(sys.argv[1])
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    library.ggml_quantize_chunk.argtypes = [
        ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64,
        ctypes.c_void_p,
    ]  # fmt: skip
    FOLDER.mkdir(exist_ok=True)
    values = rows()
    made: dict[str, Any] = {"rows": values}
    for name in ENCODED:
        number = int(GGMLQuantizationType[name])
        elements, size = GGML_QUANT_SIZES[GGMLQuantizationType(number)]
        blocks = np.empty((len(values), 256 // elements * size), np.uint8)
        library.ggml_quantize_chunk(number, values.ctypes.data, blocks.ctypes.data, 0, len(values), 256, None)
        made[name] = blocks
    save_file(made, FOLDER / "encoded.safetensors", {"made_by": "libggml-base 0.13.1"})
    wide, mass = values.reshape(27, 512), weights()
    weighted: dict[str, Any] = {"weights": mass}
    for name in WEIGHTED:
        number = int(GGMLQuantizationType[name])
        elements, size = GGML_QUANT_SIZES[GGMLQuantizationType(number)]
        blocks = np.empty((len(wide), 512 // elements * size), np.uint8)
        library.ggml_quantize_chunk(
            number, wide.ctypes.data, blocks.ctypes.data, 0, len(wide), 512, mass.ctypes.data
        )
        weighted[name] = blocks
    save_file(weighted, FOLDER / "weighted.safetensors", {"made_by": "libggml-base 0.13.1"})
    draw = np.random.default_rng(8)
    decoded: dict[str, Any] = {}
    for kind in _type_traits:
        elements, size = GGML_QUANT_SIZES[kind]
        if elements > 1:
            blocks = draw.integers(0, 256, (max(1024 // elements, 6), size), np.uint8)
            decoded[f"{kind.name}.blocks"] = blocks
            with np.errstate(invalid="ignore"):
                decoded[f"{kind.name}.values"] = gguf.dequantize(blocks, kind)
    save_file(decoded, FOLDER / "decoded.safetensors", {"made_by": "gguf 0.19.0"})


if __name__ == "__main__":
    main()
