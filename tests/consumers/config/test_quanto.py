"""What optimum-quanto saved is decoded as it does; what is written has its parts, and its map of layers.

``fixtures/quanto`` is by optimum-quanto itself, the decoded values too (``tools/make_quanto.py``).
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import transcode as tc
from transcode.errors import PlanError

FIXTURES = Path(__file__).parents[3] / "fixtures" / "quanto"
LAYER = "model.layers.0.mlp.up_proj"
NAME = f"{LAYER}.weight"
KINDS = {
    "int8": ("int8", {}, "qint8"), "float8": ("fp8", {}, "qfloat8_e4m3fn"),
    "int4": ("qbits", {}, "qint4"), "int2": ("qbits", {"bits": 2}, "qint2"),
}  # fmt: skip
"""What Diffusers calls them -> as a scheme, and as quanto."""
MAP = "quanto_qmap.json"


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def said(folder: Path, file: str = "config.json") -> dict[str, object]:
    return dict(json.loads((folder / file).read_text()))


@pytest.mark.parametrize("kind", KINDS)
def test_what_quanto_saved_is_decoded_and_written_back(kind: str, tmp_path: Path) -> None:
    source, out = FIXTURES / kind, tmp_path / "d"
    tc.open(source) | tc.dequantize("BF16") | tc.write(out)
    assert tensors(out)[NAME].equal(load_file(FIXTURES / f"{kind}.safetensors")["weight"])
    # Scales of inputs go with the codes.
    assert tensors(out).keys() - {f"{LAYER}.bias"} == {NAME, "lm_head.weight"}
    assert not (out / MAP).exists()
    tc.open(source) | tc.write(tmp_path / "n", convention="neutral")
    assert not (tmp_path / "n" / MAP).exists()
    tc.open(tmp_path / "n") | tc.write(tmp_path / "b", convention="quanto")
    parts, back = tensors(source), tensors(tmp_path / "b")
    assert parts.keys() - back.keys() == {f"{LAYER}.input_scale", f"{LAYER}.output_scale"}
    for name, one in back.items():
        assert (one.dtype, one.shape) == (parts[name].dtype, parts[name].shape)
        assert one.view(torch.uint8).equal(parts[name].view(torch.uint8))
    assert said(tmp_path / "b", MAP) == said(source, MAP)


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_said_to_diffusers_and_to_quanto_itself(kind: str, tmp_path: Path) -> None:
    scheme, options, called = KINDS[kind]
    names = [f"model.layers.{n}.mlp.up_proj" for n in range(3)]
    (tmp_path / "m").mkdir()
    layers = {f"{name}.weight": torch.randn(32, 64) for name in names}
    biases = {f"{name}.bias": torch.randn(32) for name in names}
    save_file(layers | biases, tmp_path / "m" / "model.safetensors")
    (tmp_path / "m" / "config.json").write_text('{"model_type": "toy"}')
    flow = tc.open(tmp_path / "m") | tc.quantize(scheme, exclude=["layers.2"], **options)
    flow | tc.write(tmp_path / "q", convention="quanto")
    assert said(tmp_path / "q")["quantization_config"] == {
        "quant_method": "quanto",
        "weights_dtype": kind,
        "modules_to_not_convert": ["lm_head", names[2]],
    }
    one = {"weights": called, "activations": "none"}
    assert said(tmp_path / "q", MAP) == {names[0]: one, names[1]: one}
    tc.open(tmp_path / "q") | tc.dequantize(only=["layers.1"]) | tc.write(tmp_path / "d", convention="quanto")
    assert said(tmp_path / "d", MAP) == {names[0]: one}
    listed = said(tmp_path / "d")["quantization_config"]
    assert isinstance(listed, dict)
    assert listed["modules_to_not_convert"] == ["lm_head", names[2], names[1]]


def test_layers_of_two_kinds_are_refused(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    save_file(
        {f"blocks.{n}.up.weight": torch.randn(32, 64) for n in range(2)}, tmp_path / "m" / "model.safetensors"
    )
    (tmp_path / "m" / "config.json").write_text('{"model_type": "toy"}')
    flow = tc.open(tmp_path / "m") | tc.quantize("int8", overrides={"blocks.1": "fp8"})
    with pytest.raises(PlanError, match=r"one format for all layers, here are blocks\.0\.up in int8 and"):
        flow | tc.write(tmp_path / "q", convention="quanto")
