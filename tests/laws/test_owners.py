"""What the owners of formats made is decoded as they decode it, and comes back from other conventions.

``fixtures/owners`` is by the packages themselves (``tools/make_owners.py``): a dense layer and experts.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from make_owners import digests
from safetensors.torch import load_file

import transcode as tc
from transcode.errors import PlanError

FIXTURES = Path(__file__).parents[2] / "fixtures" / "owners"
DTYPES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
REFUSED = {
    "modelopt_int8": "modelopt stores no scheme so",
    "modelopt_int8_smooth": "pre_quant_scale",
    "modelopt_mxfp4": "modelopt stores no scheme so",
}
"""What is not read, and the words that say why."""

CONVENTIONS = {
    "autoawq": "awq", "bitsandbytes": "bitsandbytes", "comfy_kitchen": "comfyui", "mlx": "mlx",
    "compressed_tensors": "compressed_tensors", "gptqmodel_gptq_v2": "gptq_v2", "gptqmodel_gptq": "gptq",
    "modelopt": "modelopt", "transformers_fp8": "deepseek", "transformers_mxfp4": "gpt_oss",
}  # fmt: skip

_INTEGERS = ("compressed_tensors", "awq", "gptq", "gptq_v2", "neutral")
_FLOATS = ("compressed_tensors", "lightx2v", "quark", "mlx", "neutral")
_BYTES = ("comfyui", "compressed_tensors", "lightx2v", "mlx", "modelopt", "neutral")
PAIRS: dict[str, tuple[str, ...]] = {
    "autoawq": _INTEGERS, "gptqmodel_gptq_asym": _INTEGERS, "gptqmodel_gptq_v2_asym": _INTEGERS,
    "gptqmodel_gptq": (*_INTEGERS, "sdnq"), "gptqmodel_gptq_v2": (*_INTEGERS, "sdnq"),
    "compressed_tensors_w4a16": (*_INTEGERS, "sdnq"), "compressed_tensors_w4a16_asym": _INTEGERS,
    "bitsandbytes_nf4": ("neutral",), "bitsandbytes_nf4_nested": ("neutral",),
    "bitsandbytes_fp4": ("neutral",), "bitsandbytes_int8": ("neutral",),
    "comfy_kitchen_mxfp8": _BYTES, "compressed_tensors_mxfp8a16": _BYTES,
    "mlx_mxfp8": _BYTES, "modelopt_mxfp8": _BYTES, "compressed_tensors_mxfp4a16": _FLOATS,
    "mlx_mxfp4": _FLOATS,
    "comfy_kitchen_fp8": ("comfyui_scaled", "lightx2v", "neutral", "quark"),
    "comfy_kitchen_int8": ("lightx2v", "neutral", "quark"),
    "compressed_tensors_w8a8": ("comfyui", "lightx2v", "neutral", "quanto", "quark", "sdnq"),
    "compressed_tensors_fp8_dynamic": ("bfl", "lightx2v", "neutral", "quanto", "quark", "sdnq"),
    "compressed_tensors_fp8_block": ("deepseek", "lightx2v", "neutral"),
    "transformers_fp8_float": ("compressed_tensors", "lightx2v", "neutral"),
    "transformers_fp8_ue8m0": ("compressed_tensors", "lightx2v", "neutral"),
    "mlx_affine4": ("neutral", "sdnq"), "mlx_affine8": ("neutral",),
}  # fmt: skip
"""Which conventions hold without a loss what another's owner made, and give it back."""


_EIGHTS = 0x8888_8888 - (1 << 32)
"""Eight zero points of 0 in a word, as compressed-tensors packs them: plus 8."""


def names() -> list[str]:
    return sorted(path.name for path in FIXTURES.iterdir())


def source(name: str, folder: Path) -> Path:
    shutil.copytree(FIXTURES / name, folder)
    (folder / "decoded.json").unlink()
    return folder


def convention(name: str) -> str:
    return next(one for start, one in CONVENTIONS.items() if name.startswith(start))


def differing(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Names whose parts differ, with what they are on either side."""
    return {
        name: (one.get(name), other.get(name))
        for name in one.keys() | other.keys()
        if name not in one
        or name not in other
        or one[name].dtype != other[name].dtype
        or not torch.equal(*(side[name].reshape(-1).view(torch.uint8) for side in (one, other)))
        or one[name].shape != other[name].shape
    }


def forgiven(name: str, one: torch.Tensor | None, other: torch.Tensor | None) -> bool:
    """What may differ although it says the same: a part that was left out as it is nothing, a number in more
    bits or under another name of its dtype, blanks behind a text.
    """
    if one is None or other is None:
        return name.endswith("zero_point") and other is not None and bool((other == _EIGHTS).all())
    if "quant_state" in name:
        return json.loads(bytes(one.tolist())) == json.loads(bytes(other.tolist()))
    if (one.dtype, other.dtype) == (torch.float8_e8m0fnu, torch.uint8):
        return torch.equal(one.view(torch.uint8), other)
    return (one.dtype, other.dtype) == (torch.bfloat16, torch.float32) and torch.equal(one.float(), other)


@pytest.mark.parametrize("name", names())
def test_what_its_owner_made_is_decoded_as_its_owner_does(name: str, tmp_path: Path) -> None:
    wanted = json.loads((FIXTURES / name / "decoded.json").read_text())["decoded"]
    assert any("experts" in one for one in wanted)
    flow = tc.open(source(name, tmp_path / "s")) | tc.dequantize(DTYPES[next(iter(wanted.values()))[0]])
    if name in REFUSED:
        with pytest.raises(PlanError, match=REFUSED[name]):
            flow | tc.write(tmp_path / "d")
        return
    flow | tc.write(tmp_path / "d")
    found = load_file(tmp_path / "d" / "model.safetensors")
    assert digests({one: found[one] for one in wanted}) == wanted
    assert (
        not {"quantization_config", "quantization"}
        & json.loads((tmp_path / "d/config.json").read_text()).keys()
    )


@pytest.mark.parametrize(
    ("name", "by"),
    [
        pytest.param(name, by, marks=[pytest.mark.whole] if place % len(others) != number else [])
        for place, (name, some) in enumerate(PAIRS.items())
        for others in [[by for by in some if by != convention(name)]]
        for number, by in enumerate(others)
    ],
)
def test_there_and_back_gives_the_same_parts(name: str, by: str, tmp_path: Path) -> None:
    own = source(name, tmp_path / "s")
    tc.open(own) | tc.write(tmp_path / "there", convention=by, lossless=True)
    tc.open(tmp_path / "there") | tc.write(tmp_path / "back", convention=convention(name), lossless=True)
    (file,) = (tmp_path / "back").glob("*.safetensors")
    found = differing(load_file(own / "model.safetensors"), load_file(file))
    assert all(forgiven(part, *sides) for part, sides in found.items()), found.keys()
    if convention(name) != "comfyui":  # which has no word of it in config.json
        before, after = (json.loads((at / "config.json").read_text()) for at in (own, tmp_path / "back"))
        assert {"quantization_config", "quantization"} & before.keys() <= after.keys()


def test_each_of_them_is_in_a_pair_or_says_why_not() -> None:
    alone = {
        "comfy_kitchen_nvfp4", "compressed_tensors_nvfp4a16", "modelopt_fp8", "modelopt_fp8_channel",
        "modelopt_nvfp4", "modelopt_nvfp4_a16", "transformers_mxfp4", *REFUSED,
    }  # fmt: skip
    # Global scales that are joined, or rounded once more; experts that a reader refuses; what is only read.
    assert alone | PAIRS.keys() == set(names())
