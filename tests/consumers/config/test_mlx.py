"""MLX: what is written is decoded by mlx itself and by its formula, and what mlx packed is read.

mlx runs on a CPU (``pip install "mlx[cpu]"``); without it the formula alone is compared with.
"""

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
BITS = (2, 3, 4, 5, 6, 8)
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)


def codes(words: np.ndarray, bits: int) -> np.ndarray:
    """``[N, K]``, bit by bit: that of place ``i`` of a row is bit ``i % 32`` of word ``i // 32``."""
    stream = (words[..., None] >> np.arange(32, dtype=np.uint32) & 1).reshape(len(words), -1, bits)
    return (stream.astype(np.int64) << np.arange(bits)).sum(-1)


def formula(parts: dict[str, torch.Tensor], mode: str, bits: int, size: int) -> np.ndarray:
    words = parts[f"{NAME}.weight"].numpy()
    scales = parts[f"{NAME}.scales"]
    if mode == "affine":
        wide = scales.float().numpy().repeat(size, 1)
        product = (codes(words, bits) * wide.astype(np.float64)).astype(np.float32)
        return product + parts[f"{NAME}.biases"].float().numpy().repeat(size, 1)
    wide = np.exp2(scales.numpy().astype(np.float32) - 127).repeat(32, 1)
    if mode == "mxfp4":
        return E2M1[codes(words, 4)] * wide
    return torch.from_numpy(words.view(np.uint8)).view(torch.float8_e4m3fn).float().numpy() * wide


def theirs(parts: dict[str, torch.Tensor], mode: str, bits: int, size: int) -> np.ndarray:
    mx = pytest.importorskip("mlx.core", reason='needs "mlx[cpu]"')
    scales = parts[f"{NAME}.scales"]
    biases = parts.get(f"{NAME}.biases")
    made = mx.dequantize(
        mx.array(parts[f"{NAME}.weight"].numpy()),
        mx.array(scales.numpy() if scales.dtype == torch.uint8 else scales.float().numpy()),
        None if biases is None else mx.array(biases.float().numpy()),
        group_size=size, bits=bits, mode=mode, dtype=mx.float32,
    )  # fmt: skip
    return np.array(made)


def source(folder: Path, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    weight = torch.randn(64, 256, generator=torch.Generator().manual_seed(2)).to(dtype) + 0.1
    folder.mkdir()
    save_file(
        {f"{NAME}.weight": weight, "model.norm.weight": torch.ones(8).to(dtype)}, folder / "model.safetensors"
    )
    (folder / "config.json").write_text('{"model_type": "toy"}')
    return weight


@pytest.mark.parametrize("size", [32, 64, 128])
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_affine_is_decoded_alike(bits, size, dtype, tmp_path):
    weight = source(tmp_path / "m", dtype)
    (
        tc.open(tmp_path / "m")
        | tc.quantize("affine", bits=bits, group_size=size)
        | tc.write(tmp_path / "q", convention="mlx")
    )
    parts = load_file(tmp_path / "q" / "model.safetensors")
    facts = {
        name.rpartition(".")[2]: (one.dtype, tuple(one.shape)) for name, one in parts.items() if NAME in name
    }
    assert facts == {
        "weight": (torch.uint32, (64, 8 * bits)),
        "scales": (dtype, (64, 256 // size)),
        "biases": (dtype, (64, 256 // size)),
    }
    kind = {"group_size": size, "bits": bits, "mode": "affine"}
    config = json.loads((tmp_path / "q" / "config.json").read_text())
    assert config["quantization"] == kind
    assert config["quantization_config"].items() >= kind.items()
    tc.open(tmp_path / "q") | tc.dequantize("F32") | tc.write(tmp_path / "d")
    decoded = load_file(tmp_path / "d" / "model.safetensors")[f"{NAME}.weight"].numpy()
    np.testing.assert_array_equal(decoded, formula(parts, "affine", bits, size))
    assert "quantization" not in json.loads((tmp_path / "d" / "config.json").read_text())
    mx = pytest.importorskip("mlx.core", reason='needs "mlx[cpu]"')
    np.testing.assert_array_equal(decoded, theirs(parts, "affine", bits, size))
    own = mx.dequantize(*mx.quantize(mx.array(weight.float().numpy()), size, bits), size, bits)
    error = [np.linalg.norm(one - weight.float().numpy()) for one in (decoded, np.array(own))]
    assert error[0] < error[1] * (1 if dtype == torch.float32 else 1.02)  # theirs has scales in float32


@pytest.mark.parametrize(("scheme", "bits"), [("mxfp4", 4), ("mxfp8", 8)])
def test_powers_of_two_are_decoded_alike(scheme, bits, tmp_path):
    source(tmp_path / "m")
    tc.open(tmp_path / "m") | tc.quantize(scheme) | tc.write(tmp_path / "q", convention="mlx")
    parts = load_file(tmp_path / "q" / "model.safetensors")
    assert json.loads((tmp_path / "q" / "config.json").read_text())["quantization"] == {
        "group_size": 32, "bits": bits, "mode": scheme,
    }  # fmt: skip
    tc.open(tmp_path / "q") | tc.dequantize("F32") | tc.write(tmp_path / "d")
    decoded = load_file(tmp_path / "d" / "model.safetensors")[f"{NAME}.weight"].numpy()
    np.testing.assert_array_equal(decoded, formula(parts, scheme, bits, 32))
    np.testing.assert_array_equal(decoded, theirs(parts, scheme, bits, 32))


@pytest.mark.parametrize("stated", ["quantization", "quantization_config"])
@pytest.mark.parametrize(
    ("mode", "bits", "size"),
    [("affine", bits, size) for bits in BITS for size in (32, 64, 128)]
    + [("mxfp4", 4, 32), ("mxfp8", 8, 32)],
)
def test_what_mlx_packed_is_read(mode, bits, size, stated, tmp_path):
    mx = pytest.importorskip("mlx.core", reason='needs "mlx[cpu]"')
    weight = np.random.default_rng(bits).standard_normal((32, 256)).astype(np.float32)
    packed, scales, *biases = mx.quantize(mx.array(weight), size, bits, mode=mode)
    parts = {f"{NAME}.weight": packed, f"{NAME}.scales": scales}
    if biases:
        parts[f"{NAME}.biases"] = biases[0]
    (tmp_path / "m").mkdir()
    mx.save_safetensors(str(tmp_path / "m" / "model.safetensors"), parts, {"format": "mlx"})
    kind = {"group_size": size, "bits": bits, "mode": mode}
    (tmp_path / "m" / "config.json").write_text(json.dumps({"model_type": "toy", stated: kind}))
    tc.open(tmp_path / "m") | tc.dequantize("F32") | tc.write(tmp_path / "d")
    decoded = load_file(tmp_path / "d" / "model.safetensors")[f"{NAME}.weight"].numpy()
    own = mx.dequantize(packed, scales, *biases, group_size=size, bits=bits, mode=mode, dtype=mx.float32)
    np.testing.assert_array_equal(decoded, np.array(own))
    tc.open(tmp_path / "m") | tc.write(tmp_path / "r", convention="neutral")
    tc.open(tmp_path / "r") | tc.write(tmp_path / "b", convention="mlx")
    back = load_file(tmp_path / "b" / "model.safetensors")
    assert back.keys() == parts.keys()
    assert all(np.array_equal(back[name].numpy(), np.array(one)) for name, one in parts.items())


def test_layers_of_several_widths_are_named(tmp_path):
    (tmp_path / "m").mkdir()
    weights = {f"model.layers.{n}.mlp.up_proj.weight": torch.randn(32, 128) for n in range(3)}
    save_file(weights, tmp_path / "m" / "model.safetensors")
    (tmp_path / "m" / "config.json").write_text('{"model_type": "toy"}')
    flow = tc.open(tmp_path / "m") | tc.quantize("affine", overrides={"layers.1": "mxfp8"})
    flow | tc.write(tmp_path / "q", convention="mlx")
    stated = json.loads((tmp_path / "q" / "config.json").read_text())["quantization"]
    assert stated == {
        "group_size": 64, "bits": 4, "mode": "affine",
        "model.layers.1.mlp.up_proj": {"group_size": 32, "bits": 8, "mode": "mxfp8"},
    }  # fmt: skip
    tc.open(tmp_path / "q") | tc.dequantize("F32") | tc.write(tmp_path / "d")
    decoded = load_file(tmp_path / "d" / "model.safetensors")
    assert all((decoded[n] - w).norm() < 0.12 * w.norm() for n, w in weights.items())


def test_without_a_word_of_widths_it_is_not_certain(tmp_path):
    source(tmp_path / "m")
    tc.open(tmp_path / "m") | tc.quantize("affine") | tc.write(tmp_path / "q", convention="mlx")
    (tmp_path / "q" / "config.json").unlink()
    save_file(load_file(tmp_path / "q" / "model.safetensors"), tmp_path / "q" / "model.safetensors")
    with pytest.raises(PlanError, match="may be affine with"):
        tc.open(tmp_path / "q") | tc.dequantize() | tc.write(tmp_path / "d")
