"""``quant_method: modelopt``, which vLLM, SGLang and TensorRT-LLM read.

Source: ``modelopt/torch/export/convert_hf_config.py`` of NVIDIA/Model-Optimizer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ... import __version__
from ...core.planning import Planning
from ...core.tensor import LazyTensor
from .cache import CACHE
from .compressed_tensors import weights_of_groups
from .dialect import Dialect, SideStatement, Statement, Unsayable, calibrated, e4m3_only
from .layers import Layers
from .stated import Json

__all__ = ["ModelOpt"]

_LAYERS = "quantized_layers"
"""Key of the algorithm of each layer, where they differ."""


class ModelOpt(Dialect):
    """An algorithm for all layers, or one for each; said a second time in ``hf_quant_config.json``."""

    method = "modelopt"
    schemes = ("fp8", "mxfp8", "nvfp4")
    unquantized = "ignore"
    telling = ("quant_algo",)
    caches = True
    beside = (SideStatement("hf_quant_config.json", "quantization", "exclude_modules"),)

    def state(self, layers: Layers, planning: Planning) -> Statement:
        """See :meth:`.dialect.Dialect.state`."""
        algorithms = {module: _algorithm(tensor) for module, tensor in layers.quantized.items()}
        kept = layers.kept_by_prefix(planning)
        distinct = list(dict.fromkeys(algorithms.values()))
        stated: Json = {"quant_algo": "MIXED_PRECISION", "kv_cache_quant_algo": None}
        if len(distinct) == 1:
            stated |= _stated(*distinct[0])
            groups = {"group_0": {**_activations(*distinct[0]), "targets": ["Linear"]}}
        else:
            stated[_LAYERS] = {module: _stated(*one) for module, one in sorted(algorithms.items())}
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
            "quant_method": self.method,
            "quant_algo": stated["quant_algo"],
            "config_groups": groups,
            "ignore": kept,
            CACHE: None,
            "producer": producer,
        }
        config |= {key: stated[key] for key in (_LAYERS, "group_size") if key in stated}
        (side,) = self.beside
        return Statement(config, {side.file: {"producer": producer, side.key: stated}})

    def with_cache(self, statement: Statement) -> Statement:
        """See :meth:`.dialect.Dialect.with_cache`."""
        (side,) = self.beside
        beside = statement.files[side.file]
        said = {**beside, side.key: {**beside[side.key], "kv_cache_quant_algo": "FP8"}}
        config = {**statement.config, CACHE: {"dynamic": False, "num_bits": 8, "type": "float"}}
        return replace(statement, config=config, files={**statement.files, side.file: said})

    def denies(self, statement: Json, scheme: Any) -> str | None:
        """See :meth:`.dialect.Dialect.denies`: by its algorithm, where there is but one."""
        stated = statement.get("quant_algo")
        if not isinstance(stated, str) or stated == "MIXED_PRECISION" or scheme.name not in self.schemes:
            return None
        same = scheme.name in stated.lower() and (scheme.name != "fp8" or "FP8" in stated.split("_")[:1])
        return None if same else f"quant_algo {stated!r:.40}"

    def options(self, statement: Json) -> Iterator[Mapping[str, Any]]:
        """See :meth:`.dialect.Dialect.options`: its groups are in the words of compressed-tensors."""
        return weights_of_groups(statement)

    def _list(self, statement: Json, key: str, decoded: Sequence[str], coded: Sequence[str]) -> None:
        super()._list(statement, key, decoded, coded)
        if isinstance(algorithms := statement.get(_LAYERS), dict):
            for name in decoded:
                algorithms.pop(name.removesuffix(".weight"), None)


def _algorithm(tensor: LazyTensor) -> tuple[str, int | None]:
    """ModelOpt's name of what was done to a tensor, and the columns that share a scale."""
    scheme: Any = tensor.scheme
    match scheme.name:
        case "fp8":
            e4m3_only(scheme, ModelOpt.method)
            if scheme.granularity == "channel":
                return "FP8_PER_CHANNEL_PER_TOKEN", None
            raise Unsayable(
                f"fp8 with one scale to a {scheme.granularity} needs what these files do not hold"
            )
        case "mxfp8":
            e4m3_only(scheme, ModelOpt.method)
            return "MXFP8", 32
        case "nvfp4":
            return ("NVFP4" if calibrated(tensor) else "W4A16_NVFP4"), 16
        case name:
            raise Unsayable(f"{ModelOpt.method} knows no {name}")


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
