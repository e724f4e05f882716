"""Another convention of the same scheme: the same codes and scales, not decoded."""

from __future__ import annotations

import json
import pickle
from typing import Any

import golden
import pytest
import torch
from safetensors.torch import load_file, save_file

import transcode as tc
from transcode import catalog
from transcode.errors import PlanError, RecipeError

SCHEMES = [(scheme, options) for scheme, variants in golden.VARIANTS.items() for options in variants]


@pytest.fixture(scope="module")
def maker(tmp_path_factory):
    return golden.Maker(tmp_path_factory.mktemp("repack"))


def quantized(maker, scheme, options, convention):
    """A model quantized for a convention, in a folder; None where that does not take the scheme so."""
    source = maker.path("llama", golden.llama)
    path = maker.folder / f"{scheme}{golden.told(options)}_{convention}"
    if not path.exists():
        try:
            tc.open(source) | tc.quantize(scheme, **options) | tc.write(path, convention=convention)
        except (PlanError, RecipeError):
            return None
    return path


def contents(folder):
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        found |= load_file(path)
    return found


def same(one, other):
    return one.keys() == other.keys() and all(
        value.dtype == other[name].dtype
        and value.shape == other[name].shape
        and torch.equal(value.flatten().view(torch.uint8), other[name].flatten().view(torch.uint8))
        for name, value in one.items()
    )


def decoded(folder):
    return {tensor.name: tensor.torch() for tensor in tc.open(folder) | tc.dequantize("F32")}


def taking(scheme):
    found = {name: catalog.convention(name) for name in catalog.conventions()}
    names = [name for name, one in found.items() if scheme in one.schemes and one.unwritten is None]
    # LightX2V's int4 takes rows by 256 at a time, which most layers of the small Llama have not.
    return [name for name in names if (scheme, name) != ("int4", "lightx2v")]


@pytest.mark.parametrize(("scheme", "options"), SCHEMES, ids=lambda value: str(value))
def test_as_if_quantized_for_it(scheme, options, maker, tmp_path, pytestconfig):
    """What is read of it is what was read before; where both take the same options, the bytes are those that
    quantizing for the other gives."""
    repacked = 0
    refused: list[str] = []
    first: dict[Any, dict[str, torch.Tensor]] = {}
    names = taking(scheme)
    # Each convention as a source and as a target once; by default options three times with --all.
    times = 3 if pytestconfig.getoption("--all") else 1
    if options != golden.VARIANTS[scheme][0]:
        names = [name for name in names if quantized(maker, scheme, options, name) is not None]
        times = 1
    steps = range(1, min(times + 1, len(names)))
    pairs = [(one, names[at - by]) for at, one in enumerate(names) for by in steps]
    for number, (one, other) in enumerate(pairs):
        source = None if golden.far(one, other) else quantized(maker, scheme, options, one)
        if source is None:
            continue
        out = tmp_path / str(number)
        try:
            report = tc.open(source) | tc.write(out, convention=other, workers=2, tile=3000)
        except (PlanError, RecipeError) as error:
            refused.append(str(error))
            continue
        repacked += 1
        if source not in first:
            first = {source: decoded(source)}
        before, after = first[source], decoded(out)
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], value) for name, value in after.items())
        assert sum("repack" in "; ".join(map(str, tensor.fate)) for tensor in report.plan.tensors) == 14
        direct = quantized(maker, scheme, options, other)
        fixed = [catalog.convention(name).schemes[scheme].options for name in (one, other)]
        # A convention may want other options than what was said; scales of a group may be one.
        shared = [catalog.convention(name).schemes[scheme].shares_scales for name in (one, other)]
        if direct is not None and fixed[0] == fixed[1] and shared[0] == shared[1]:
            assert same(contents(out), contents(direct)), (one, other)
            config = [json.loads((folder / "config.json").read_text()) for folder in (out, direct)]
            assert config[0] == config[1], (one, other)
    known = ("does not read", "cannot be stored as", "has no place")
    assert all(any(words in why for words in known) for why in refused)
    assert repacked or sum(quantized(maker, scheme, options, one) is not None for one in taking(scheme)) < 2


def test_some_are_the_bytes_of_quantizing_for_it(maker, tmp_path):
    for scheme, one, other in (
        ("mxfp8", "compressed_tensors", "modelopt"), ("nvfp4", "compressed_tensors", "modelopt"),
        ("nvfp4", "comfyui", "lightx2v"), ("int4", "neutral", "compressed_tensors"),
        ("fp8", "comfyui", "comfyui_scaled"), ("mxfp4", "lightx2v", "compressed_tensors"),
    ):  # fmt: skip
        options = {"group_size": 128} if scheme == "int4" else {}
        out = tmp_path / f"{scheme}{one}"
        tc.open(quantized(maker, scheme, options, one)) | tc.write(out, convention=other)
        assert same(contents(out), contents(quantized(maker, scheme, options, other))), (scheme, one, other)


def test_scales_of_16_bits_are_widened_where_only_32_are_read(maker, tmp_path):
    source = quantized(maker, "int8", {}, "compressed_tensors")
    tc.open(source) | tc.write(tmp_path / "o", convention="comfyui")
    before, after = contents(source), contents(tmp_path / "o")
    name = "model.layers.0.mlp.down_proj.weight"
    assert before[f"{name}_scale"].dtype == torch.bfloat16
    assert after[f"{name}_scale"].dtype == torch.float32
    assert torch.equal(before[f"{name}_scale"].float().flatten(), after[f"{name}_scale"].flatten())
    assert torch.equal(before[name], after[name])
    assert (
        json.loads(bytes(after[name.replace("weight", "comfy_quant")].tolist()))["format"]
        == "int8_tensorwise"
    )
    assert "quantization_config" in json.loads((source / "config.json").read_text())
    assert "quantization_config" not in json.loads((tmp_path / "o" / "config.json").read_text())
    tc.open(tmp_path / "o") | tc.write(tmp_path / "back", convention="compressed_tensors")
    assert not any("comfy_quant" in key for key in contents(tmp_path / "back"))
    assert "quantization_config" in json.loads((tmp_path / "back" / "config.json").read_text())


def test_the_same_convention_is_a_copy(maker, tmp_path):
    source = quantized(maker, "nvfp4", {}, "comfyui")
    report = tc.open(source) | tc.write(tmp_path / "o", convention="comfyui")
    assert same(contents(source), contents(tmp_path / "o"))
    assert not any("repack" in str(note) for note in report.plan.log.notes)
    report = tc.open(source) | tc.write(tmp_path / "p")
    assert same(contents(source), contents(tmp_path / "p"))


@pytest.mark.parametrize("scheme", ["int8", "nvfp4", "mxfp8"])
def test_a_plan_of_it_is_a_value_and_tiles_change_nothing(scheme, maker, tmp_path):
    source = quantized(maker, scheme, {}, "lightx2v")
    plans = [tc.open(source).plan(tc.write(tmp_path / "x", convention="neutral")) for _ in range(2)]
    assert plans[0] == plans[1] == pickle.loads(pickle.dumps(plans[0]))
    found = []
    for number, way in enumerate(({"workers": 1}, {"workers": 3, "tile": 1}, {"workers": 2, "tile": 5000})):
        tc.open(source) | tc.write(tmp_path / str(number), convention="neutral", **way)
        found.append(golden.digest(tmp_path / str(number)))
    assert len(set(found)) == 1


def test_what_another_convention_cannot_have_is_refused_while_planning(maker, tmp_path):
    for scheme, one, other, told in (
        ("nvfp4", "comfyui", "modelopt", "one scale for all layers that are joined"),
        ("fp8", "lightx2v", "comfyui", "does not read fp8 with granularity=channel"),
        ("int8", "lightx2v", "modelopt", "it takes fp8, mxfp8, nvfp4; name one of them with quantize"),
    ):
        with pytest.raises(PlanError, match=told):
            tc.open(quantized(maker, scheme, {}, one)) | tc.write(tmp_path / "o", convention=other)
    assert not (tmp_path / "o").exists()


def test_scales_of_inputs_are_left_out_with_a_warning(maker, tmp_path):
    source = quantized(maker, "fp8", {"granularity": "tensor"}, "compressed_tensors")
    (tmp_path / "in").mkdir()
    tensors = contents(source)
    name = "model.layers.0.mlp.down_proj"
    save_file({**tensors, f"{name}.input_scale": torch.tensor(0.5)}, tmp_path / "in" / "model.safetensors")
    (tmp_path / "in" / "config.json").write_text((source / "config.json").read_text())
    report = tc.open(tmp_path / "in") | tc.write(tmp_path / "o", convention="comfyui")
    assert f"{name}.input_scale" not in contents(tmp_path / "o")
    assert any("1 scales of inputs are left out" in str(line) for line in report.plan.log.warnings)


def test_by_the_command_line(cli, maker, tmp_path):
    source = quantized(maker, "mxfp8", {}, "lightx2v")
    told = cli("run", source, tmp_path / "o", "--convention", "modelopt", "--dry-run").out
    assert "it is repacked for modelopt, not decoded" in told
    cli("run", source, tmp_path / "o", "--convention", "modelopt", "-q")
    assert same(contents(tmp_path / "o"), contents(quantized(maker, "mxfp8", {}, "modelopt")))


def test_a_multiplier_of_both_is_not_rounded_by_way_of_its_reciprocal(tmp_path):
    """ModelOpt and ComfyUI store the scale of an nvfp4 tensor itself, which is held as one over it here."""
    random = torch.Generator().manual_seed(0)
    (tmp_path / "m").mkdir()
    weights = {f"net.{n}.weight": torch.randn(16, 64, generator=random) * (1 + n / 10) for n in range(24)}
    save_file(weights, tmp_path / "m" / "model.safetensors")  # of many, some change by way of reciprocals
    (tmp_path / "m" / "config.json").write_text('{"model_type": "toy"}')
    tc.open(tmp_path / "m") | tc.quantize("nvfp4") | tc.write(tmp_path / "q", convention="modelopt")
    tc.open(tmp_path / "q") | tc.write(tmp_path / "c.safetensors", convention="comfyui", lossless=True)
    before, after = contents(tmp_path / "q"), load_file(tmp_path / "c.safetensors")
    scales = [name for name in before if name.endswith("weight_scale_2")]
    assert len(scales) == 24
    assert all(torch.equal(before[name].reshape(()), after[name].reshape(())) for name in scales)
