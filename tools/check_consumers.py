"""Each format through its consumer's own code: how far that is from what is decoded here, as a table.

    python tools/check_consumers.py
    python tools/check_consumers.py --only comfyui

A matrix in BF16 is written for the consumer, and decoded here and there. ``bits`` says that all values are
the same, else the largest difference is told, over the largest value. Consumers that are not installed are
named below the table. What it looks for: comfy-kitchen torchao hqq optimum-quanto bitsandbytes mlx mlx-cpu.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import transcode as tc

NAME = "blocks.0.proj.weight"
STEM = NAME.removesuffix(".weight")
SHAPE = (128, 512)
Stored = Mapping[str, torch.Tensor]
Decoder = Callable[[Stored, Path], torch.Tensor]
"""What is stored, and the file, to values."""


@dataclass(frozen=True)
class Case:
    """A scheme for a consumer, and how the consumer decodes it."""

    convention: str
    scheme: str
    decode: Decoder
    options: dict[str, Any] = field(default_factory=dict)


def kitchen(kind: str, **names: str) -> Decoder:
    """A layout of comfy-kitchen; ``names`` are parameters and the ends of the stored names."""

    def through(stored: Stored, file: Path) -> torch.Tensor:
        layout = getattr(import_module("comfy_kitchen.tensor"), kind)
        marker = json.loads(bytes(stored[f"{STEM}.comfy_quant"].tolist()))
        known = set(layout.Params.__dataclass_fields__)
        said = {key: value for key, value in marker.items() if key in known}
        parts = {key: stored[NAME + end] for key, end in names.items() if NAME + end in stored}
        if kind == "TensorCoreMXFP8Layout":  # as ComfyUI does with bytes
            parts["scale"] = parts["scale"].view(torch.float8_e8m0fnu)
        params = layout.Params(orig_dtype=torch.float32, orig_shape=SHAPE, **parts, **said)
        values: torch.Tensor = layout.dequantize(stored[NAME], params)
        if (scale := stored.get(f"{STEM}.pre_quant_scale")) is not None:
            values = values.float() * scale.float()  # the inputs are multiplied by it
        return values

    return through


def torchao(stored: Stored, file: Path) -> torch.Tensor:
    """What ``unflatten_tensor_state_dict`` builds."""
    support = import_module("torchao.prototype.safetensors.safetensors_support")
    with safe_open(file, "pt") as opened:
        built, _ = support.unflatten_tensor_state_dict(dict(stored), opened.metadata())
    weight = built[NAME]
    values: torch.Tensor
    if type(weight).__name__ != "Int4Tensor":
        values = weight.dequantize()
        return values
    codes = torch.stack([weight.qdata << 4 >> 4, weight.qdata >> 4], -1).flatten(-2)
    gptq = import_module("torchao.prototype.gptq.api")
    scale, zero = weight.scale.float(), weight.zero_point.float()
    values = gptq._int4_row_dequantize_zp(codes, scale, zero, weight.block_size[-1])
    return values


def hqq(stored: Stored, file: Path) -> torch.Tensor:
    """A linear layer of hqq that loads what stands beside it."""
    own = {name.removeprefix(f"{STEM}."): one for name, one in stored.items()}
    dtype = torch.bfloat16
    layer = import_module("hqq.core.quantize").HQQLinear(
        None, None, compute_dtype=dtype, device="cpu", initialize=False
    )
    layer.load_state_dict(own)
    values: torch.Tensor = layer.dequantize()
    return values


def quanto(qtype: str) -> Decoder:
    """The tensor that a module of quanto makes of its part of a state."""

    def through(stored: Stored, file: Path) -> torch.Tensor:
        own = import_module("optimum.quanto")
        made = import_module("optimum.quanto.tensor.weights.qbytes").WeightQBytesTensor.load_from_state_dict(
            dict(stored), f"{NAME}.", getattr(own, qtype), 0, torch.Size(SHAPE), (SHAPE[1], 1), None, []
        )
        values: torch.Tensor = made.dequantize()
        return values

    return through


def quanto_bits(qtype: str) -> Decoder:
    """The same of codes of few bits."""

    def through(stored: Stored, file: Path) -> torch.Tensor:
        own = getattr(import_module("optimum.quanto"), qtype)
        made = import_module("optimum.quanto.tensor.weights.qbits").WeightQBitsTensor.load_from_state_dict(
            dict(stored), f"{NAME}.", own, 0, 128, torch.Size(SHAPE), (SHAPE[1], 1), []
        )
        values: torch.Tensor = made.dequantize()
        return values

    return through


def bitsandbytes(kind: str) -> Decoder:
    """A state of bitsandbytes, and its 4-bit decoder on the CPU."""

    def through(stored: Stored, file: Path) -> torch.Tensor:
        functional = import_module("bitsandbytes.functional")
        beside = {name: one for name, one in stored.items() if name.startswith(f"{NAME}.")}
        state = functional.QuantState.from_dict(beside, device=torch.device("cpu"))
        values: torch.Tensor = functional.dequantize_4bit(stored[NAME], state, quant_type=kind)
        return values.reshape(SHAPE)

    return through


def llm_int8(stored: Stored, file: Path) -> torch.Tensor:
    """``int8_vectorwise_dequant`` of bitsandbytes."""
    functional = import_module("bitsandbytes.functional")
    values: torch.Tensor = functional.int8_vectorwise_dequant(stored[NAME], stored[f"{STEM}.SCB"])
    return values


def mlx(mode: str, bits: int, group: int) -> Decoder:
    """``mx.dequantize`` on the CPU."""

    def through(stored: Stored, file: Path) -> torch.Tensor:
        mx = import_module("mlx.core")
        loaded = mx.load(str(file))
        scales, biases = loaded[f"{STEM}.scales"], loaded.get(f"{STEM}.biases")
        if biases is not None:  # in BF16 it would round the product, and the sum
            scales, biases = scales.astype(mx.float32), biases.astype(mx.float32)
        values = mx.dequantize(loaded[NAME], scales, biases, group_size=group, bits=bits, mode=mode)
        return torch.tensor(values.astype(mx.float32).tolist())

    return through


def nunchaku_lite(stored: Stored, file: Path) -> torch.Tensor:
    """Diffusers' ``AWQW4A16Linear`` loads it; no kernel of it runs on a CPU, so its order is written out:
    ``_awq_w4a16_code_order`` of rootonchair/diffuse-compressor.
    """
    utils: Any = import_module("diffusers.utils")
    constants: Any = import_module("diffusers.utils.constants")
    sys.modules.setdefault("kernels", SimpleNamespace(get_kernel=lambda *_, **__: SimpleNamespace(ops=None)))  # type: ignore[arg-type]
    utils.is_kernels_available, utils.is_kernels_version = (lambda: True), (lambda *_: False)
    constants.DIFFUSERS_TRUST_REMOTE_KERNELS = True
    own = import_module("diffusers.quantizers.nunchaku.utils")
    said = json.loads((file.parent / "config.json").read_text())["quantization_config"]
    proj = torch.nn.Linear(SHAPE[1], SHAPE[0])
    model = torch.nn.ModuleDict({"blocks": torch.nn.ModuleList([torch.nn.ModuleDict({"proj": proj})])})
    own.replace_with_nunchaku_linear(model, said, torch.bfloat16)
    own.check_strict_state_dict_match(model, stored)
    model.load_state_dict(stored, strict=True, assign=True)
    layer = model.get_submodule(STEM)
    words = layer.qweight.reshape(SHAPE[0] // 4, -1, 4, 8)
    codes = torch.empty(SHAPE[0] // 4, words.shape[1], 4, 64)
    for column in range(64):
        word, nibble = column // 32 * 4 + column % 8 // 2, column % 32 // 8 + 4 * (column % 2)
        codes[..., column] = words[..., word] >> 4 * nibble & 15
    values = codes.transpose(1, 2).reshape(SHAPE[0], -1, 64)
    scaled: torch.Tensor = values * layer.wscales.float().T[..., None] + layer.wzeros.float().T[..., None]
    return scaled.reshape(SHAPE)


_INT8 = kitchen("TensorWiseINT8Layout", scale="_scale")
_NVFP4 = kitchen("TensorCoreNVFP4Layout", scale="_scale_2", block_scale="_scale")
_W4A8 = kitchen("AsymW4A8Int8Layout", scale="_s_rel", s_channel="_s_channel", codebook="_codebook")
CASES = (
    Case("comfyui", "int8", _INT8),
    Case("comfyui", "int8", _INT8, {"rotate": 256}),
    Case("comfyui", "fp8", kitchen("TensorCoreFP8Layout", scale="_scale")),
    Case("comfyui", "mxfp8", kitchen("TensorCoreMXFP8Layout", scale="_scale")),
    Case("comfyui", "nvfp4", _NVFP4),
    Case("comfyui", "nvfp4_awq", _NVFP4),
    Case("comfyui", "w4a8", _W4A8, {"rotate": 256}),
    Case("comfyui", "w6a8", _W4A8, {"rotate": 256}),
    Case("comfyui", "convrot_w4a4", kitchen("TensorCoreConvRotW4A4Layout", scale="_scale"), {"rotate": 256}),
    Case("comfyui", "awq_w4a16", kitchen("TensorCoreAWQW4A16Layout", scale="_scale", zeros="_zeros")),
    Case("torchao", "int8", torchao),
    Case("torchao", "int8", torchao, {"granularity": "group", "group_size": 64, "symmetric": False}),
    Case("torchao", "fp8", torchao),
    Case("torchao", "mxfp8", torchao),
    Case("torchao", "mxfp4", torchao),
    Case("torchao", "nvfp4", torchao),
    Case("torchao", "awq_w4a16", torchao),
    *(Case("hqq", "hqq", hqq, {"bits": bits}) for bits in (8, 4, 3, 2, 1)),
    Case("quanto", "int8", quanto("qint8")),
    Case("quanto", "fp8", quanto("qfloat8_e4m3fn")),
    Case("quanto", "qbits", quanto_bits("qint4")),
    Case("quanto", "qbits", quanto_bits("qint2"), {"bits": 2}),
    Case("nunchaku_lite", "affine", nunchaku_lite),
    Case("bitsandbytes", "nf4", bitsandbytes("nf4")),
    Case("bitsandbytes", "nf4", bitsandbytes("nf4"), {"double_quant": True}),
    Case("bitsandbytes", "bnb_fp4", bitsandbytes("fp4")),
    Case("bitsandbytes", "llm_int8", llm_int8),
    *(Case("mlx", "affine", mlx("affine", bits, 64), {"bits": bits}) for bits in (8, 6, 5, 4, 3, 2)),
    Case("mlx", "mxfp4", mlx("mxfp4", 4, 32)),
    Case("mlx", "mxfp8", mlx("mxfp8", 8, 32)),
)


def checked(case: Case, folder: Path) -> tuple[str, float]:
    """How far the consumer's values are from ours, in words, and what the format loses, in dB."""
    torch.manual_seed(0)
    weight = torch.randn(SHAPE).to(torch.bfloat16)
    source, made, back = folder / "source", folder / "made", folder / "back.safetensors"
    source.mkdir()
    save_file({NAME: weight, f"{STEM}.bias": weight[:, 0].clone()}, source / "model.safetensors")
    (source / "config.json").write_text('{"model_type": "toy"}')  # by which some tell the width of codes
    flow = tc.open(source) | tc.quantize(case.scheme, include=[NAME], **case.options)
    flow | tc.write(made, convention=case.convention)
    tc.open(made) | tc.dequantize("F32") | tc.write(back)
    (file,) = made.glob("*.safetensors")
    ours, theirs = load_file(back)[NAME], case.decode(load_file(file), file)
    # Where it computes in BF16, ours are rounded to that, too.
    near = ours.to(theirs.dtype).float()
    gap = (near - theirs.float()).abs().max().item()
    lost = 10 * math.log10(weight.float().square().sum() / (theirs.float() - weight.float()).square().sum())
    told = "bits" if gap == 0 else f"{gap / ours.abs().max().item():.1e}"
    return f"{told} ({str(theirs.dtype).removeprefix('torch.')})", lost


def rows(only: str) -> Iterator[str]:
    """The table in Markdown, and what could not be run."""
    yield "| consumer | format | decoded here and there | dB |"
    yield "|---|---|---|---:|"
    missing = []
    for case in CASES:
        if case.convention.startswith(only):
            label = " ".join((case.scheme, *(f"{key}={value}" for key, value in case.options.items())))
            try:
                with tempfile.TemporaryDirectory() as folder, redirect_stdout(sys.stderr):
                    told, lost = checked(case, Path(folder))
            except ImportError as error:
                missing.append(f"{case.convention} ({error.name or error})")
                continue
            yield f"| {case.convention} | `{label}` | {told} | {lost:.2f} |"
    yield f"\nnot installed: {', '.join(dict.fromkeys(missing)) or 'none'}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", default="", help="consumers whose name begins so")
    for row in rows(parser.parse_args().only):
        print(row, flush=True)


if __name__ == "__main__":
    main()
