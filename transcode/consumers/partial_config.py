"""What config.json says of a model of which some quantized tensors were decoded."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from ..errors import PlanError
from .evidence import config_keys

__all__ = ["partly", "partly_modelopt"]

Json = dict[str, Any]

_LISTS = {
    "compressed-tensors": "ignore",
    "modelopt": "ignore",
    "fp8": "modules_to_not_convert",
    "mxfp8": "modules_to_not_convert",
    "mxfp4": "modules_to_not_convert",
}
"""``quant_method`` -> its list of the modules that are not quantized."""

_PREFIXES = ("modelopt", "fp8", "mxfp8", "mxfp4")
"""Those whose loaders take each name for the beginning of others."""


def partly(config: Json, decoded: Sequence[str], coded: Sequence[str]) -> Json:
    """A config.json whose ``quantization_config`` lists the decoded layers as not quantized.

    Args:
        decoded, coded: names of the output's tensors that are decoded, and of those that are still quantized.

    Raises:
        PlanError: it has no words for that.
    """
    config = copy.deepcopy(config)
    for holder, key in config_keys(config):
        stated = holder[key]
        method = stated.get("quant_method", "compressed-tensors" if key == "compression_config" else None)
        if method not in _LISTS:
            raise PlanError(
                f"config.json: quant_method {method!r} cannot say that some tensors are decoded",
                hint="dequantize all of them",
            )
        _add(stated, _LISTS[method], _modules(decoded, coded, hides=method in _PREFIXES))
        _drop(stated, decoded)
    return config


def partly_modelopt(config: Json, decoded: Sequence[str], coded: Sequence[str]) -> Json:
    """The same of ``hf_quant_config.json``."""
    config = copy.deepcopy(config)
    stated = config.get("quantization")
    if isinstance(stated, dict):
        _add(stated, "exclude_modules", _modules(decoded, coded, hides=True))
        _drop(stated, decoded)
    return config


def _add(stated: Json, key: str, modules: Sequence[str]) -> None:
    listed = stated.get(key)
    stated[key] = list(dict.fromkeys([*(listed if isinstance(listed, list) else []), *modules]))


def _drop(stated: Json, decoded: Sequence[str]) -> None:
    layers = stated.get("quantized_layers")
    if isinstance(layers, dict):
        for name in decoded:
            layers.pop(name.removesuffix(".weight"), None)


def _modules(decoded: Sequence[str], coded: Sequence[str], *, hides: bool) -> list[str]:
    modules = [name.removesuffix(".weight") for name in decoded]
    for module in modules if hides else ():
        hidden = next((name for name in coded if name.startswith(module)), None)
        if hidden is not None:
            raise PlanError(
                f"config.json cannot say that {module} is decoded and {hidden} is not: loaders take a name"
                " for the beginning of others",
                hint="dequantize both, or neither",
            )
    return modules
