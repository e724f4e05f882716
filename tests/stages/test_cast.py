"""Casts equal torch's; what does not fit is an error that says where."""

# ruff: noqa: E501  tables of cases read better in long lines

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

import transcode as tc
from transcode.errors import DataError, RecipeError

FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
TARGETS = {**FLOATS, "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2}


def bits(value: torch.Tensor) -> torch.Tensor:
    return value.flatten().view(torch.uint8)


@pytest.mark.parametrize("to", TARGETS)
@pytest.mark.parametrize("source", FLOATS)
def test_casts_equal_torch(source, to, save, tmp_path):
    """Over values that fit: ties, subnormals, signed zeros."""
    draw = torch.Generator().manual_seed(1)
    x = torch.cat([
        torch.randn(2000, generator=draw, dtype=torch.float64) * 10 ** (torch.rand(2000, generator=draw) * 14 - 12).double(),
        torch.tensor([0.0, -0.0, 1.0, -1.0, 1.0625, 1.1875, 2.0**-9, 2.0**-10, 3 * 2.0**-10, 2.0**-24, 2.0**-25]).double(),
    ]).to(FLOATS[source]).reshape(-1, 1).repeat(1, 3)  # fmt: skip
    tc.open(save({"a": x})) | tc.cast(to) | tc.write(tmp_path / "o.safetensors")
    found = load_file(tmp_path / "o.safetensors")["a"]
    # one rounding; torch goes from float64 to narrow floats by way of float32, and so may round twice
    expected = x.to(TARGETS[to])
    assert found.dtype == TARGETS[to]
    if source == "F64" and to not in ("F64", "F32"):
        import ml_dtypes
        import numpy as np

        kind = {
            "F16": np.float16,
            "BF16": ml_dtypes.bfloat16,
            "F8_E4M3": ml_dtypes.float8_e4m3fn,
            "F8_E5M2": ml_dtypes.float8_e5m2,
        }[to]
        direct = torch.from_numpy(x.numpy().astype(kind).view(np.uint8)).flatten()
        assert torch.equal(bits(found), direct) or torch.equal(bits(found), bits(expected))
    else:
        assert torch.equal(bits(found), bits(expected))


@pytest.mark.parametrize("source", ["F64", "F32", "BF16"])
def test_overflow_to_half(source, save, tmp_path, refused, cli):
    x = torch.ones(300, 5, dtype=FLOATS[source])
    x[211, 3] = 70000
    path = save({"a.weight": x})
    message = refused("run", path, tmp_path / "o.safetensors", "--cast", "fp16")
    assert "a.weight: " in message
    assert "row 211, column 3" in message
    assert "F16" in message
    assert not (tmp_path / "o.safetensors").exists()
    cli("run", path, tmp_path / "o.safetensors", "--cast", "fp16", "--saturate")
    assert load_file(tmp_path / "o.safetensors")["a.weight"][211, 3] == 65504


def test_what_rounds_down_to_the_largest_is_no_overflow(save, tmp_path):
    path = save({"a": torch.tensor([65504.0, 65519.0, -65519.0])})
    tc.open(path) | tc.cast("F16") | tc.write(tmp_path / "o.safetensors")
    assert load_file(tmp_path / "o.safetensors")["a"].tolist() == [65504, 65504, -65504]
    path = save({"a": torch.tensor([65520.0])})
    with pytest.raises(DataError, match="65520"):
        tc.open(path) | tc.cast("F16") | tc.write(tmp_path / "p.safetensors")


def test_nonfinite_values_stay_what_they_are(save, tmp_path):
    path = save({"a": torch.tensor([float("inf"), -float("inf"), float("nan"), 1.0])})
    tc.open(path) | tc.cast("BF16") | tc.write(tmp_path / "o.safetensors")
    found = load_file(tmp_path / "o.safetensors")["a"].float()
    assert found[0] == float("inf")
    assert found[1] == -float("inf")
    assert torch.isnan(found[2])


def test_only_floats_and_only_what_is_named(save, tmp_path, wan):
    tensors = {
        "a": torch.ones(3), "b": torch.ones(3), "n": torch.ones(3, dtype=torch.int32), "m": torch.ones(3) > 0,
        "f": torch.ones(3).to(torch.float8_e4m3fn), "s": torch.tensor(2.0), "e": torch.empty(0, 4),
    }  # fmt: skip
    path = save(tensors)
    tc.open(path) | tc.cast("F16") | tc.write(tmp_path / "o.safetensors")
    found = load_file(tmp_path / "o.safetensors")
    changed = {name for name in tensors if found[name].dtype != tensors[name].dtype}
    assert changed == {"a", "b", "s", "e", "f"}
    tc.open(path) | tc.cast("F16", only=["a", "f"]) | tc.write(tmp_path / "p.safetensors")
    found = load_file(tmp_path / "p.safetensors")
    assert {name for name in tensors if found[name].dtype != tensors[name].dtype} == {"a", "f"}


@pytest.mark.parametrize("to", ["int8", "fp17", "", "U8", "F4"])
def test_no_float_dtype(to):
    with pytest.raises(RecipeError, match="not a float dtype"):
        tc.cast(to)


def test_a_cast_behind_another_that_did_all_is_not_without_effect(save, tmp_path):
    """The warning is for sources that have the dtype already, not for what an earlier stage cast to it."""
    for dtype, idle in ((torch.float32, False), (torch.bfloat16, True)):
        flow = tc.open(save({"a": torch.ones(2, 2, dtype=dtype)})) | tc.cast("bf16") | tc.cast("bf16")
        plan = flow.plan(tc.write(tmp_path / "o.safetensors"))
        assert any("no tensor is changed" in str(remark) for remark in plan.log.warnings) == idle, dtype
