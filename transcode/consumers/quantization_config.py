"""What loaders of language models look for in config.json: how the tensors beside it are quantized.

Three dialects, told apart by their ``quant_method``: ``compressed-tensors`` (``quant_config.py``,
``quant_args.py``, ``quant_scheme.py`` in ``quantization`` of vllm-project/compressed-tensors), ``modelopt``
(``modelopt/torch/export/convert_hf_config.py`` of NVIDIA/Model-Optimizer) and ``fp8`` (config.json of
deepseek-ai/DeepSeek-V3, ``FineGrainedFP8Config`` of transformers).
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .. import __version__, catalog
from ..core.dtypes import FLOATS
from ..core.planning import Planning
from ..core.tensor import LazyTensor
from ..errors import PlanError

__all__ = ["KEY", "Made", "computes", "quantization_config"]

KEY = "quantization_config"
"""The key of config.json."""

Json = dict[str, Any]

_HINT = "choose another scheme or convention, or exclude it"

_WEIGHT = ".weight"
_HEAD = "lm_head"


@dataclass(frozen=True)
class Made:
    """What is to be said of a model.

    Attributes:
        config: value of ``quantization_config``.
        files: further side files, name -> JSON.
    """

    config: Json
    files: Mapping[str, Json]


class _Unsaid(Exception):
    """A dialect has no words for a tensor."""


@dataclass(frozen=True)
class _Layers:
    """Modules of a model, by what was done to them.

    Attributes:
        quantized: module -> its tensor.
        kept: linear modules that are not quantized, sorted.
    """

    quantized: Mapping[str, LazyTensor]
    kept: tuple[str, ...]


def quantization_config(tensors: Sequence[LazyTensor], dialect: str, planning: Planning) -> Made | None:
    """Derive what the consumer must be told; None if nothing is quantized.

    Args:
        tensors: those of the output, with schemes and parts.
        dialect: one of :data:`catalog.convention.CONFIGS`.

    Raises:
        PlanError: it cannot be told, so that the consumer would take codes for values.
    """
    layers = _layers(tensors)
    if not layers.quantized:
        return None
    try:
        return _DIALECTS[dialect](layers, planning)
    except _Unsaid as error:
        raise PlanError(f"{KEY} has no words for it: {error}", hint=_HINT) from None


def computes(tensors: Sequence[LazyTensor], convention: catalog.Convention) -> str | None:
    """The dtype that a model must have because the consumer decodes some of its tensors to it, if any."""
    rules = (convention.scheme(tensor.scheme.name) for tensor in tensors if tensor.scheme is not None)
    return next((rule.computes for rule in rules if rule.computes is not None), None)


def _layers(tensors: Sequence[LazyTensor]) -> _Layers:
    family = catalog.detect([tensor.name for tensor in tensors]) or catalog.generic_family()
    quantized = {}
    kept = set()
    for tensor in tensors:
        module = tensor.name.removesuffix(_WEIGHT)
        if tensor.scheme is not None:
            if family.is_target(tensor.name, tensor.spec.shape)[1] == "never: embedding":
                raise PlanError(
                    f"an embedding cannot be {tensor.scheme.name} here: loaders quantize linear layers only",
                    tensor=tensor.name,
                    hint="exclude it",
                )
            quantized[module] = tensor
        elif tensor.name.endswith(_WEIGHT) and len(tensor.spec.shape) == 2:
            _, why = family.is_target(tensor.name, tensor.spec.shape)
            if tensor.spec.dtype.name in FLOATS and why != "never: embedding":
                kept.add(module)
    if not any(_is_head(module) for module in (*quantized, *kept)):
        kept.add(_HEAD)  # tied to the embedding it is stored nowhere, and a linear layer all the same
    return _Layers(quantized, tuple(sorted(kept)))


def _is_head(module: str) -> bool:
    return module.rsplit(".", 1)[-1] == _HEAD


def _by_prefix(layers: _Layers, planning: Planning) -> list[str]:
    """The kept modules, for a loader that takes each name for the beginning of others.

    What would hide a quantized layer is left out: the router ``mlp.gate`` beside ``mlp.gate_proj``, which
    loaders never quantize anyway.
    """
    names = sorted(layers.quantized)
    kept = []
    for module in layers.kept:
        at = bisect_left(names, module)
        if at < len(names) and names[at].startswith(module):
            planning.warn(
                f"{KEY}: {module} is not listed as unquantized, its name is the beginning of {names[at]}",
                tensor=module,
                kind="hidden",
            )
        else:
            kept.append(module)
    return kept


# compressed-tensors


def _compressed_tensors(layers: _Layers, planning: Planning) -> Made:
    members: dict[str, list[str]] = {}
    for module, tensor in layers.quantized.items():
        members.setdefault(json.dumps(_group(tensor)), []).append(module)
    # All linear layers are of the largest group but those that are named: names go before types of modules.
    ranked = sorted(members, key=lambda text: -len(members[text]))
    groups: dict[str, Json] = {}
    for number, text in enumerate(ranked):
        targets = sorted(members[text]) if number else ["Linear"]
        groups[f"group_{number}"] = {"targets": targets, **json.loads(text)}
    formats = {group["format"] for group in groups.values()}
    if formats != {"float-quantized"} and any(catalog.experts_of(f"{module}.") for module in layers.kept):
        # Its conversion of experts looks for codes alone: integrations/compressed_tensors.py.
        planning.warn(
            f"{KEY}: experts that are kept beside {' and '.join(sorted(formats))} layers are read by vLLM,"
            " not by transformers 5"
        )
    return Made(
        {
            "quant_method": "compressed-tensors",
            "format": formats.pop() if len(formats) == 1 else "mixed-precision",
            "quantization_status": "compressed",
            "config_groups": groups,
            "ignore": list(layers.kept),
            "kv_cache_scheme": None,
            "global_compression_ratio": None,
        },
        {},
    )


def _group(tensor: LazyTensor) -> Json:
    """One entry of ``config_groups``, without its targets."""
    scheme: Any = tensor.scheme
    inputs = None
    match scheme.name:
        case "int8":
            strategy = scheme.granularity
            size = scheme.group_size if strategy == "group" else None
            weights = _args(8, "int", strategy, size, symmetric=scheme.symmetric)
            if strategy == "group":
                form = "naive-quantized"
            else:
                form, inputs = "int-quantized", _args(8, "int", "token", dynamic=True)
        case "int4":
            form = "pack-quantized"
            weights = _args(4, "int", "group", scheme.group_size, symmetric=scheme.symmetric)
        case "fp8":
            _e4m3(scheme, "compressed-tensors")
            form = "float-quantized"
            if scheme.granularity == "block":
                weights = _args(8, "float", "block", block=list(scheme.block))
                inputs = _args(8, "float", "group", scheme.block[1], dynamic=True)
            else:
                weights = _args(8, "float", scheme.granularity)
                inputs = _args(8, "float", "token", dynamic=True)
        case "mxfp8":
            _e4m3(scheme, "compressed-tensors")
            form = "mxfp8-quantized"
            weights = _args(8, "float", "group", 32, scale="torch.uint8")
        case "mxfp4":
            form = "mxfp4-pack-quantized"
            weights = _args(4, "float", "group", 32, scale="torch.uint8")
        case "nvfp4":
            form = "nvfp4-pack-quantized"
            e4m3 = "torch.float8_e4m3fn"
            weights = _args(4, "float", "tensor_group", 16, scale=e4m3)
            if _calibrated(tensor):
                inputs = _args(4, "float", "tensor_group", 16, scale=e4m3, dynamic="local")
        case name:
            raise _Unsaid(f"compressed-tensors knows no {name}")
    return {"format": form, "weights": weights, "input_activations": inputs, "output_activations": None}


def _args(
    bits: int,
    kind: str,
    strategy: str,
    group_size: int | None = None,
    *,
    symmetric: bool = True,
    dynamic: bool | str = False,
    block: list[int] | None = None,
    scale: str | None = None,
) -> Json:
    """``QuantizationArgs``. Keys that older releases refuse are left out where they say nothing."""
    found: Json = {
        "num_bits": bits,
        "type": kind,
        "symmetric": symmetric,
        "strategy": strategy,
        "group_size": group_size,
        "block_structure": block,
        "dynamic": dynamic,
        "actorder": None,
    }
    if scale is not None:
        found |= {"scale_dtype": scale, "zp_dtype": scale}
    return found


# modelopt


def _modelopt(layers: _Layers, planning: Planning) -> Made:
    algorithms = {module: _algorithm(tensor) for module, tensor in layers.quantized.items()}
    kept = _by_prefix(layers, planning)
    distinct = list(dict.fromkeys(algorithms.values()))
    stated: Json = {"quant_algo": "MIXED_PRECISION", "kv_cache_quant_algo": None}
    if len(distinct) == 1:
        stated |= _stated(*distinct[0])
        groups = {"group_0": {**_activations(*distinct[0]), "targets": ["Linear"]}}
    else:
        stated["quantized_layers"] = {module: _stated(*one) for module, one in sorted(algorithms.items())}
        groups = {
            f"group_{number}": {
                **_activations(*one),
                "targets": sorted(module for module, other in algorithms.items() if other == one),
            }
            for number, one in enumerate(distinct)
        }
    stated["exclude_modules"] = kept
    producer = {"name": "modelopt", "version": f"transcode-{__version__}"}  # loaders ask for the name
    config = {
        "quant_method": "modelopt",
        "quant_algo": stated["quant_algo"],
        "config_groups": groups,
        "ignore": kept,
        "kv_cache_scheme": None,
        "producer": producer,
    }
    if "quantized_layers" in stated:
        config["quantized_layers"] = stated["quantized_layers"]
    if "group_size" in stated:
        config["group_size"] = stated["group_size"]
    return Made(config, {"hf_quant_config.json": {"producer": producer, "quantization": stated}})


def _algorithm(tensor: LazyTensor) -> tuple[str, int | None]:
    """ModelOpt's name of what was done to a tensor, and the columns that share a scale."""
    scheme: Any = tensor.scheme
    match scheme.name:
        case "fp8":
            _e4m3(scheme, "modelopt")
            if scheme.granularity == "channel":
                return "FP8_PER_CHANNEL_PER_TOKEN", None
            raise _Unsaid(f"fp8 with one scale to a {scheme.granularity} needs what these files do not hold")
        case "mxfp8":
            _e4m3(scheme, "modelopt")
            return "MXFP8", 32
        case "nvfp4":
            return ("NVFP4" if _calibrated(tensor) else "W4A16_NVFP4"), 16
        case name:
            raise _Unsaid(f"modelopt knows no {name}")


def _stated(algorithm: str, group_size: int | None) -> Json:
    stated: Json = {"quant_algo": algorithm}
    if group_size is not None:
        stated["group_size"] = group_size
    return stated


def _activations(algorithm: str, group_size: int | None) -> Json:
    """An algorithm in the words of compressed-tensors, as ``convert_hf_config.py`` has them."""
    args: Json = {"dynamic": False, "num_bits": 4 if "NVFP4" in algorithm else 8, "type": "float"}
    if group_size is not None:
        args["group_size"] = group_size
    weights = {**args, "strategy": "channel"} if algorithm == "FP8_PER_CHANNEL_PER_TOKEN" else args
    return (
        {"weights": weights}
        if algorithm == "W4A16_NVFP4"
        else {"input_activations": args, "weights": weights}
    )


# fp8 in blocks


def _fp8(layers: _Layers, planning: Planning) -> Made:
    blocks = set()
    for module, tensor in layers.quantized.items():
        scheme: Any = tensor.scheme
        if scheme.name != "fp8" or scheme.granularity != "block":
            raise _Unsaid(f"quant_method fp8 knows fp8 in blocks alone, {module} is {_described(scheme)}")
        _e4m3(scheme, "quant_method fp8")
        blocks.add(tuple(scheme.block))
    if len(blocks) > 1:
        said = " and ".join(f"{rows}x{columns}" for rows, columns in sorted(blocks))
        raise _Unsaid(f"quant_method fp8 knows blocks of one size, here are {said}")
    config: Json = {
        "activation_scheme": "dynamic",
        "fmt": "e4m3",
        "quant_method": "fp8",
        "weight_block_size": list(blocks.pop()),
        "modules_to_not_convert": _by_prefix(layers, planning),
    }
    return Made(config, {})


def _described(scheme: Any) -> str:
    granularity = getattr(scheme, "granularity", None)
    return str(scheme.name) if granularity is None else f"{scheme.name} with one scale to a {granularity}"


def _e4m3(scheme: Any, who: str) -> None:
    if scheme.format != "e4m3fn":
        raise _Unsaid(f"{who} knows no {scheme.name} in {scheme.format}")


def _calibrated(tensor: LazyTensor) -> bool:
    return any(part.role == "input_global_scale" for part in tensor.parts)


_DIALECTS: Mapping[str, Callable[[_Layers, Planning], Made]] = {
    "compressed-tensors": _compressed_tensors,
    "modelopt": _modelopt,
    "fp8": _fp8,
}
