"""Decoding: the product of code and scale, of just the tensor asked for, and as near as the format allows."""

# ruff: noqa: E501  tables of cases read better in long lines

from __future__ import annotations

import gc

import pytest
import torch
from safetensors.torch import load_file

import transcode as tc


def matrix(seed: int = 0) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(300, 200, generator=draw) * torch.logspace(-2, 2, 300)[:, None]


CASES = [
    ("int8", {}), ("int8", {"granularity": "tensor"}), ("int8", {"granularity": "group", "group_size": 64}),
    ("int8", {"symmetric": False}), ("fp8", {}), ("fp8", {"format": "e5m2"}), ("fp8", {"granularity": "tensor"}),
    ("fp8", {"granularity": "block"}),
]  # fmt: skip


@pytest.mark.parametrize(("scheme", "options"), CASES)
def test_values_are_code_times_scale(scheme, options, save, tmp_path):
    x = matrix()
    flow = tc.open(save({"a.weight": x})) | tc.quantize(scheme, **options)
    flow | tc.write(tmp_path / "q.safetensors", convention="neutral")
    decoded = tc.open(tmp_path / "q.safetensors") | tc.dequantize("F32", convention="neutral")
    decoded | tc.write(tmp_path / "d.safetensors")
    stored, found = load_file(tmp_path / "q.safetensors"), load_file(tmp_path / "d.safetensors")
    assert set(found) == {"a.weight"}
    codes, scale = stored["a.weight"].float(), stored["a.weight_scale"]
    if scale.dim() == 2:
        height, width = -(-300 // scale.shape[0]), -(-200 // scale.shape[1])
        if options.get("granularity") == "block":
            height = width = 128
        elif "group_size" in options:
            width = options["group_size"]
        scale = scale.repeat_interleave(height, 0)[:300].repeat_interleave(width, 1)[:, :200]
    if "a.weight_zero_point" in stored:
        codes = codes - stored["a.weight_zero_point"].float()
    assert torch.equal(found["a.weight"], codes * scale)


@pytest.mark.parametrize("to", ["F32", "BF16", "F16", "F64"])
def test_int8_is_within_half_a_step(to, save, tmp_path):
    x = matrix()
    int8 = tc.quantize("int8", scale_dtype="F32")
    tc.open(save({"a.weight": x})) | int8 | tc.write(tmp_path / "q.safetensors")
    tc.open(tmp_path / "q.safetensors") | tc.dequantize(to) | tc.write(tmp_path / "d.safetensors")
    found = load_file(tmp_path / "d.safetensors")["a.weight"].double()
    step = x.abs().amax(1, keepdim=True).double() / 127
    rounding = {"F32": 0, "F64": 0, "BF16": 2**-8, "F16": 2**-11}[to]
    assert (
        (found - x.double())
        .abs()
        .le(step * 0.5000001 + x.abs().double() * rounding * 1.01 + step * rounding)
        .all()
    )


@pytest.mark.parametrize("scheme", ["nvfp4", "mxfp4", "mxfp6", "mxfp8"])
def test_codes_under_sub_byte_dtypes(scheme, save, tmp_path):
    """neutral stores F4 and F6 as such, LightX2V the same codes as bytes."""
    x = torch.randn(256, 192, generator=torch.Generator().manual_seed(3))
    options = {"mxfp6": {"format": "e3m2"}, "nvfp4": {"global_scale_dtype": "BF16"}}.get(scheme, {})
    flow = tc.open(save({"a.weight": x})) | tc.quantize(scheme, **options)
    found = []
    for convention in ("neutral", "lightx2v"):
        path, out = tmp_path / f"{convention}.safetensors", tmp_path / f"{convention}-d.safetensors"
        flow | tc.write(path, convention=convention)
        tc.open(path) | tc.dequantize("F32", convention=convention) | tc.write(out)
        found.append(load_file(out)["a.weight"])
    assert torch.equal(*found)
    assert (found[0] - x).norm() < 0.2 * x.norm()


@pytest.mark.parametrize(
    ("scheme", "form"), [("mxfp6", "e2m3"), ("mxfp6", "e3m2"), ("mxfp8", "e4m3fn"), ("mxfp8", "e5m2")]
)
def test_the_format_of_the_codes_is_seen_from_their_dtype(scheme, form, save, tmp_path):
    x = torch.randn(8, 192, generator=torch.Generator().manual_seed(4))
    path, out = tmp_path / "q.safetensors", tmp_path / "d.safetensors"
    tc.open(save({"a.weight": x})) | tc.quantize(scheme, format=form) | tc.write(path, convention="neutral")
    tc.open(path) | tc.dequantize("F32", convention="neutral") | tc.write(out)
    error = (load_file(out)["a.weight"] - x).norm() / x.norm()
    low, high = {"e2m3": (0.02, 0.04), "e3m2": (0.04, 0.07), "e4m3fn": (0.02, 0.04), "e5m2": (0.04, 0.07)}[
        form
    ]
    assert low < error < high


def test_many_sources_in_one_process_do_not_mix(save, tmp_path):
    """What is remembered of a tensor must not be met again by another tensor, whatever its name or address."""
    for seed in range(12):
        x = matrix(seed) * 10**seed
        (
            tc.open(save({"a.weight": x}))
            | tc.quantize("int8")
            | tc.write(tmp_path / "q.safetensors", force=True)
        )
        (
            tc.open(tmp_path / "q.safetensors")
            | tc.dequantize("F32")
            | tc.write(tmp_path / "d.safetensors", force=True)
        )
        stored, found = load_file(tmp_path / "q.safetensors"), load_file(tmp_path / "d.safetensors")
        assert torch.equal(found["a.weight"], stored["a.weight"].float() * stored["a.weight_scale"])
        gc.collect()


def test_only_some(wan, tmp_path, refused):
    tc.open(wan) | tc.quantize("int8") | tc.write(tmp_path / "q.safetensors")
    flow = tc.open(tmp_path / "q.safetensors") | tc.dequantize("BF16", only=["blocks.0"])
    flow | tc.write(tmp_path / "d.safetensors")
    before, after = load_file(tmp_path / "q.safetensors"), load_file(tmp_path / "d.safetensors")
    assert {name for name in after if after[name].dtype == torch.int8} == {
        name for name in before if before[name].dtype == torch.int8 and name.startswith("blocks.1")
    }
    message = refused(
        "run", wan, tmp_path / "x.safetensors", "--dequantize", "BF16", "--from-convention", "nobody"
    )
    assert "nobody" in message


def test_nothing_quantized_is_refused(wan, tmp_path, refused):
    said = refused("run", wan, tmp_path / "o.safetensors", "--dequantize", "BF16")
    assert "nothing to dequantize: no tensor is quantized" in said
    assert not (tmp_path / "o.safetensors").exists()


def test_requantize_in_one_flow(wan, tmp_path):
    tc.open(wan) | tc.quantize("int8") | tc.write(tmp_path / "q.safetensors")
    (
        tc.open(tmp_path / "q.safetensors")
        | tc.dequantize("F32")
        | tc.quantize("fp8")
        | tc.write(tmp_path / "a.safetensors")
    )
    tc.open(tmp_path / "q.safetensors") | tc.dequantize("F32") | tc.write(tmp_path / "d.safetensors")
    tc.open(tmp_path / "d.safetensors") | tc.quantize("fp8") | tc.write(tmp_path / "b.safetensors")
    first, second = load_file(tmp_path / "a.safetensors"), load_file(tmp_path / "b.safetensors")
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(
            first[name].flatten().view(torch.uint8), second[name].flatten().view(torch.uint8)
        ), name
