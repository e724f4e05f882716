"""Makers of quantized layers and models: each function calls the code of the package whose format it is.

What a layer becomes is what the package itself stores of it, and ``decoded`` what the package's own decoder
makes of that. Where a package only decodes on a CPU (transformers' mxfp4), codes are drawn at random. Nothing
here is transcode's.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

__all__ = ["LAYERS", "MODELS", "Layer", "Model"]

Tensors = dict[str, torch.Tensor]


class Layer(NamedTuple):
    """A weight as it is stored.

    Attributes:
        parts: by the name behind the module's; ``weight`` and ``weight_scale`` are usual.
        decoded: the weight ``[N, K]`` again, by the owner's decoder.
    """

    parts: Tensors
    decoded: torch.Tensor


class Model(NamedTuple):
    """A model as its owner saves it.

    Attributes:
        tensors: of its file.
        config: config.json.
        decoded: of quantized weights, by name.
        beside: further files, as JSON.
    """

    tensors: Tensors
    config: dict[str, Any]
    decoded: Tensors
    beside: Mapping[str, Any] = {}


def _linear(weight: torch.Tensor) -> torch.nn.Linear:
    rows, columns = weight.shape
    layer = torch.nn.Linear(columns, rows, bias=False, dtype=weight.dtype)
    layer.weight = torch.nn.Parameter(weight, requires_grad=False)
    return layer


def compressed_tensors(preset: str, weight: torch.Tensor) -> Layer:
    """By the scheme of that name, scales by least and largest value."""
    from compressed_tensors.compressors import compress_module, decompress_module
    from compressed_tensors.quantization import initialize_module_for_quantization
    from compressed_tensors.quantization.quant_scheme import preset_name_to_scheme
    from compressed_tensors.quantization.utils import calculate_qparams, generate_gparam

    scheme = preset_name_to_scheme(preset, ["Linear"])
    layer, weights = _linear(weight), scheme.weights
    initialize_module_for_quantization(layer, scheme)
    rows, columns = weight.shape
    values = weight.float()
    kind, more = str(getattr(weights.strategy, "value", weights.strategy)), {}
    if kind in ("group", "tensor_group"):
        blocks = values.reshape(rows, -1, weights.group_size)
        least, most = blocks.amin(-1), blocks.amax(-1)
    elif kind == "block":
        high, wide = weights.block_structure
        blocks = values.reshape(rows // high, high, columns // wide, wide)
        least, most = blocks.amin((1, 3)), blocks.amax((1, 3))
    elif kind == "channel":
        least, most = values.amin(1, keepdim=True), values.amax(1, keepdim=True)
    else:
        least, most = values.amin(), values.amax()
    if kind == "tensor_group":
        more["global_scale"] = generate_gparam(least.amin(), most.amax())
        layer.weight_global_scale.data = more["global_scale"]
    scale, zero = calculate_qparams(least, most, weights, **more)
    layer.weight_scale.data = scale.to(layer.weight_scale.dtype).reshape(layer.weight_scale.shape)
    if hasattr(layer, "weight_zero_point"):
        layer.weight_zero_point.data = zero.to(layer.weight_zero_point.dtype).reshape(
            layer.weight_zero_point.shape
        )
    compress_module(layer)
    parts = {name: one.detach().clone() for name, one in layer.state_dict().items()}
    decompress_module(layer)
    return Layer(parts, layer.weight.detach())


def _said_by_compressed_tensors(preset: str, kept: list[str]) -> dict[str, Any]:
    from compressed_tensors.compressors.format import infer_module_format
    from compressed_tensors.quantization import QuantizationConfig, QuantizationStatus
    from compressed_tensors.quantization.quant_scheme import preset_name_to_scheme

    scheme = preset_name_to_scheme(preset, ["Linear"])
    form = infer_module_format(torch.nn.Linear, scheme)
    scheme.format = form
    said = QuantizationConfig(
        config_groups={"group_0": scheme}, format=form, ignore=kept,
        quantization_status=QuantizationStatus.COMPRESSED,
    )  # fmt: skip
    dumped: dict[str, Any] = json.loads(said.model_dump_json())
    return dumped


def fine_grained_fp8(scales: str, weight: torch.Tensor) -> Layer:
    """By transformers' fp8, in blocks of 128; scales in F32 (``float``) or E8M0 (``ue8m0``)."""
    from types import SimpleNamespace

    from transformers import FineGrainedFP8Config
    from transformers.integrations.finegrained_fp8 import Fp8Dequantize, Fp8Quantize

    quantizer = SimpleNamespace(quantization_config=FineGrainedFP8Config(scale_fmt=scales))
    made = Fp8Quantize(quantizer).convert({"m.weight": weight})
    parts = {name.removeprefix("m."): one for name, one in made.items()}
    decoded = Fp8Dequantize(quantizer)._dequantize_one(*parts.values(), output_dtype=torch.float32)
    return Layer(parts, decoded)


def _said_by_fp8(scales: str, kept: list[str]) -> dict[str, Any]:
    from transformers import FineGrainedFP8Config

    said: dict[str, Any] = FineGrainedFP8Config(scale_fmt=scales, modules_to_not_convert=kept).to_dict()
    return said


def _groups(weight: torch.Tensor, size: int, symmetric: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Scales and zero points ``[N, G]`` of 4 bits, by least and largest value."""
    blocks = weight.float().reshape(len(weight), -1, size)
    if symmetric:
        scale = (blocks.abs().amax(-1) / 7.5).half().float()
        return scale, torch.full_like(scale, 8)
    least, most = blocks.amin(-1).clamp(max=0), blocks.amax(-1).clamp(min=0)
    scale = ((most - least) / 15).half().float()
    return scale, (-least / scale).round().clamp(1, 15)


def gptqmodel(layout: str, symmetric: bool, weight: torch.Tensor) -> Layer:
    """Packed by the layer of GPTQModel, in groups of 32; ``gptq`` stores zero points less one."""
    from gptqmodel.nn_modules.qlinear.torch import TorchLinear
    from gptqmodel.utils.model import convert_gptq_v2_to_v1_format_module

    rows, columns = weight.shape
    layer = TorchLinear(
        bits=4, group_size=32, sym=symmetric, desc_act=False, in_features=columns, out_features=rows,
        bias=False, pack_dtype=torch.int32, register_buffers=True,
    )  # fmt: skip
    layer.pack_original(_linear(weight.float()), *_groups(weight, 32, symmetric))
    parts = {name: one.clone() for name, one in layer.state_dict().items()}
    layer.post_init()
    decoded = layer.dequantize_weight().T.contiguous()
    if layout == "gptq":
        from types import SimpleNamespace

        first = TorchLinear(
            bits=4, group_size=32, sym=symmetric, desc_act=False, in_features=columns, out_features=rows,
            bias=False, pack_dtype=torch.int32, register_buffers=True,
        )  # fmt: skip
        first.load_state_dict(parts)
        config = SimpleNamespace(format="gptq_v2", bits=4, runtime_bits=4, pack_dtype=torch.int32)
        convert_gptq_v2_to_v1_format_module(first, config)
        parts = {name: one.clone() for name, one in first.state_dict().items()}
    return Layer(parts, decoded)


def _said_by_gptq(layout: str, symmetric: bool, kept: list[str]) -> dict[str, Any]:
    return {
        "quant_method": "gptq", "bits": 4, "group_size": 32, "sym": symmetric, "desc_act": False,
        "checkpoint_format": layout, "dynamic": {f"-:^{module}$".replace(".", r"\."): {} for module in kept},
    }  # fmt: skip


def autoawq(weight: torch.Tensor) -> Layer:
    """Packed by AutoAWQ for its GEMM kernels, in groups of 32."""
    from awq.modules.linear.gemm import WQLinear_GEMM
    from awq.utils.packing_utils import dequantize_gemm

    scale, zero = _groups(weight, 32, symmetric=False)
    layer = WQLinear_GEMM.from_linear(
        _linear(weight.float()), 4, 32, scales=scale.T.contiguous(), zeros=zero.T.contiguous()
    )
    parts = {"qweight": layer.qweight, "qzeros": layer.qzeros, "scales": layer.scales}
    return Layer(parts, dequantize_gemm(layer.qweight, layer.qzeros, layer.scales, 4, 32).T.contiguous())


def _said_by_awq(kept: list[str]) -> dict[str, Any]:
    return {
        "quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True, "version": "gemm",
        "modules_to_not_convert": kept,
    }  # fmt: skip


def bitsandbytes(kind: str, nested: bool, weight: torch.Tensor) -> Layer:
    """By its layers of 4 bits, or LLM.int8() for ``int8``."""
    import bitsandbytes as lib
    from bitsandbytes import functional

    rows, columns = weight.shape
    if kind == "int8":
        codes, scale, _ = functional.int8_vectorwise_quant(weight.half())
        return Layer(
            {"weight": codes, "SCB": scale, "weight_format": torch.tensor(0, dtype=torch.uint8)},
            functional.int8_vectorwise_dequant(codes, scale),
        )
    layer = lib.nn.Linear4bit(
        columns, rows, bias=False, quant_type=kind, compress_statistics=nested, compute_dtype=torch.bfloat16
    )
    layer.weight = lib.nn.Params4bit(
        weight, requires_grad=False, quant_type=kind, compress_statistics=nested, blocksize=64
    )
    layer = layer.to("cpu")
    held = layer.weight
    if held.quant_state is None:
        held = held._quantize("cpu")
    parts = {"weight": held.data}
    parts |= {f"weight.{name}": one for name, one in held.quant_state.as_dict(packed=True).items()}
    return Layer(parts, functional.dequantize_4bit(held.data, held.quant_state))


def _said_by_bitsandbytes(kind: str, nested: bool, kept: list[str]) -> dict[str, Any]:
    from transformers import BitsAndBytesConfig

    how: dict[str, Any] = {"load_in_8bit": True}
    if kind != "int8":
        how = {"load_in_4bit": True, "bnb_4bit_quant_type": kind, "bnb_4bit_use_double_quant": nested}
    said: dict[str, Any] = BitsAndBytesConfig(**how, llm_int8_skip_modules=kept).to_dict()
    return said


def comfy_kitchen(layout: str, marker: dict[str, Any], weight: torch.Tensor, **how: Any) -> Layer:
    """By the layout of that name, with the marker that ComfyUI reads.

    Decoded in float32, where it rounds no product to 16 bits; nvfp4 is rounded to the dtype of the model
    then, as its last bit in float32 depends on the order of products.
    """
    from dataclasses import replace

    from comfy_kitchen.tensor import QuantizedTensor, get_layout_class

    made = QuantizedTensor.from_float(weight, layout, **how)
    parts = {name: one.contiguous().clone() for name, one in made.state_dict("weight").items()}
    parts["comfy_quant"] = torch.tensor(list(json.dumps(marker).encode()), dtype=torch.uint8)
    wide = replace(made._params, orig_dtype=torch.float32)
    decoded = get_layout_class(layout).dequantize(made._qdata, wide)
    return Layer(parts, decoded.bfloat16() if "NVFP4" in layout else decoded)


def mlx(mode: str, bits: int, size: int, weight: torch.Tensor) -> Layer:
    """By ``mlx.core.quantize``; decoded in float32, where no product is rounded twice."""
    import mlx.core as mx
    import numpy as np

    values = mx.array(weight.float().numpy()).astype(mx.bfloat16)
    codes, scales, *biases = mx.quantize(values, size, bits, mode=mode)
    wide = [one.astype(mx.float32) if one.dtype == mx.bfloat16 else one for one in (scales, *biases)]
    decoded = mx.dequantize(codes, *wide, group_size=size, bits=bits, mode=mode, dtype=mx.float32)
    parts = {"weight": torch.from_numpy(np.array(codes))}
    named = {"scales": scales, **({"biases": biases[0]} if biases else {})}
    for name, one in named.items():
        kind = {mx.bfloat16: torch.bfloat16}.get(one.dtype)
        stored = torch.from_numpy(np.array(one.astype(mx.float32) if kind else one))
        parts[name] = stored if kind is None else stored.to(kind)
    return Layer(parts, torch.from_numpy(np.array(decoded)))


def _said_by_mlx(mode: str, bits: int, size: int, kept: list[str]) -> dict[str, Any]:
    return {"group_size": size, "bits": bits, "mode": mode, **dict.fromkeys(kept, False)}


LAYERS: dict[str, tuple[Callable[[torch.Tensor], Layer], Callable[[list[str]], dict[str, Any]] | None]] = {}
"""Name of a fixture -> how a layer is made, and what config.json says where some modules are kept."""

for _preset in (
    "W8A8",
    "W4A16",
    "W4A16_ASYM",
    "FP8_DYNAMIC",
    "FP8_BLOCK",
    "MXFP8A16",
    "MXFP4A16",
    "NVFP4A16",
):
    LAYERS[f"compressed_tensors_{_preset.lower()}"] = (
        partial(compressed_tensors, _preset),
        partial(_said_by_compressed_tensors, _preset),
    )
for _scales in ("float", "ue8m0"):
    LAYERS[f"transformers_fp8_{_scales}"] = partial(fine_grained_fp8, _scales), partial(_said_by_fp8, _scales)
for _layout in ("gptq", "gptq_v2"):
    for _symmetric in (True, False):
        LAYERS[f"gptqmodel_{_layout}{'' if _symmetric else '_asym'}"] = (
            partial(gptqmodel, _layout, _symmetric),
            partial(_said_by_gptq, _layout, _symmetric),
        )
LAYERS["autoawq"] = autoawq, _said_by_awq
for _kind, _nested in (("nf4", False), ("nf4", True), ("fp4", False), ("int8", False)):
    LAYERS[f"bitsandbytes_{_kind}{'_nested' if _nested else ''}"] = (
        partial(bitsandbytes, _kind, _nested),
        partial(_said_by_bitsandbytes, _kind, _nested),
    )
for _mode, _bits, _size in (("affine", 4, 64), ("affine", 8, 32), ("mxfp4", 4, 32), ("mxfp8", 8, 32)):
    LAYERS[f"mlx_{_mode}{_bits if _mode == 'affine' else ''}"] = (
        partial(mlx, _mode, _bits, _size),
        partial(_said_by_mlx, _mode, _bits, _size),
    )
for _name, _layout, _marker in (
    ("fp8", "TensorCoreFP8Layout", {"format": "float8_e4m3fn"}),
    ("int8", "TensorWiseINT8Layout", {"format": "int8_tensorwise"}),
    ("mxfp8", "TensorCoreMXFP8Layout", {"format": "mxfp8"}),
    ("nvfp4", "TensorCoreNVFP4Layout", {"format": "nvfp4"}),
):
    LAYERS[f"comfy_kitchen_{_name}"] = partial(comfy_kitchen, _layout, _marker), None


def modelopt(config: str, folder: Path) -> Model:
    """A model that ModelOpt quantizes and exports; by its own tensors of each kind it is decoded."""
    import tempfile

    import modelopt.torch.quantization as quantization
    from modelopt.torch.export import export_hf_checkpoint
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    made = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    tokens = torch.arange(16)[None]
    made = quantization.quantize(
        made, getattr(quantization, config), forward_loop=lambda model: model(tokens)
    )
    with tempfile.TemporaryDirectory() as name:
        export_hf_checkpoint(made, export_dir=name)
        tensors = load_file(Path(name) / "model.safetensors")
        said = json.loads((Path(name) / "config.json").read_text())
        beside = {"hf_quant_config.json": json.loads((Path(name) / "hf_quant_config.json").read_text())}
    decoded = {
        name: _by_modelopt(tensors, name)
        for name in tensors
        if name.endswith(".weight") and f"{name}_scale" in tensors
    }
    return Model(tensors, said, decoded, beside)


def _by_modelopt(tensors: Tensors, name: str) -> torch.Tensor:
    """In float32; nvfp4 in BF16, as its last bit in float32 depends on the order of products."""
    from modelopt.torch.quantization import qtensor

    codes, scale = tensors[name], tensors[f"{name}_scale"]
    rows, columns = codes.shape
    if codes.dtype == torch.uint8:
        shape = torch.Size((rows, 2 * columns))
        if f"{name}_scale_2" in tensors:
            return qtensor.NVFP4QTensor(shape, torch.bfloat16, codes).dequantize(
                torch.bfloat16, scale=scale, double_scale=tensors[f"{name}_scale_2"], block_sizes={-1: 16}
            )
        return qtensor.MXFP4QTensor(shape, torch.float32, codes).dequantize(
            torch.float32, scale=scale, block_sizes={-1: 32}
        )
    if scale.dtype == torch.uint8:
        return qtensor.MXFP8QTensor(codes.shape, torch.float32, codes).dequantize(torch.float32, scale=scale)
    kind = qtensor.INT8QTensor if codes.dtype == torch.int8 else qtensor.FP8QTensor
    wide = scale[:, None] if scale.dim() == 1 else scale
    return kind(codes.shape, torch.float32, codes).dequantize(torch.float32, scale=wide)


def gpt_oss(folder: Path) -> Model:
    """Stacked experts in MXFP4 with codes and exponents drawn at random, as transformers decodes them."""
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    random = torch.Generator().manual_seed(7)
    stem = "model.layers.0.mlp.experts"
    tensors: Tensors = {}
    decoded: Tensors = {}
    for name, rows in (("gate_up_proj", 128), ("down_proj", 64)):
        blocks = torch.randint(0, 256, (2, rows, 2, 16), dtype=torch.uint8, generator=random)
        scales = torch.randint(118, 132, (2, rows, 2), dtype=torch.uint8, generator=random)
        tensors |= {f"{stem}.{name}_blocks": blocks, f"{stem}.{name}_scales": scales}
        decoded[f"{stem}.{name}"] = convert_moe_packed_tensors(blocks, scales)
    tensors["model.norm.weight"] = torch.ones(64, dtype=torch.bfloat16)
    said = {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}
    return Model(tensors, {"model_type": "gpt_oss", "quantization_config": said}, decoded)


# Those that are made of a whole model: of a folder that transformers saved.
MODELS: dict[str, Callable[[Path], Model]] = {
    f"modelopt_{_name}": partial(modelopt, f"{_config}_CFG")
    for _name, _config in (
        ("fp8", "FP8_DEFAULT"), ("fp8_channel", "FP8_PER_CHANNEL_PER_TOKEN"), ("nvfp4", "NVFP4_DEFAULT"),
        ("nvfp4_a16", "W4A16_NVFP4"), ("mxfp8", "MXFP8_DEFAULT"), ("mxfp4", "MXFP4_DEFAULT"),
        ("int8", "INT8_WEIGHT_ONLY"), ("int8_smooth", "INT8_SMOOTHQUANT"),
    )
}  # fmt: skip
MODELS["transformers_mxfp4"] = gpt_oss
