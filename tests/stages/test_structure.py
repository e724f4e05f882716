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
