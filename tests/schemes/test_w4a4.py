"""W4A4 of rotated columns loses no more than comfy_kitchen's encoder, and decodes as it does."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.numerics.test_hadamard import butterflies, matrix
from transcode.core.dtypes import DTYPES
from transcode.core.spec import Spec
from transcode.numerics import NonFinite
from transcode.schemes import make

from .helpers import SOURCES, decode, encode, spec_of
from .test_w4a8 import MATRICES, sqnr

kitchen = pytest.importorskip("comfy_kitchen.tensor")
eager = pytest.importorskip("comfy_kitchen.backends.eager.convrot_w4a4")

F = np.float32


def by_them(tensor):
    codes, scale = eager.quantize_convrot_w4a4_weight(tensor)
    return eager.dequantize_convrot_w4a4_weight(codes, scale, output_dtype=torch.float32).numpy()


@pytest.mark.parametrize("source", ["F32", "BF16"])
@pytest.mark.parametrize("name", MATRICES)
def test_no_more_is_lost_than_by_comfy_kitchen(name, source):
    tensor = torch.from_numpy(MATRICES[name]).to({"F32": torch.float32, "BF16": torch.bfloat16}[source])
    values = tensor.float().numpy().astype(SOURCES[source])
    lost = [
        sqnr(values, decode(scheme, encode(scheme, values), spec_of(values)))
        for scheme in (make("convrot_w4a4"), make("convrot_w4a4", optimize="mse"))
    ]
    assert lost[0] >= sqnr(values, by_them(tensor))
    assert lost[1] >= lost[0]


def test_codes_under_one_of_three_scales():
    values = MATRICES["hot columns"].astype(F)
    parts = encode(make("convrot_w4a4"), values)
    rows = butterflies(values, 256)
    best = None
    for divisor in (7, 8, 8.75):
        scale = np.abs(rows).max(1, keepdims=True) / F(divisor)
        codes = np.clip(np.rint(rows / scale), -8, 7)
        error = ((codes * scale - rows).astype(np.float64) ** 2).sum(1)
        best = error if best is None else np.minimum(best, error)
    codes = eager.prepare_int4_weight_for_int8_linear(torch.from_numpy(parts["codes"].view(np.int8))).numpy()
    scale = parts["scale"].reshape(-1, 1)
    found = ((codes * scale - rows).astype(np.float64) ** 2).sum(1)
    np.testing.assert_allclose(found, best, rtol=1e-4)
    np.testing.assert_array_equal(codes, np.clip(np.rint(rows / scale), -8, 7))
    out = decode(make("convrot_w4a4"), parts, spec_of(values))
    sums = codes.astype(np.float64).reshape(128, -1, 256) @ matrix(256)
    np.testing.assert_array_equal(out, sums.reshape(out.shape).astype(F) * scale)


def test_what_does_not_fit():
    assert (
        make("convrot_w4a4").refuses(Spec(DTYPES["F32"], (8, 320))) == "320 columns are not a multiple of 256"
    )
    smaller, said = make("convrot_w4a4").instead(Spec(DTYPES["F32"], (8, 320)))
    assert (smaller.rotate, said) == (64, "rotated by 64: 320 columns are not a multiple of 256")
    values = np.ones((3, 256), F)
    values[1, 9] = np.nan
    with pytest.raises(NonFinite, match="row 1, column 9: nan"):
        encode(make("convrot_w4a4"), values)


@pytest.mark.parametrize("more", [{}, {"linear_dtype": "int8"}, {"params": {"convrot_groupsize": 256}}])
def test_their_file_is_read_and_ours_by_them(more, tmp_path, cli):
    layout = kitchen.TensorCoreConvRotW4A4Layout
    weight = torch.from_numpy(MATRICES["normal"]).to(torch.bfloat16)
    codes, params = layout.quantize(weight)
    stored = {f"a.weight{key}": value for key, value in layout.state_dict_tensors(codes, params).items()}
    said = json.dumps({"format": "convrot_w4a4", **more}).encode()
    save_file(
        {**stored, "a.comfy_quant": torch.tensor(list(said), dtype=torch.uint8)},
        tmp_path / "theirs.safetensors",
    )
    cli("run", tmp_path / "theirs.safetensors", tmp_path / "plain.safetensors", "--dequantize", "f32")
    out = load_file(tmp_path / "plain.safetensors")["a.weight"].numpy()
    assert np.abs(out - by_them(weight)).max() < 1e-5

    save_file({"a.weight": weight}, tmp_path / "m.safetensors")
    ours = tmp_path / "ours.safetensors"
    cli("run", tmp_path / "m.safetensors", ours, "--scheme", "convrot_w4a4", "--convention", "comfyui")
    stored = load_file(ours)
    assert json.loads(bytes(stored["a.comfy_quant"].tolist())) == {
        "format": "convrot_w4a4",
        "convrot_groupsize": 256,
    }
    assert (stored["a.weight"].dtype, stored["a.weight_scale"].shape) == (torch.int8, (128,))
    x = torch.randn(3, 1024, generator=torch.Generator().manual_seed(0))
    y = eager.convrot_w4a4_linear(x, stored["a.weight"], stored["a.weight_scale"])
    wanted = x @ weight.float().T
    assert (y - wanted).norm() / wanted.norm() < 0.25  # inputs of 4 bits too
