"""Rows of matrices that no part tells: of a bias, of a class that config.json names, or it is an error."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import transcode as tc
from transcode.consumers.lengths import Lengths
from transcode.core.dtypes import DTYPES
from transcode.core.spec import Spec
from transcode.errors import PlanError

NAME = "model.layers.0.mlp.up_proj.weight"
LLAMA = {"model_type": "llama", "hidden_size": 64, "intermediate_size": 24, "num_hidden_layers": 1}


def coded(folder: Path, config: dict[str, object], **beside: torch.Tensor) -> Path:
    """A folder with codes of 4 bits, 64 columns to a row and group, and what else is given."""
    (folder / "m").mkdir()
    (folder / "m" / "config.json").write_text(json.dumps(config))
    tensors = {NAME: torch.randn(24, 64, generator=torch.Generator().manual_seed(1)).bfloat16()}
    save_file(tensors, folder / "m" / "model.safetensors")
    flow = tc.open(folder / "m") | tc.quantize("qbits", include=["up_proj"])
    flow | tc.write(folder / "q", convention="quanto")
    file = folder / "q" / "model.safetensors"
    stem = NAME.removesuffix("weight")
    save_file({**load_file(file), **{f"{stem}{name}": one for name, one in beside.items()}}, file)
    return folder / "q"


@pytest.mark.parametrize("told", ["class", "bias"])
def test_codes_in_groups_are_decoded_where_rows_are_told(told: str, tmp_path: Path) -> None:
    config, beside = (LLAMA, {}) if told == "class" else ({"model_type": "toy"}, {"bias": torch.ones(24)})
    source = coded(tmp_path, config, **beside)
    decoded = (tc.open(source) | tc.dequantize("F32"))[NAME].torch()
    plain = load_file(tmp_path / "m" / "model.safetensors")[NAME].float()
    assert (decoded - plain).square().sum() < 0.01 * plain.square().sum()


def test_else_it_is_said_what_would_tell(tmp_path: Path) -> None:
    source = coded(tmp_path, {"model_type": "toy"})
    with pytest.raises(
        PlanError, match=r"stores no scheme so.*; how many rows a matrix has is told by a bias"
    ):
        tc.open(source) | tc.dequantize() | tc.write(tmp_path / "d")


def test_what_does_not_fit_is_not_believed() -> None:
    lengths, bias = Lengths([LLAMA, {"model_type": ["llama"]}]), f"{NAME.removesuffix('weight')}bias"
    assert lengths.of(NAME, {}, 24 * 64) == (24, 64)
    assert lengths.of(NAME, {}, 24 * 32) is None
    assert lengths.of("other.weight", {}, 24 * 64) is None
    assert lengths.of(NAME, {bias: Spec(DTYPES["F32"], (48,))}, 24 * 64) == (48, 32)
    assert lengths.of(NAME, {bias: Spec(DTYPES["F32"], (5,))}, 24 * 64) is None
    assert lengths.of(NAME, {bias: Spec(DTYPES["F32"], (24, 1))}, 24 * 64) is None
    assert Lengths([{**LLAMA, "hidden_size": "wide"}]).of(NAME, {}, 24 * 64) is None
