"""What LightX2V's ``int4-g128-marlin`` loads: MMWeightWint4group128Marlin of its mm_weight.py."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

import transcode as tc
from transcode.errors import TranscodeError

NAME, ODD = "blocks.0.ffn.0.weight", "blocks.0.ffn.2.weight"


@pytest.fixture
def source(tmp_path):
    random = torch.Generator().manual_seed(2)
    weights = {NAME: torch.randn(256, 640, generator=random), ODD: torch.randn(128, 256, generator=random)}
    save_file({name: one.bfloat16() for name, one in weights.items()}, tmp_path / "in.safetensors")
    return tmp_path / "in.safetensors"


def test_it_has_the_parts_that_are_loaded(source, tmp_path):
    out = tmp_path / "out.safetensors"
    tc.open(source) | tc.quantize("int4") | tc.write(out, convention="lightx2v")
    parts = load_file(out)
    assert {name: (one.dtype, tuple(one.shape)) for name, one in parts.items()} == {
        NAME: (torch.int32, (40, 512)),
        f"{NAME}_scale": (torch.bfloat16, (5, 256)),  # its loader makes that of any float
        f"{NAME}_workspace": (torch.int32, (32,)),
        ODD: (torch.bfloat16, (128, 256)),  # 128 rows are no multiple of 256
    }
    assert not parts[f"{NAME}_workspace"].any()


def test_it_is_read_back_to_the_values_of_the_codes(source, tmp_path):
    options = {"group_size": 128, "scale_dtype": "BF16"}
    for convention in ("lightx2v", "neutral"):
        flow = tc.open(source) | tc.quantize("int4", exclude=["ffn.2"], **options)
        flow | tc.write(tmp_path / f"{convention}.safetensors", convention=convention)
        (
            tc.open(tmp_path / f"{convention}.safetensors")
            | tc.dequantize("F32")
            | tc.write(tmp_path / f"{convention}_values.safetensors")
        )
    own, plain = (load_file(tmp_path / f"{one}_values.safetensors") for one in ("lightx2v", "neutral"))
    assert torch.equal(own[NAME], plain[NAME])
    tc.open(tmp_path / "neutral.safetensors") | tc.write(
        tmp_path / "again.safetensors", convention="lightx2v"
    )
    once, again = (load_file(tmp_path / f"{one}.safetensors") for one in ("lightx2v", "again"))
    assert once.keys() == again.keys()
    assert all(once[name].equal(again[name]) for name in once)


def test_other_groups_are_refused(source, tmp_path):
    with pytest.raises(TranscodeError, match="lightx2v does not read int4 with group_size=64"):
        (
            tc.open(source)
            | tc.quantize("int4", group_size=64)
            | tc.write(tmp_path / "out.safetensors", convention="lightx2v")
        )
