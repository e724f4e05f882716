"""Conversions that join, split and swap rows equal those of diffusers itself, and come back to the byte."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import transcode as tc
from transcode import catalog
from transcode.stages.convert import Convert

pytest.importorskip("diffusers", reason="diffusers is not installed")

from .families_of_diffusers import TINY, Tiny


@pytest.fixture(params=list(TINY))
def tiny(request: pytest.FixtureRequest) -> Tiny:
    return TINY[request.param]


@pytest.fixture
def saved(tiny: Tiny, tmp_path: Path) -> Path:
    """The model as diffusers spells it, in BF16, in the order in which transcode writes."""
    save_file({n: t.to(torch.bfloat16).contiguous() for n, t in tiny.model().state_dict().items()},
              tmp_path / "class.safetensors")  # fmt: skip
    tc.open(tmp_path / "class.safetensors") | tc.write(tmp_path / "diffusers.safetensors")
    return tmp_path / "diffusers.safetensors"


def convert(source: Path, to: str, name: str, **options: Any) -> Path:
    target = source.parent / f"{name}.safetensors"
    tc.open(source) | Convert(to) | tc.write(target, **options)
    return target


def body(file: Path) -> tuple[list[tuple[str, Any]], bytes]:
    """All of a file but its metadata, which tell how it was made."""
    data = file.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header.pop("__metadata__", None)
    return list(header.items()), data[8 + size :]


def test_it_equals_diffusers_own_function_and_comes_back(tiny: Tiny, saved: Path) -> None:
    original = convert(saved, tiny.original, "original")
    names = load_file(original)
    family = catalog.detect(list(names))
    assert family is not None
    assert (family.name, family.spelling) == (tiny.family, tiny.original)
    theirs = tiny.theirs(names)
    again = convert(original, "diffusers", "again")
    ours = load_file(again)
    assert ours.keys() == theirs.keys() == load_file(saved).keys()
    assert all(ours[name].equal(theirs[name]) for name in ours)
    assert body(again) == body(saved)
    assert body(convert(again, tiny.original, "second")) == body(original)
    model = tiny.model(seed=7)
    model.load_state_dict({name: tensor.float() for name, tensor in ours.items()}, strict=True)
    first = tiny.model()
    first.load_state_dict({name: tensor.float() for name, tensor in load_file(saved).items()})
    assert tiny.forward(model).equal(tiny.forward(first))


QUANTIZED = [
    ("int8", "lightx2v"), ("fp8", "lightx2v"), ("int8", "comfyui"), ("nvfp4", "lightx2v"), ("nvfp4", "comfyui"),
    ("mxfp8", "comfyui"), ("int4", "compressed_tensors"),
]  # fmt: skip
BY_ROWS = QUANTIZED[:3] + QUANTIZED[5:]
"""Those whose scales are of rows, so that it does not matter with which others these were quantized."""


@pytest.fixture(scope="module")
def flux(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model in its original spelling."""
    folder = tmp_path_factory.mktemp("flux")
    tensors = {n: t.to(torch.bfloat16).contiguous() for n, t in TINY["flux dev"].model().state_dict().items()}
    save_file(tensors, folder / "diffusers.safetensors")
    return convert(folder / "diffusers.safetensors", "original", "original")


def quantized(source: Path, scheme: str, convention: str, *steps: Any) -> Path:
    """A file, quantized behind some stages."""
    flow = tc.open(source)
    for step in steps:
        flow = flow | step
    target = source.parent / f"{scheme}_{convention}_{len(steps)}.safetensors"
    flow | tc.quantize(scheme) | tc.write(target, convention=convention, force=True)
    return target


@pytest.mark.parametrize(("scheme", "convention"), QUANTIZED)
def test_rows_of_quantized_tensors_move_as_they_are_stored(flux: Path, scheme: str, convention: str) -> None:
    first = quantized(flux, scheme, convention)
    there = convert(first, "diffusers", "there", force=True)
    assert body(convert(there, "original", "back", force=True)) == body(first)
    if (scheme, convention) in BY_ROWS:
        assert body(there) == body(quantized(flux, scheme, convention, Convert("diffusers")))
    plain = {}
    for name, steps in {"a": [tc.dequantize("f32"), Convert("diffusers")], "b": [Convert("diffusers"),
                        tc.dequantize("f32")]}.items():  # fmt: skip
        flow = tc.open(first)
        for step in steps:
            flow = flow | step
        flow | tc.write(flux.parent / f"{name}.safetensors", force=True)
        plain[name] = load_file(flux.parent / f"{name}.safetensors")
    assert plain["a"].keys() == plain["b"].keys()
    assert all(plain["a"][name].equal(plain["b"][name]) for name in plain["a"])
