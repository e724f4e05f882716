"""Tensors whose shape the scheme or the consumer cannot take: kept, an error, or filled up with zeros."""

from __future__ import annotations

import math

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

import transcode as tc
from transcode.errors import PlanError, RecipeError

SHAPES = {"fits": (64, 96), "wide": (64, 50), "tall": (30, 96), "both": (30, 50), "flat": (1, 1)}
"""For nvfp4 of LightX2V, whose kernel wants 32 rows and 32 columns; neutral wants whole blocks."""


def model() -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(2)
    made = {f"layers.{n}.weight": torch.randn(shape, generator=draw) for n, shape in SHAPES.items()}
    return {**made, **{f"layers.{n}.bias": torch.randn(s[0], generator=draw) for n, s in SHAPES.items()}}


def padded(x: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    out = torch.zeros(
        math.ceil(x.shape[0] / rows) * rows, math.ceil(x.shape[1] / columns) * columns, dtype=x.dtype
    )
    out[: x.shape[0], : x.shape[1]] = x
    return out


def run(
    save, tmp_path, tensors, scheme="nvfp4", way=None, convention="lightx2v", **options
) -> dict[str, torch.Tensor]:
    flow = tc.open(save(tensors)) | tc.quantize(scheme, targets=["layers"], **options)
    flow | tc.write(tmp_path / "o.safetensors", force=True, convention=convention, **(way or {}))
    return load_file(tmp_path / "o.safetensors")


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return (
        a.dtype == b.dtype
        and a.shape == b.shape
        and torch.equal(a.flatten().view(torch.uint8), b.flatten().view(torch.uint8))
    )


def test_kept_as_it_is_and_said(cli, save, tmp_path):
    tensors = model()
    stored = run(save, tmp_path, tensors)
    assert {name for name in stored if name.endswith("weight_scale")} == {"layers.fits.weight_scale"}
    for name, value in tensors.items():
        assert (name == "layers.fits.weight") != same(stored[name], value), name
    told = cli("run", save(tensors), tmp_path / "p.safetensors", "-snvfp4", "--targets", "layers", "-nv").err
    for name in SHAPES.keys() - {"fits"}:
        assert f"layers.{name}.weight: not quantized: " in told
    assert "50 columns are not a multiple of 16" in told
    assert "30 rows are not a multiple of 32, which the consumer's kernel needs" in told


@pytest.mark.parametrize("name", sorted(SHAPES.keys() - {"fits"}))
def test_an_error_before_anything_is_written(name, refused, save, tmp_path):
    tensors = {key: value for key, value in model().items() if "fits" in key or name in key}
    source = save(tensors)
    message = refused(
        "run", source, tmp_path / "o.safetensors", "-snvfp4", "--targets", "layers", "--on-bad-shape", "error"
    )
    assert f"layers.{name}.weight: cannot become nvfp4: " in message
    assert "exclude it, or pass --on-bad-shape keep" in message
    assert not (tmp_path / "o.safetensors").exists()


def test_an_error_is_none_where_all_shapes_fit(save, tmp_path):
    tensors = {name: value for name, value in model().items() if "fits" in name}
    stored = run(save, tmp_path, tensors, on_bad_shape="error")
    assert "layers.fits.weight_scale" in stored


@pytest.mark.parametrize("way", [{"workers": 1}, {"workers": 3, "tile": 1}, {"workers": 2, "tile": 3000}])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize(("scheme", "columns"), [("nvfp4", 16), ("mxfp8", 32), ("mxfp4", 32), ("int4", 64)])
def test_padding_is_what_quantizing_a_padded_matrix_gives(scheme, columns, dtype, way, save, tmp_path):
    tensors = {name: value.to(dtype) for name, value in model().items()}
    stored = run(save, tmp_path, tensors, scheme, way, "neutral", on_bad_shape="pad")
    ready = {n: padded(v, 1, columns) if v.dim() == 2 else v for n, v in tensors.items()}
    want = run(save, tmp_path, ready, scheme, convention="neutral", on_bad_shape="error")
    # what was padded, and only that, tells what it was
    shapes = {name: stored.pop(name).tolist() for name in list(stored) if name.endswith("_shape")}
    assert shapes == {
        f"layers.{name}.weight_shape": list(shape) for name, shape in SHAPES.items() if shape[1] % columns
    }
    assert stored.keys() == want.keys()
    assert sum(name.endswith("weight_scale") for name in stored) == len(SHAPES)
    for name, value in want.items():
        assert same(stored[name], value), name


@pytest.mark.parametrize("tile", [None, 1, 3000])
@pytest.mark.parametrize("to", ["F32", "BF16"])
@pytest.mark.parametrize(("scheme", "columns"), [("nvfp4", 16), ("mxfp6", 32), ("mxfp4", 32), ("int4", 64)])
def test_decoding_gives_back_the_shapes_of_before(scheme, columns, to, tile, save, tmp_path):
    """And the values of the matrix with zeros at its end, decoded and cut."""
    ready = {n: padded(v, 1, columns) if v.dim() == 2 else v for n, v in model().items()}
    found = []
    for tensors, way in ((model(), "pad"), (ready, "error")):
        flow = tc.open(save(tensors)) | tc.quantize(scheme, targets=["layers"], on_bad_shape=way)
        flow | tc.write(tmp_path / "q.safetensors", force=True, convention="neutral")
        # through a copy, as the shape is in the file and not in this process
        tc.open(tmp_path / "q.safetensors") | tc.write(tmp_path / "copy", force=True, convention="plain")
        decode = tc.open(tmp_path / "copy") | tc.dequantize(to)
        decode | tc.write(tmp_path / "d.safetensors", force=True, tile=tile)
        found.append(load_file(tmp_path / "d.safetensors"))
    cut, whole = found
    assert cut.keys() == whole.keys() == model().keys()
    for name, value in model().items():
        assert cut[name].shape == value.shape, name
        expected = whole[name][:, : value.shape[1]] if value.dim() == 2 else whole[name]
        assert torch.equal(cut[name], expected), name


def test_a_shape_that_the_codes_do_not_fit_is_refused(refused, save, tmp_path):
    (
        tc.open(save({"layers.a.weight": model()["layers.wide.weight"]}))
        | tc.quantize("mxfp4", targets=["layers"], on_bad_shape="pad")
        | tc.write(tmp_path / "q.safetensors", convention="neutral")
    )
    with safe_open(tmp_path / "q.safetensors", "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    for wrong in ([64, 32], [64, 65], [63, 50], [64, 0], [50], [1, 64, 50]):
        tensors["layers.a.weight_shape"] = torch.tensor(wrong)
        source = save(tensors, metadata=metadata)
        message = refused("run", source, tmp_path / "d.safetensors", "--dequantize", "f32")
        assert f"layers.a.weight: has codes for [64, 64], but 'layers.a.weight_shape' says {wrong}" in message


def test_the_plan_tells_of_padding_and_names_both_shapes(save, tmp_path):
    flow = tc.open(save(model())) | tc.quantize("nvfp4", targets=["layers"], on_bad_shape="pad")
    plan = flow.plan(tc.write(tmp_path / "o.safetensors", convention="neutral"))
    fates = {tensor.name: "; ".join(map(str, tensor.fate)) for tensor in plan.tensors}
    assert "pad: F32[30,50] -> F32[30,64]" in fates["layers.both.weight"]
    assert "pad" not in fates["layers.fits.weight"]
    assert not [said for said in map(str, plan.log.warnings) if "not quantized" in said]
    with pytest.raises(PlanError, match=r"layers\.\w+\.weight: cannot be padded: lightx2v knows"):
        flow.plan(tc.write(tmp_path / "o.safetensors"))


def test_what_padding_cannot_help_is_kept_and_said(save, tmp_path):
    tensors = {**model(), "layers.stack.weight": torch.ones(2, 30, 50)}
    flow = tc.open(save(tensors)) | tc.quantize("nvfp4", targets=["layers"], on_bad_shape="pad")
    plan = flow.plan(tc.write(tmp_path / "o.safetensors", convention="neutral"))
    (told,) = (said for said in map(str, plan.log.warnings) if "layers.stack.weight" in said)
    assert "not quantized" in told
    (kept,) = (tensor for tensor in plan.tensors if tensor.name == "layers.stack.weight")
    assert kept.plain


def test_other_words_are_refused():
    with pytest.raises(RecipeError, match="on_bad_shape: 'crop' is not one of keep, error, pad"):
        tc.quantize("nvfp4", on_bad_shape="crop")


def test_the_error_of_the_python_interface_names_the_tensor(save, tmp_path):
    with pytest.raises(PlanError, match=r"layers\.(wide|tall|both|flat)\.weight: cannot become nvfp4"):
        run(save, tmp_path, model(), on_bad_shape="error")
