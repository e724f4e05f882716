"""Scales of inputs: by the formula of LightX2V's converter, for every consumer that wants them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import transcode as tc
from transcode.errors import FormatError, PlanError, RecipeError

NAMES = [f"blocks.{i}.ffn.{j}.weight" for i in range(2) for j in (0, 2)]


def weights() -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    tensors = {name: torch.randn(64, 96, generator=draw) * (n + 1) for n, name in enumerate(NAMES)}
    return {**tensors, "blocks.0.norm.weight": torch.ones(64)}


PEAKS = {name: 0.37 + 3.1 * n for n, name in enumerate(NAMES)}


def calibration(tmp_path: Path, absmax: object, name: str = "calib.pt") -> Path:
    torch.save({"absmax": absmax}, tmp_path / name)
    return tmp_path / name


def run(save, tmp_path: Path, *steps, **options) -> dict[str, torch.Tensor]:
    flow = tc.open(save(weights())) | tc.quantize("nvfp4", targets=["ffn"])
    for step in steps:
        flow = flow | step
    flow | tc.write(tmp_path / "o.safetensors", force=True, **options)
    return load_file(tmp_path / "o.safetensors")


def expected(name: str, weight: torch.Tensor, peak: float) -> tuple[np.float32, np.float32, np.float32]:
    """``add_scale_to_models.py``: in float32, from the largest input and the weight's scale, a BF16 value."""
    inputs = np.float32(2688) / np.float32(peak)
    own = np.float32((np.float32(2688) / weight.abs().max().float()).bfloat16().item())
    return inputs, own, np.float32(1) / (inputs * own)


@pytest.mark.parametrize("spelled", ["floats", "tensors", "bf16 tensors", "one element", "with model."])
@pytest.mark.parametrize("way", [{"workers": 1}, {"workers": 3, "tile": 1}])
def test_scales_of_inputs_and_alpha(spelled, way, save, tmp_path):
    peaks: dict[str, object] = dict(PEAKS)
    if spelled == "tensors":
        peaks = {name: torch.tensor(peak) for name, peak in PEAKS.items()}
    elif spelled == "bf16 tensors":
        peaks = {name: torch.tensor(peak).bfloat16() for name, peak in PEAKS.items()}
    elif spelled == "one element":
        peaks = {name: torch.tensor([[peak]]) for name, peak in PEAKS.items()}
    stored = run(save, tmp_path, tc.calibrate(calibration(tmp_path, peaks)), **way)
    for name, weight in weights().items():
        stem = name.removesuffix(".weight")
        if name not in PEAKS:
            assert stored[name].dtype == torch.float32
            assert f"{stem}.alpha" not in stored
            continue
        peak = float(torch.tensor(PEAKS[name]).bfloat16()) if spelled == "bf16 tensors" else PEAKS[name]
        inputs, own, alpha = expected(name, weight, peak)
        assert stored[f"{stem}.input_global_scale"].dtype == torch.float32
        assert stored[f"{stem}.input_global_scale"].numpy() == inputs
        assert stored[f"{name}_global_scale"].numpy() == own
        assert stored[f"{stem}.alpha"].dtype == torch.float32
        assert stored[f"{stem}.alpha"].shape == ()
        assert stored[f"{stem}.alpha"].numpy() == alpha
    assert len({stored[f"{name.removesuffix('.weight')}.alpha"].item() for name in NAMES}) == len(NAMES)


def test_alpha_makes_the_product_right(save, tmp_path):
    """What alpha is for: the product of codes and block scales, times alpha, is the product of the values."""
    stored = run(save, tmp_path, tc.calibrate(calibration(tmp_path, PEAKS)))
    for name in NAMES:
        stem = name.removesuffix(".weight")
        alpha = stored[f"{stem}.alpha"].double()
        both = stored[f"{stem}.input_global_scale"].double() * stored[f"{name}_global_scale"].double()
        assert abs(alpha * both - 1) < 1e-6


def test_names_without_model_are_found(save, tmp_path):
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(64, 96, generator=draw)
    path = calibration(tmp_path, {"layers.0.ffn.weight": 2.0})
    flow = tc.open(save({"model.layers.0.ffn.weight": x})) | tc.quantize("nvfp4", targets=["ffn"])
    flow | tc.calibrate(path) | tc.write(tmp_path / "o.safetensors")
    stored = load_file(tmp_path / "o.safetensors")
    assert stored["model.layers.0.ffn.input_global_scale"].item() == 1344


@pytest.mark.parametrize("way", ["python", "command line"])
def test_the_weights_own_global_scale_can_be_left_out(way, cli, save, tmp_path):
    path = calibration(tmp_path, PEAKS)
    kept = run(save, tmp_path, tc.calibrate(path))
    if way == "python":
        dropped = run(save, tmp_path, tc.calibrate(path, keep_global_scale=False))
    else:
        source = save(weights())
        cli("run", source, tmp_path / "o.safetensors", "--force", "--scheme", "nvfp4", "--targets", "ffn",
            "--calib", path, "--drop-global-scale", "-q")  # fmt: skip
        dropped = load_file(tmp_path / "o.safetensors")
    gone = {f"{name}_global_scale" for name in NAMES}
    assert gone <= kept.keys()
    assert dropped.keys() == kept.keys() - gone
    for name, value in dropped.items():
        assert torch.equal(value.flatten().view(torch.uint8), kept[name].flatten().view(torch.uint8)), name


def test_dropping_needs_a_calibration(refused, save, tmp_path):
    message = refused("run", save(weights()), tmp_path / "o.safetensors", "-snvfp4", "--drop-global-scale")
    assert "--calib" in message or "calib" in message


def test_who_computes_alpha_needs_the_global_scale(save, tmp_path):
    path = calibration(tmp_path, PEAKS)
    stored = run(save, tmp_path, tc.calibrate(path), convention="compressed_tensors")
    assert not any(name.endswith("alpha") for name in stored)
    with pytest.raises(PlanError, match="computes alpha itself"):
        run(save, tmp_path, tc.calibrate(path, keep_global_scale=False), convention="compressed_tensors")


def test_what_is_missing_is_named_and_what_is_idle_noted(save, tmp_path):
    some = {name: peak for name, peak in PEAKS.items() if ".0.ffn.2" not in name}
    with pytest.raises(PlanError, match=r"lacks blocks\.0\.ffn\.2\.weight; calibrate again"):
        run(save, tmp_path, tc.calibrate(calibration(tmp_path, some)))
    path = calibration(tmp_path, {**PEAKS, "head.weight": 1.0, "tail.weight": 2.0})
    flow = tc.open(save(weights())) | tc.quantize("nvfp4", targets=["ffn"]) | tc.calibrate(path)
    plan = flow.plan(tc.write(tmp_path / "p.safetensors"))
    assert "calibrate: 2 of 6 entries belong to tensors that are not quantized" in map(str, plan.log.notes)


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_peaks_must_be_positive(value, save, tmp_path):
    path = calibration(tmp_path, {**PEAKS, NAMES[1]: value})
    with pytest.raises(FormatError, match=r"blocks\.0\.ffn\.2\.weight: absmax is .*, not a positive number"):
        run(save, tmp_path, tc.calibrate(path))


@pytest.mark.parametrize("content", [{"abs": {}}, [1], {"absmax": [1.0]}, {"absmax": {"a": "b"}}])
def test_other_files_are_refused(content, save, tmp_path):
    torch.save(content, tmp_path / "calib.pt")
    with pytest.raises(FormatError, match=r"is not a calibration|not a positive number"):
        run(save, tmp_path, tc.calibrate(tmp_path / "calib.pt"))


def test_a_scheme_without_a_global_scale_takes_none(save, tmp_path):
    path = calibration(tmp_path, PEAKS)
    flow = tc.open(save(weights())) | tc.quantize("int8", targets=["ffn"]) | tc.calibrate(path)
    with pytest.raises((PlanError, RecipeError), match="no tensor has a global scale"):
        flow | tc.write(tmp_path / "o.safetensors")


def test_the_record_tells_the_name_of_the_file_only(tmp_path):
    stage = tc.calibrate(tmp_path / "deep" / "calib.pt", keep_global_scale=False)
    assert stage.config() == {"path": str(tmp_path / "deep" / "calib.pt"), "keep_global_scale": False}
    assert stage.recorded() == {"path": "calib.pt", "keep_global_scale": False}
    assert tc.calibrate("calib.pt").config() == {"path": "calib.pt"}


def test_fp8_with_one_scale_gets_the_scale_of_its_inputs(save, tmp_path):
    """LightX2V's fp8-pertensor: ``x / input_scale`` is what codes of inputs are made of."""
    file, peaks = save(weights()), calibration(tmp_path, PEAKS)
    flow = tc.open(file) | tc.quantize("fp8", granularity="tensor", targets=["ffn"])
    out, bare = tmp_path / "o.safetensors", tmp_path / "b.safetensors"
    flow | tc.calibrate(peaks) | tc.write(out, convention="lightx2v")
    flow | tc.write(bare, convention="lightx2v")
    stored, plain = load_file(out), load_file(bare)
    scales = {f"{name.removesuffix('.weight')}.input_scale": peak for name, peak in PEAKS.items()}
    assert stored.keys() - plain.keys() == scales.keys()
    for name, peak in scales.items():
        assert (stored[name].dtype, stored[name].shape) == (torch.float32, ())
        assert stored[name].numpy() == np.float32(peak) / np.float32(448)
    for name in plain:
        assert torch.equal(stored[name].float(), plain[name].float())
    tc.open(out) | tc.dequantize("F32") | tc.write(tmp_path / "d.safetensors")
    assert load_file(tmp_path / "d.safetensors").keys() == weights().keys()
    with pytest.raises(PlanError, match="no tensor has a global scale"):
        flow | tc.calibrate(peaks) | tc.write(out, convention="comfyui")
