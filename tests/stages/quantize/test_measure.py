"""What ``--measure`` tells is what the written file lost: computed anew from the file, in float64."""

from __future__ import annotations

import math

import pytest
import torch
from safetensors.torch import load_file

import transcode as tc
from transcode.core.quality import Loss, Quality, total

CASES = [
    ("int8", {}), ("int8", {"granularity": "tensor"}), ("int8", {"granularity": "group", "group_size": 64}),
    ("int8", {"symmetric": False}), ("fp8", {}), ("fp8", {"format": "e5m2"}),
    ("fp8", {"granularity": "tensor"}), ("fp8", {"granularity": "block"}), ("mxfp8", {}),
    ("mxfp6", {}), ("mxfp4", {}),
    ("mxfp4", {"optimize": "mse"}), ("nvfp4", {}), ("nvfp4", {"optimize": "mse"}),
    ("nvfp4", {"optimize": "four_over_six"}), ("int4", {"group_size": 64, "symmetric": False}),
    ("int4", {"group_size": 32, "optimize": "mse"}),
]  # fmt: skip


def matrix(*shape: int, seed: int = 0) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=draw) * torch.logspace(-2, 1, shape[-2])[:, None]


def run(source, path, scheme, options, **how):
    return (
        tc.open(source)
        | tc.quantize(scheme, include=["*"], **options)
        | tc.write(path, convention="neutral", **how)
    )


def lost(x: torch.Tensor, y: torch.Tensor) -> tuple[float, float]:
    """Decibels and the largest error, in float64."""
    gap = x.double() - y.double()
    return 10 * math.log10(x.double().square().sum() / gap.square().sum()), float(gap.abs().max())


@pytest.mark.parametrize(("scheme", "options"), CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_figures_are_those_of_the_file(scheme, options, dtype, save, tmp_path):
    x = matrix(300, 384).to(dtype)
    report = run(save({"a.weight": x}), tmp_path / "q.safetensors", scheme, options, measure=True)
    (tc.open(tmp_path / "q.safetensors") | tc.dequantize("F32", convention="neutral")
     | tc.write(tmp_path / "d.safetensors"))  # fmt: skip
    decibels, largest = lost(x, load_file(tmp_path / "d.safetensors")["a.weight"])
    ((name, loss),) = (report.losses()["a.weight"],)
    assert name == scheme
    assert loss.decibels == pytest.approx(decibels, abs=1e-6)
    assert loss.largest == pytest.approx(largest, rel=1e-6)


def test_int8_by_hand(save, tmp_path):
    x = matrix(64, 96)
    report = run(save({"a.weight": x}), tmp_path / "q.safetensors", "int8", {}, measure=True)
    stored = load_file(tmp_path / "q.safetensors")
    (codes,) = (part for part in stored.values() if part.dtype == torch.int8)
    (scale,) = (part for part in stored.values() if part.dtype == torch.float32)
    decibels, largest = lost(x, codes.double() * scale.double())
    loss = report.losses()["a.weight"][1]
    assert loss.decibels == pytest.approx(decibels, abs=1e-4)  # decoded values are rounded to float32
    assert loss.largest == pytest.approx(largest, rel=1e-4)
    assert loss.gain is None


@pytest.mark.parametrize(
    ("scheme", "options"),
    [("fp8", {"granularity": "block"}), ("int8", {}), ("fp8", {"granularity": "tensor"}), ("nvfp4", {})],
)
@pytest.mark.parametrize("rows", [256, 200])
@pytest.mark.parametrize("tile", [70_000, 10_000_000])
def test_stacks(scheme, options, rows, tile, save, tmp_path):
    """Blocks begin anew with each matrix of a stack, whether or not they, or tiles, fit its rows."""
    x = matrix(3, rows, 256)
    how = {"measure": True, "tile": tile}
    report = run(save({"e.weight": x}), tmp_path / "q.safetensors", scheme, options, **how)
    (tc.open(tmp_path / "q.safetensors") | tc.dequantize("F32", convention="neutral")
     | tc.write(tmp_path / "d.safetensors"))  # fmt: skip
    decibels, largest = lost(x, load_file(tmp_path / "d.safetensors")["e.weight"])
    loss = report.losses()["e.weight"][1]
    assert loss.decibels == pytest.approx(decibels, abs=1e-6)
    assert loss.largest == pytest.approx(largest, rel=1e-6)


@pytest.mark.parametrize("scheme", ["int8", "nvfp4", "mxfp4", "int4"])
def test_measuring_changes_no_byte_and_tiles_no_figure(scheme, save, tmp_path, digests):
    source = save({"a.weight": matrix(300, 384), "b.weight": matrix(64, 128, seed=1)})
    optimize = {} if scheme == "int8" else {"optimize": "mse"}
    run(source, tmp_path / "plain.safetensors", scheme, optimize)
    found = []
    for number, how in enumerate([{"workers": 1}, {"workers": 3, "tile": 70_000}]):
        path = tmp_path / f"{number}.safetensors"
        report = run(source, path, scheme, optimize, measure=True, **how)
        assert digests(path) == digests(tmp_path / "plain.safetensors")
        found.append(report.losses())
    for name in ("a.weight", "b.weight"):
        (_, first), (_, second) = (losses[name] for losses in found)
        assert first.decibels == pytest.approx(second.decibels, abs=1e-9)
        assert first.largest == second.largest


@pytest.mark.parametrize(
    ("scheme", "how"), [("nvfp4", "mse"), ("nvfp4", "four_over_six"), ("mxfp4", "mse"), ("int4", "mse")]
)
def test_the_gain_is_what_the_search_wins_over_a_run_without_it(scheme, how, save, tmp_path):
    source = save({"a.weight": matrix(200, 256)})
    plain = run(source, tmp_path / "a.safetensors", scheme, {}, measure=True).losses()["a.weight"][1]
    found = run(source, tmp_path / "b.safetensors", scheme, {"optimize": how}, measure=True)
    loss = found.losses()["a.weight"][1]
    assert loss.gain == pytest.approx(loss.decibels - plain.decibels, abs=1e-6)
    assert loss.gain > (0.02 if scheme == "mxfp4" else 0.1)


def test_nothing_is_measured_unless_asked(save, tmp_path):
    report = run(save({"a.weight": matrix(64, 64)}), tmp_path / "q.safetensors", "int8", {})
    assert report.losses() == {}
    assert "losses" not in report.to_json()


def test_the_report_names_the_tensors_that_lost_most(cli, wan, tmp_path):
    dst = tmp_path / "q.safetensors"
    words = (
        "run",
        wan,
        dst,
        "--scheme",
        "nvfp4",
        "--optimize",
        "mse",
        "--override",
        "blocks.0=int8",
        "--measure",
    )
    told = cli(*words).out
    assert "search won dB" in told
    assert "10 of 22 that lost most" in told
    # nvfp4 keeps 20 dB or so, int8 40: none of the latter is among the worst
    assert "blocks.1." in told
    assert "blocks.0." not in told
    every = cli(*words, "--force", "-v").out
    assert "blocks.0.ffn.0.weight" in every


def test_json(cli, wan, tmp_path):
    dst = tmp_path / "q.safetensors"
    told = cli("run", wan, dst, "--scheme", "mxfp4", "--optimize", "mse", "--measure", "--json").json
    assert 15 < told["losses"]["mxfp4"]["sqnr_db"] < 25
    assert told["losses"]["mxfp4"]["search_gain_db"] > 0.1
    measured = [entry for entry in told["tensors"] if "loss" in entry]
    quantized = [entry for entry in told["tensors"] if any(f.startswith("quantize") for f in entry["fate"])]
    assert measured == quantized != []


def test_recipes_can_ask_for_it(cli, wan, tmp_path):
    (tmp_path / "r.yaml").write_text(
        f"source: {{path: {wan}}}\nsteps:\n  - quantize: {{scheme: int8}}\n"
        f"output: {{path: {tmp_path / 'q.safetensors'}}}\nperformance: {{measure: true}}\n"
    )
    assert "SQNR dB" in cli("run", "--config", tmp_path / "r.yaml").out


def test_sums():
    quality = Quality()
    assert quality.total() is None
    quality.add(5, Loss(4.0, 2.0, 3.0, 0.5))
    quality.add(0, Loss(1.0, 0.0, None, 0.0))
    quality.add(5, Loss(4.0, 1.0, 4.0, 0.25))  # the same tile again
    assert quality.total() == Loss(5.0, 1.0, 4.0, 0.25)
    assert total([]) is None
    exact = Loss(1.0, 0.0, None, 0.0)
    assert exact.decibels is None
    assert exact.to_json() == {"sqnr_db": None, "largest_error": 0.0}
