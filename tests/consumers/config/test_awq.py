"""AWQ's GEMM layout: what is written is decoded by AutoAWQ's own code and by its formula, and the reverse."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import transcode as tc
from transcode.errors import PlanError

NAME = "model.layers.0.mlp.up_proj"
ORDER = [0, 2, 4, 6, 1, 3, 5, 7]
"""The column that each nibble of a word holds, the lowest first: ``AWQ_ORDER`` of AutoAWQ."""


def unpacked(words: torch.Tensor) -> np.ndarray:
    unsigned = words.numpy().astype(np.int64) & 0xFFFF_FFFF
    out = np.empty((*words.shape, 8), np.int64)
    for place, column in enumerate(ORDER):
        out[..., column] = unsigned >> 4 * place & 15
    return out.reshape(words.shape[0], -1)


def formula(parts: dict[str, torch.Tensor], size: int) -> np.ndarray:
    """``[N, K]``: (code - zero point) * scale."""
    codes, zeros = unpacked(parts[f"{NAME}.qweight"]), unpacked(parts[f"{NAME}.qzeros"]).repeat(size, 0)
    scales = parts[f"{NAME}.scales"].float().numpy().repeat(size, 0)
    return ((codes - zeros) * scales).T.astype(np.float32)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("size", [32, 64, 128])
def test_what_is_written_decodes_alike(size, symmetric, tmp_path):
    weight = torch.randn(64, 256, generator=torch.Generator().manual_seed(2)).bfloat16() + 0.1
    save_file({f"{NAME}.weight": weight}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"model_type": "toy"}')
    flow = tc.open(tmp_path) | tc.quantize("int4", group_size=size, symmetric=symmetric)
    flow | tc.write(tmp_path / "q", convention="awq")
    parts = load_file(tmp_path / "q" / "model.safetensors")
    shapes = {name.rpartition(".")[2]: tuple(value.shape) for name, value in parts.items()}
    assert shapes == {"qweight": (256, 8), "qzeros": (256 // size, 8), "scales": (256 // size, 64)}
    tc.open(tmp_path / "q") | tc.dequantize("F32") | tc.write(tmp_path / "d")
    decoded = load_file(tmp_path / "d" / "model.safetensors")[f"{NAME}.weight"]
    np.testing.assert_array_equal(decoded.numpy(), formula(parts, size))
    assert (decoded - weight.float()).norm() < 0.15 * weight.float().norm()
    stated = json.loads((tmp_path / "q" / "config.json").read_text())["quantization_config"]
    assert stated == {
        "quant_method": "awq", "version": "gemm", "bits": 4, "group_size": size, "zero_point": True,
        "modules_to_not_convert": ["lm_head"],
    }  # fmt: skip
    theirs = _owner(parts, size)
    tc.open(tmp_path / "q") | tc.dequantize("F16") | tc.write(tmp_path / "h")
    assert torch.equal(theirs, load_file(tmp_path / "h" / "model.safetensors")[f"{NAME}.weight"])


def _owner(parts: dict[str, torch.Tensor], size: int) -> torch.Tensor:
    decode = pytest.importorskip("awq.utils.packing_utils", reason="needs autoawq").dequantize_gemm
    values = decode(*(parts[f"{NAME}.{part}"] for part in ("qweight", "qzeros", "scales")), 4, size)
    return values.T.contiguous()


@pytest.mark.parametrize("convention", ["gptq", "gptq_v2", "compressed_tensors"])
def test_what_autoawq_packed_is_read_and_repacked(convention, tmp_path):
    layers = pytest.importorskip("awq.modules.linear.gemm", reason="needs autoawq")
    generator = torch.Generator().manual_seed(4)
    linear = torch.nn.Linear(128, 32, bias=True).half()
    linear.weight.data = torch.randn(32, 128, generator=generator).half()
    scales = linear.weight.data.view(32, 2, 64).float().abs().amax(-1).mul(2 / 15).half().T.contiguous()
    zeros = torch.randint(1, 16, scales.shape, generator=generator)
    layer = layers.WQLinear_GEMM.from_linear(linear, 4, 64, scales=scales, zeros=zeros)
    (tmp_path / "m").mkdir()
    parts = {f"{NAME}.{name}": value for name, value in layer.state_dict().items()}
    save_file(parts, tmp_path / "m" / "model.safetensors", {"format": "pt"})
    stated = {"quant_method": "awq", "bits": 4, "group_size": 64, "zero_point": True, "version": "gemm"}
    (tmp_path / "m" / "config.json").write_text(json.dumps({"quantization_config": stated}))
    tc.open(tmp_path / "m") | tc.dequantize("F16") | tc.write(tmp_path / "d")
    decoded = load_file(tmp_path / "d" / "model.safetensors")
    assert torch.equal(decoded[f"{NAME}.weight"], _owner(parts, 64))
    tc.open(tmp_path / "m") | tc.write(tmp_path / "r", convention=convention)
    tc.open(tmp_path / "r") | tc.write(tmp_path / "b", convention="awq")
    back = load_file(tmp_path / "b" / "model.safetensors")
    assert back.keys() == parts.keys()
    assert all(torch.equal(back[name], value) for name, value in parts.items())


def test_other_layouts_of_awq_are_refused(tmp_path):
    """gemv has rows of the weight for rows."""
    (tmp_path / "m").mkdir()
    parts = {
        "qweight": torch.zeros(32, 16).int(),
        "qzeros": torch.zeros(32, 1).int(),
        "scales": torch.ones(32, 8).half(),
    }
    save_file({f"{NAME}.{k}": v for k, v in parts.items()}, Path(tmp_path, "m", "model.safetensors"))
    stated = {"quant_method": "awq", "bits": 4, "group_size": 64, "zero_point": True, "version": "gemv"}
    (tmp_path / "m" / "config.json").write_text(json.dumps({"quantization_config": stated}))
    with pytest.raises(PlanError, match="awq stores no scheme so"):
        tc.open(tmp_path / "m") | tc.dequantize() | tc.write(tmp_path / "o")
