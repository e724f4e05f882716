"""awq_w4a16: least squares under two floats to a group; decoded by comfy_kitchen to the bit."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from transcode.core.dtypes import DTYPES
from transcode.numerics import NonFinite
from transcode.schemes import make

from .helpers import SOURCES, decode, encode, spec_of
from .test_w4a8 import MATRICES, sqnr

kitchen = pytest.importorskip("comfy_kitchen.tensor")
LAYOUT = kitchen.TensorCoreAWQW4A16Layout

F = np.float32


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("name", MATRICES)
@pytest.mark.parametrize("optimize", ["none", "mse"])
def test_no_more_is_lost_than_by_the_range_of_each_group(optimize, name, source):
    """The plain way, as a model of it in float64; and codes are nearest under what is stored."""
    values = MATRICES[name].astype(SOURCES[source])
    scheme = make("awq_w4a16", scale_dtype="F32", optimize=optimize)
    parts = encode(scheme, values)
    groups = values.astype(np.float64).reshape(128, -1, 64)
    low, high = groups.min(-1, keepdims=True), groups.max(-1, keepdims=True)
    scale = np.where(high > low, (high - low) / 15, 1)
    plain = (np.clip(np.rint((groups - low) / scale), 0, 15) * scale + low).reshape(values.shape)
    out = decode(scheme, parts, spec_of(values))
    gain = sqnr(values, out) - sqnr(values, plain)
    assert gain > (0.2 if name != "sparse" else 0)
    scale, offset = (parts[role].astype(np.float64)[..., None] for role in ("scale", "offset"))
    nearest = np.clip(np.rint((groups - offset) / scale), -8, 7) * scale + offset
    own, best = (np.abs(one.reshape(groups.shape) - groups) for one in (out.astype(np.float64), nearest))
    assert (own <= best + 1e-5 * scale + 1e-6 * np.abs(groups)).all()  # but for ties in float32


@pytest.mark.parametrize(
    ("kept", "dtype"), [("F32", torch.float32), ("BF16", torch.float32), ("F16", torch.float32)]
)
@pytest.mark.parametrize(("group", "optimize"), [(32, "none"), (64, "none"), (128, "none"), (64, "mse")])
def test_comfy_kitchen_decodes_the_same_bits(kept, dtype, group, optimize):
    values = MATRICES["hot columns"].astype(F)
    scheme = make("awq_w4a16", group_size=group, scale_dtype=kept, optimize=optimize)
    parts = encode(scheme, values)
    scale, offset = (
        torch.from_numpy(parts[role].view(DTYPES[kept].numpy()).astype(F)).T for role in ("scale", "offset")
    )
    params = LAYOUT.Params(
        scale=scale, zeros=offset, orig_dtype=dtype, orig_shape=values.shape, group_size=group
    )
    theirs = LAYOUT.dequantize(torch.from_numpy(parts["codes"].view(np.int8)), params).numpy()
    np.testing.assert_array_equal(theirs, decode(scheme, parts, spec_of(values)))


def test_groups_of_one_value_and_edges():
    values = np.zeros((5, 64), F)
    values[1] = 3.25
    values[2] = -3.25
    values[3, 0] = 2.0**-149
    values[4] = np.linspace(-1, 1, 64) * 3e38
    scheme = make("awq_w4a16")
    parts = encode(scheme, values)
    out = decode(scheme, parts, spec_of(values))
    np.testing.assert_array_equal(out[:3], values[:3])
    assert np.isfinite(out).all()
    assert np.abs(out[4] - values[4]).max() < 3e38 * 2 / 15
    values[2, 5] = np.inf
    with pytest.raises(NonFinite, match="row 2, column 5: inf"):
        encode(scheme, values)


def test_a_file_goes_to_them_and_comes_back(tmp_path, cli):
    weight = torch.from_numpy(MATRICES["normal"]).to(torch.bfloat16)
    save_file({"a.weight": weight}, tmp_path / "m.safetensors")
    ours = tmp_path / "ours.safetensors"
    cli("run", tmp_path / "m.safetensors", ours, "--scheme", "awq_w4a16", "--convention", "comfyui")
    stored = load_file(ours)
    said = {"format": "awq_w4a16", "group_size": 64}
    assert json.loads(bytes(stored["a.comfy_quant"].tolist())) == said
    assert stored["a.weight"].dtype == torch.int8
    assert stored["a.weight_scale"].shape == stored["a.weight_zeros"].shape == (16, 128)
    assert stored["a.weight_scale"].dtype == torch.bfloat16
    params = LAYOUT.Params(
        scale=stored["a.weight_scale"].float(), zeros=stored["a.weight_zeros"].float(),
        orig_dtype=torch.float32, orig_shape=(128, 1024),
    )  # fmt: skip
    theirs = LAYOUT.dequantize(stored["a.weight"], params)
    cli("run", ours, tmp_path / "back.safetensors", "--dequantize", "f32")
    assert torch.equal(load_file(tmp_path / "back.safetensors")["a.weight"], theirs)
    assert sqnr(weight.float().numpy(), theirs.numpy()) > 21
    # With no size in its marker, theirs means 64.
    stored["a.comfy_quant"] = torch.tensor(list(b'{"format": "awq_w4a16"}'), dtype=torch.uint8)
    save_file(stored, tmp_path / "theirs.safetensors")
    cli("run", tmp_path / "theirs.safetensors", tmp_path / "again.safetensors", "--dequantize", "f32")
    assert torch.equal(load_file(tmp_path / "again.safetensors")["a.weight"], theirs)


@pytest.mark.parametrize("name", MATRICES)
def test_a_search_from_nine_beginnings_loses_no_more_in_any_group(name):
    values = MATRICES[name].astype(F)
    errors = []
    for optimize in ("none", "mse"):
        scheme = make("awq_w4a16", scale_dtype="F32", optimize=optimize)
        out = decode(scheme, encode(scheme, values), spec_of(values))
        errors.append(np.square((out - values).astype(np.float64)).reshape(-1, 64).sum(-1))
    plain, searched = errors
    assert (searched <= plain * (1 + 1e-5)).all()
    if name == "hot columns":
        assert searched.sum() < 0.95 * plain.sum()
