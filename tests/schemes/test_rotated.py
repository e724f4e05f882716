"""int8 of turned columns equals a model of its formula and is read by comfy_kitchen as it is decoded here."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.numerics.test_hadamard import butterflies, matrix
from transcode.core.dtypes import DTYPES
from transcode.core.spec import Spec
from transcode.errors import RecipeError
from transcode.numerics import NonFinite, Overflow
from transcode.schemes import make

from .helpers import SOURCES, decode, encode, spec_of

F = np.float32


def values_with_hot_columns(shape=(40, 768), kind=F, seed=0):
    values = np.random.default_rng(seed).standard_normal(shape)
    values[:, ::48] *= 20
    return values.astype(kind)


def sqnr(values, out):
    values = values.astype(np.float64)
    return 10 * np.log10((values**2).sum() / ((out - values) ** 2).sum())


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("size", [4, 16, 64, 256])
def test_codes_are_those_of_the_turned_rows(size, source):
    values = values_with_hot_columns(kind=SOURCES[source])
    parts = encode(make("int8", rotate=size, scale_dtype="F32"), values)
    rows = butterflies(values.astype(F), size)
    scale = np.abs(rows).max(1, keepdims=True) / F(127)
    np.testing.assert_array_equal(parts["scale"], scale)
    np.testing.assert_array_equal(parts["codes"], np.clip(np.rint(rows / scale), -127, 127))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"granularity": "tensor"},
        {"symmetric": False},
        {"scale_dtype": "BF16"},
        {"granularity": "group", "group_size": 128},
        {"granularity": "group", "group_size": 1024},
    ],
)
def test_what_is_decoded_is_the_value_of_the_codes_rounded_once(options):
    values = values_with_hot_columns()
    scheme = make("int8", rotate=256, **options)
    parts = encode(scheme, values)
    out = decode(scheme, parts, spec_of(values))
    flat = make("int8", **options)
    plain = decode(flat, parts, spec_of(values)).astype(np.float64)
    exact = (plain.reshape(40, 3, 256) @ matrix(256)).reshape(plain.shape)
    if options.get("group_size") == 128:  # products of several scales are summed in float32
        assert np.abs(out - exact).max() <= 2.0**-20 * np.abs(exact).max()
        return
    # float64 holds the sums of integers exactly, so the product with the scale is all that is rounded.
    kept = "BF16" if options.get("scale_dtype") == "BF16" else "F32"
    scale = parts["scale"].view(DTYPES[kept].numpy()).astype(F).reshape(-1, 1)
    zero = parts.get("zero_point", np.zeros((1, 1))).astype(np.float64)
    sums = ((parts["codes"] - zero).reshape(40, 3, 256) @ matrix(256)).reshape(plain.shape)
    np.testing.assert_array_equal(out, sums.astype(F) * scale)


def test_outliers_of_columns_are_spread():
    values = values_with_hot_columns()
    plain, rotated = (make("int8", rotate=size) for size in (1, 256))
    lost = [sqnr(values, decode(one, encode(one, values), spec_of(values))) for one in (plain, rotated)]
    assert lost[0] < 30
    assert lost[1] > 41


@pytest.mark.parametrize("source", ["BF16", "F32"])
@pytest.mark.parametrize("size", [16, 256])
def test_comfy_kitchen_decodes_the_same_values(size, source):
    """To the sums of a float32 product with the matrix, whose order is that of a library."""
    layout = pytest.importorskip("comfy_kitchen.tensor").TensorWiseINT8Layout
    values = values_with_hot_columns(kind=SOURCES[source], seed=3)
    scheme = make("int8", rotate=size, scale_dtype="F32")
    parts = encode(scheme, values)
    out = decode(scheme, parts, spec_of(values))
    params = layout.Params(
        scale=torch.from_numpy(parts["scale"]), orig_dtype=torch.float32, orig_shape=values.shape,
        convrot=True, convrot_groupsize=size,
    )  # fmt: skip
    theirs = layout.dequantize(torch.from_numpy(parts["codes"]), params).numpy()
    products = np.abs(parts["codes"].astype(np.float64)) * parts["scale"]
    reach = np.repeat(products.reshape(40, -1, size).sum(-1), size, -1) / size**0.5
    assert (np.abs(theirs - out) <= size * 2.0**-24 * reach).all()
    assert not np.array_equal(theirs, decode(make("int8", scale_dtype="F32"), parts, spec_of(values)))


@pytest.mark.parametrize("source", ["BF16", "F32"])
@pytest.mark.parametrize("hot", [False, True])
def test_no_more_is_lost_than_by_comfy_kitchen(source, hot):
    layout = pytest.importorskip("comfy_kitchen.tensor").TensorWiseINT8Layout
    values = np.random.default_rng(5).standard_normal((64, 1024))
    values[:, :: 64 if hot else 4000] *= 20 if hot else 1
    tensor = torch.from_numpy(values).to({"BF16": torch.bfloat16, "F32": torch.float32}[source])
    mine = tensor.float().numpy().astype(SOURCES[source])
    data, params = layout.quantize(tensor, per_channel=True, convrot=True, convrot_groupsize=256)
    theirs = (data.double() * params.scale.double()).numpy().reshape(64, 4, 256) @ matrix(256)
    scheme = make("int8", rotate=256, scale_dtype="F32")
    ours = decode(scheme, encode(scheme, mine), spec_of(mine))
    # Where they turn in float32 too, only ties of sums of another order differ.
    slack = 0.002 if source == "F32" else 0
    assert sqnr(mine, ours) >= sqnr(mine, theirs.reshape(64, 1024)) - slack


def test_a_linear_of_comfy_kitchen_computes_with_it():
    eager = pytest.importorskip("comfy_kitchen.backends.eager.quantization")
    values = values_with_hot_columns((48, 512))
    parts = encode(make("int8", rotate=256), values)
    x = torch.randn(7, 512, generator=torch.Generator().manual_seed(0))
    codes, scale = torch.from_numpy(parts["codes"]), torch.from_numpy(parts["scale"])
    wanted = x.double() @ torch.from_numpy(values).double().T
    lost = {}
    for size in (256, 64):
        y = eager.int8_linear(x, codes, scale, out_dtype=torch.float32, convrot=True, convrot_groupsize=size)
        lost[size] = float((y - wanted).norm() / wanted.norm())
    assert lost[256] < 0.015  # their inputs are quantized too
    assert lost[64] > 0.5  # another size is another matrix


def test_what_cannot_be_turned_or_scaled_is_named():
    values = np.ones((4, 128), F)
    values[2, 100] = np.nan
    for options in ({}, {"granularity": "tensor"}, {"symmetric": False}):
        with pytest.raises(NonFinite) as caught:
            encode(make("int8", rotate=64, **options), values)
        assert (caught.value.row, caught.value.column) == (2, 100)
    signs = np.sign(matrix(64)[0])  # a row of the matrix is turned into one value, 8 times as large
    values[2, 64:] = 3e38 * signs
    with pytest.raises(NonFinite, match=r"row 2, column 64: 3\.0000"):
        encode(make("int8", rotate=64), values)
    # 3e6 / 127 is a scale that F16 holds, but turned it is 2.4e7.
    values[2, 64:] = 3e6 * signs
    encode(make("int8", scale_dtype="F16"), values)
    with pytest.raises(Overflow, match="row 2, "):
        encode(make("int8", rotate=64, scale_dtype="F16"), values)


def test_columns_that_cannot_be_turned():
    scheme = make("int8", rotate=256)
    assert scheme.refuses(Spec(DTYPES["F32"], (8, 384))) == "384 columns are not a multiple of 256"
    assert scheme.instead(Spec(DTYPES["F32"], (8, 512))) is None
    plain, said = scheme.instead(Spec(DTYPES["F32"], (8, 384)))
    assert plain == make("int8")
    assert said == "not rotated: 384 columns are not a multiple of 256"
    for bad in (0, 2, 8, 128, 4**9, True, "256", 256.0):
        with pytest.raises(RecipeError, match=r"rotate cannot be .*; give 1 for none, or a power of 4"):
            make("int8", rotate=bad)


# Through files


@pytest.fixture
def rotated(tmp_path, cli):
    """A model with a matrix that can be turned and one that cannot, as int8 for ComfyUI; and its weights."""
    random = torch.Generator().manual_seed(0)
    weights = {
        "blocks.0.q.weight": torch.randn(48, 512, generator=random),
        "blocks.0.down.weight": torch.randn(48, 384, generator=random),
    }
    for weight in weights.values():
        weight[:, 7] *= 30
    save_file(weights, tmp_path / "m.safetensors")
    out = tmp_path / "q.safetensors"
    job = ("run", tmp_path / "m.safetensors", out, "--scheme", "int8", "-O", "rotate=256")
    said = cli(*job, "--convention", "comfyui")
    said = " ".join((said.out + said.err).split())
    assert "blocks.0.down.weight: not rotated: 384 columns are not a multiple of 256" in said
    return out, weights


def marks(path):
    return {
        name: json.loads(bytes(tensor.tolist()))
        for name, tensor in load_file(path).items()
        if name.endswith("comfy_quant")
    }


def test_each_layer_says_whether_it_is_turned(rotated, tmp_path, cli):
    path, weights = rotated
    assert marks(path) == {
        "blocks.0.q.comfy_quant": {"format": "int8_tensorwise", "convrot": True, "convrot_groupsize": 256},
        "blocks.0.down.comfy_quant": {"format": "int8_tensorwise"},
    }
    cli("run", path, tmp_path / "d.safetensors", "--dequantize", "f32")
    for name, tensor in load_file(tmp_path / "d.safetensors").items():
        assert sqnr(weights[name].numpy(), tensor.numpy()) > (41 if name.endswith("q.weight") else 25)
    told = cli("doctor", path, "--for", "comfyui", code=1).out  # of a family that nobody knows
    assert "int8 as ComfyUI has it" in " ".join(told.split())
    many = tmp_path / "many.safetensors"
    job = ("run", tmp_path / "m.safetensors", many, "--scheme", "int8", "-O", "rotate=256")
    cli(*job, "--convention", "comfyui", "--workers", 3, "--tile", 4096)
    ours, theirs = load_file(path), load_file(many)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours.keys() | theirs.keys())


def test_codes_are_kept_on_the_way_through_another_convention(rotated, tmp_path, cli, refused):
    path, _ = rotated
    cli("run", path, tmp_path / "n.safetensors", "--convention", "neutral")
    between = load_file(tmp_path / "n.safetensors")
    assert json.loads(bytes(between["blocks.0.q.weight_rotation"].tolist())) == {"rotate": 256}
    assert "blocks.0.down.weight_rotation" not in between
    cli("run", tmp_path / "n.safetensors", tmp_path / "back.safetensors", "--convention", "comfyui")
    first, last = load_file(path), load_file(tmp_path / "back.safetensors")
    assert first.keys() == last.keys()
    assert all(torch.equal(first[name], last[name]) for name in first)
    for whose in ("lightx2v", "compressed_tensors"):
        said = refused("run", path, tmp_path / "x.safetensors", "--convention", whose)
        assert "rotate=256" in said
    # What is stored so already keeps its codes, and what is not is encoded anew.
    same = ("run", path, tmp_path / "s.safetensors", "--scheme", "int8", "--convention", "comfyui")
    assert "2 of 2 matrices: quantized already" in refused(*same, "-O", "rotate=256")
    cli(*same)
    assert marks(tmp_path / "s.safetensors")["blocks.0.q.comfy_quant"] == {"format": "int8_tensorwise"}


def test_a_lora_is_merged_in_the_plain_basis(rotated, tmp_path, cli):
    path, _ = rotated
    random = torch.Generator().manual_seed(1)
    down, up = torch.randn(4, 512, generator=random), torch.randn(48, 4, generator=random)
    save_file(
        {"blocks.0.q.lora_down.weight": down, "blocks.0.q.lora_up.weight": up}, tmp_path / "l.safetensors"
    )
    lora = ("--lora", tmp_path / "l.safetensors")
    cli("run", path, tmp_path / "d.safetensors", "--dequantize", "f32")
    plain = load_file(tmp_path / "d.safetensors")["blocks.0.q.weight"]
    cli("run", path, tmp_path / "merged.safetensors", "--dequantize", "f32", *lora)
    merged = load_file(tmp_path / "merged.safetensors")["blocks.0.q.weight"]
    torch.testing.assert_close(merged, plain + up @ down, rtol=1e-5, atol=1e-4)
    again = ("--scheme", "int8", "-O", "rotate=256", "--convention", "comfyui")
    cli("run", path, tmp_path / "anew.safetensors", *lora, *again)
    cli("run", tmp_path / "anew.safetensors", tmp_path / "out.safetensors", "--dequantize", "f32")
    out = load_file(tmp_path / "out.safetensors")["blocks.0.q.weight"]
    assert sqnr(merged.numpy(), out.numpy()) > 40
