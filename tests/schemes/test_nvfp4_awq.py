"""nvfp4 with scales of columns: nvfp4 of the divided matrix, and what ComfyUI computes with both."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from transcode.numerics import NonFinite
from transcode.schemes import make

from .helpers import SOURCES, decode, encode, spec_of

F = np.float32


def hot(kind=F, shape=(64, 256)):
    values = np.random.default_rng(0).standard_normal(shape)
    values[:, 5] *= 300
    values[:, 9] *= 2.0**-9
    values[:, 11] = 0
    return values.astype(kind)


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("optimize", ["none", "mse"])
def test_it_is_nvfp4_of_the_divided_matrix(source, optimize):
    values = hot(SOURCES[source])
    parts = encode(make("nvfp4_awq", optimize=optimize, scale_dtype="F32"), values)
    peaks = np.abs(values.astype(np.float64)).max(0)
    logs = np.log2(peaks[peaks > 0])
    wanted = np.ones(256)
    wanted[peaks > 0] = 2.0 ** np.rint((logs - logs.mean()) / 2)
    np.testing.assert_array_equal(parts["column_scale"], wanted)
    assert (wanted[5], wanted[9], wanted[11]) == (16, 2.0**-5, 1)
    divided = (values.astype(F) / wanted).astype(F)
    for role, part in encode(make("nvfp4", optimize=optimize), divided).items():
        np.testing.assert_array_equal(parts[role], part)
    scheme = make("nvfp4_awq", scale_dtype="F32")
    out = decode(scheme, parts, spec_of(values))
    plain = decode(make("nvfp4"), parts, spec_of(values))
    np.testing.assert_array_equal(out, plain * wanted.astype(F))


def test_what_sticks_out_spoils_its_neighbours_less():
    values = hot()
    lost = {}
    for name in ("nvfp4", "nvfp4_awq"):
        out = decode(make(name), encode(make(name), values), spec_of(values))
        others = [k for k in range(16) if k not in (5, 9, 11)]
        lost[name] = np.linalg.norm((out - values)[:, others]) / np.linalg.norm(values[:, others])
    assert lost["nvfp4_awq"] < lost["nvfp4"] / 2


def test_small_large_and_bad_values():
    values = np.zeros((4, 32), F)
    assert encode(make("nvfp4_awq"), values)["column_scale"].tolist() == [1] * 32
    values[0, 0], values[1, 1] = 3e38, 1e-44
    parts = encode(make("nvfp4_awq"), values)
    assert np.isfinite(decode(make("nvfp4_awq"), parts, spec_of(values))).all()
    assert parts["column_scale"].max() <= 2.0**14
    values[2, 7] = np.nan
    with pytest.raises(NonFinite, match="row 2, column 7: nan"):
        encode(make("nvfp4_awq"), values)


def test_comfyui_computes_with_it(tmp_path, cli):
    """Codes and scales through comfy_kitchen's decoder, inputs times ``pre_quant_scale``."""
    eager = pytest.importorskip("comfy_kitchen.backends.eager.quantization")
    weight = torch.from_numpy(hot(shape=(128, 256))).to(torch.bfloat16)
    save_file({"a.weight": weight}, tmp_path / "m.safetensors")
    ours = tmp_path / "ours.safetensors"
    cli("run", tmp_path / "m.safetensors", ours, "--scheme", "nvfp4_awq", "--convention", "comfyui")
    stored = load_file(ours)
    assert json.loads(bytes(stored["a.comfy_quant"].tolist())) == {"format": "nvfp4"}
    before = stored["a.pre_quant_scale"]
    assert (before.dtype, before.shape) == (torch.bfloat16, (256,))
    inner = eager.dequantize_nvfp4(
        stored["a.weight"], stored["a.weight_scale_2"], stored["a.weight_scale"], torch.float32
    )
    cli("run", ours, tmp_path / "back.safetensors", "--dequantize", "f32")
    back = load_file(tmp_path / "back.safetensors")["a.weight"]
    torch.testing.assert_close(back, inner * before.float(), rtol=1e-6, atol=0)
    x = torch.randn(3, 256, dtype=torch.float64)
    torch.testing.assert_close((x * before) @ inner.double().T, x @ back.double().T, rtol=1e-5, atol=1e-3)
    # As others make them, in another dtype and of any value.
    stored["a.pre_quant_scale"] = torch.rand(256) + 0.5
    save_file(stored, tmp_path / "theirs.safetensors")
    cli("run", tmp_path / "theirs.safetensors", tmp_path / "plain.safetensors", "--dequantize", "f32")
    plain = load_file(tmp_path / "plain.safetensors")["a.weight"]
    torch.testing.assert_close(plain, inner * stored["a.pre_quant_scale"], rtol=1e-6, atol=0)
    # Without it the same file is nvfp4.
    del stored["a.pre_quant_scale"]
    save_file(stored, tmp_path / "none.safetensors")
    cli("run", tmp_path / "none.safetensors", tmp_path / "inner.safetensors", "--dequantize", "f32")
    torch.testing.assert_close(
        load_file(tmp_path / "inner.safetensors")["a.weight"], inner, rtol=1e-6, atol=0
    )
