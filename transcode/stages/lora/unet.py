"""The two spellings of Stable Diffusion's UNet (1, 2, XL): that of its authors, and Diffusers'.

The numbers of blocks follow from how many layers a block has, as in Diffusers'
``src/diffusers/loaders/single_file_utils.py``, ``convert_ldm_unet_checkpoint``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection

__all__ = ["other_names"]

Rename = Callable[[str], str | None]

_BLOCK = re.compile(r"(input_blocks|output_blocks)\.(\d+)\.(\d+)\.(.+)")
_DIFFUSERS = re.compile(
    r"(down_blocks|up_blocks)\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)"
)
_DOWNSAMPLER = re.compile(r"input_blocks\.(\d+)\.0\.op\.")
_LAYER = re.compile(r"down_blocks\.\d+\.resnets\.(\d+)\.")

_SINGLE = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "label_emb.0.0": "add_embedding.linear_1",
    "label_emb.0.2": "add_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}
_MIDDLE = {
    "middle_block.0": "mid_block.resnets.0",
    "middle_block.1": "mid_block.attentions.0",
    "middle_block.2": "mid_block.resnets.1",
}
_RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "emb_layers.1": "time_emb_proj",
    "skip_connection": "conv_shortcut",
}


def other_names(names: Collection[str]) -> Rename | None:
    """Gives names of a UNet's tensors in its other spelling; None where these are not those of one.

    Args:
        names: of the model's tensors, without what stands before them.
    """
    if any(name.startswith(("input_blocks.", "middle_block.", "output_blocks.")) for name in names):
        samplers = [int(match[1]) for name in names if (match := _DOWNSAMPLER.match(name))]
        layers = min(samplers, default=3) - 1
        return lambda name: _to_diffusers(name, layers)
    if any(name.startswith(("down_blocks.", "mid_block.", "up_blocks.")) for name in names):
        numbers = [int(match[1]) for name in names if (match := _LAYER.match(name))]
        layers = max(numbers, default=1) + 1
        attended = frozenset(name.split(".")[1] for name in names if name.startswith("up_blocks.")
                             and name.split(".")[2] == "attentions")  # fmt: skip
        return lambda name: _from_diffusers(name, layers, attended)
    return None


def _to_diffusers(name: str, layers: int) -> str | None:
    if (renamed := _swap(name, _SINGLE)) is not None:
        return renamed
    if (renamed := _swap(name, _MIDDLE)) is not None:
        return _inner(renamed, _RESNET)
    match = _BLOCK.fullmatch(name)
    if match is None:
        return None
    side, number, place, rest = match[1], int(match[2]), int(match[3]), match[4]
    if side == "input_blocks":
        block, layer = divmod(number - 1, layers + 1)
        if rest.startswith("op."):
            return f"down_blocks.{block}.downsamplers.0.conv.{rest[3:]}"
        kind = {0: "resnets", 1: "attentions"}.get(place)
        return None if kind is None else _inner(f"down_blocks.{block}.{kind}.{layer}.{rest}", _RESNET)
    block, layer = divmod(number, layers + 1)
    if place and rest.startswith("conv."):
        return f"up_blocks.{block}.upsamplers.0.{rest}"
    kind = {0: "resnets", 1: "attentions"}.get(place)
    return None if kind is None else _inner(f"up_blocks.{block}.{kind}.{layer}.{rest}", _RESNET)


def _from_diffusers(name: str, layers: int, attended: frozenset[str]) -> str | None:
    if (renamed := _swap(name, {new: old for old, new in _SINGLE.items()})) is not None:
        return renamed
    back = {new: old for old, new in _RESNET.items()}
    if (renamed := _swap(name, {new: old for old, new in _MIDDLE.items()})) is not None:
        return _inner(renamed, back, name)
    match = _DIFFUSERS.fullmatch(name)
    if match is None:
        return None
    side, block, kind, layer, rest = match[1], int(match[2]), match[3], int(match[4]), match[5]
    first = block * (layers + 1)
    if kind == "downsamplers":
        return f"input_blocks.{first + layers + 1}.0.op.{rest.removeprefix('conv.')}"
    if kind == "upsamplers":
        return f"output_blocks.{first + layers}.{2 if str(block) in attended else 1}.{rest}"
    place = 0 if kind == "resnets" else 1
    start = f"input_blocks.{first + layer + 1}" if side == "down_blocks" else f"output_blocks.{first + layer}"
    return _inner(f"{start}.{place}.{rest}", back, name)


def _swap(name: str, table: dict[str, str]) -> str | None:
    """A name whose beginning the table knows, with the other beginning."""
    for old, new in table.items():
        if name.startswith(f"{old}."):
            return new + name[len(old) :]
    return None


def _inner(name: str, table: dict[str, str], original: str | None = None) -> str:
    """A name with a residual block's modules renamed; ``original``, else itself, says if it is of one."""
    if ".resnets." not in (original or name):
        return name
    for old, new in table.items():
        if (at := name.find(f".{old}.")) >= 0:
            return name[: at + 1] + new + name[at + 1 + len(old) :]
    return name
