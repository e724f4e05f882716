"""VAEs where ComfyUI has them: behind a prefix, in one file with what draws; nothing of them is quantized."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import transcode as tc
from transcode import catalog
from transcode.errors import PlanError
from transcode.stages.convert import Convert

pytest.importorskip("diffusers", reason="diffusers is not installed")

from .autoencoders_of_diffusers import AUTOENCODERS
from .families_of_diffusers import TINY

DIT = "model.diffusion_model."


def is_vae(family: str) -> bool:
    return all("vae" in dict(spelling.policy.never) for spelling in catalog.family(family).spellings.values())


ONE_EACH = {tiny.family: name for name, tiny in reversed(AUTOENCODERS.items()) if is_vae(tiny.family)}
QUICK = {"minimax_h3_vae", "hunyuan_video_vae", "qwen_image_21_vae", "taesd"}
"""Whose names, shapes and rows change in ways of their own."""
CASES = [
    pytest.param(name, "audio_vae." if "audio" in family else ("first_stage_model.", "vae.")[number % 2],
                 marks=[] if family in QUICK else [pytest.mark.whole])
    for number, (family, name) in enumerate(sorted(ONE_EACH.items()))
]  # fmt: skip


@pytest.fixture(scope="module")
def transformer(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """A small Flux as its authors spell it, behind the prefix that it has in such a file."""
    folder = tmp_path_factory.mktemp("flux")
    save_file({n: t.half().contiguous() for n, t in TINY["flux schnell"].model().state_dict().items()},
              folder / "a.safetensors")  # fmt: skip
    tc.open(folder / "a.safetensors") | Convert("original") | tc.write(folder / "b.safetensors")
    return {f"{DIT}{name}": tensor for name, tensor in load_file(folder / "b.safetensors").items()}


@pytest.mark.parametrize(("name", "prefix"), CASES)
def test_in_one_file_with_what_draws(
    name: str, prefix: str, transformer: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    tiny = AUTOENCODERS[name]
    state = {n: t.half().contiguous() for n, t in tiny.model().state_dict().items()}
    save_file(state, tmp_path / "alone.safetensors")
    save_file(transformer | {f"{prefix}{n}": t for n, t in state.items()}, tmp_path / "all.safetensors")
    alone = tc.open(tmp_path / "alone.safetensors") | Convert(tiny.original)
    flow = tc.open(tmp_path / "all.safetensors")
    converted: Any = flow | Convert(tiny.original)
    wanted = {f"{prefix}{n}": one for n, one in alone.items()}
    assert set(converted.keys()) == wanted.keys() | transformer.keys()
    for n, one in wanted.items():
        assert converted[n].spec == one.spec
        assert converted[n].numpy().tobytes() == one.numpy().tobytes()
    quantized = {n for n, one in (flow | tc.quantize("int8")).items() if one.scheme is not None}
    assert quantized
    assert all(n.startswith(DIT) for n in quantized)


def test_convolutions_in_time_under_names_of_those_without_are_refused(tmp_path: Path) -> None:
    """As scripts/convert_hunyuan_image_to_diffusers.py of diffusers allows for, which squeezes them."""
    names = ["down.5.block.1.conv1", "mid.attn_1.q", "conv_in"]
    tensors = {f"encoder.{name}.weight": torch.zeros(4, 4, 1, 3, 3) for name in names}
    tensors["decoder.up.5.block.2.conv1.weight"] = torch.zeros(4, 4, 1, 3, 3)
    tensors["decoder.norm_out.weight"] = torch.zeros(4)
    save_file(tensors, tmp_path / "a.safetensors")
    with pytest.raises(PlanError, match=r"conv_in\.weight: \[4, 4, 1, 3, 3\] is not the \[4, 4, 3, 3\]"):
        (tc.open(tmp_path / "a.safetensors") | Convert("diffusers")).keys()
