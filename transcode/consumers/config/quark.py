"""``quant_method: quark``, which AMD's Quark, transformers, vLLM and SGLang read.

Source: ``QConfig.to_dict`` and ``QTensorConfig`` of ``quark/torch/quantization/config/config.py``,
amd-quark 0.13.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from ...core.planning import Planning
from .dialect import Dialect, Statement, Unsayable, e4m3_only
from .layers import Layers
from .stated import Json

__all__ = ["Quark"]

_GLOBAL, _LAYERS, _ALGORITHMS = "global_quant_config", "layer_quant_config", "algo_config"
_KINDS = "layer_type_quant_config"
_TURNING = ("rotation", "quarot")
"""Algorithms after which inputs may have to be turned, too."""

_BITS = {"fp8_e4m3": 8, "int8": 8, "uint8": 8, "int4": 4, "uint4": 4, "fp4": 4}


class Quark(Dialect):
    """A specification of weights and inputs for all layers, and others for those that are named."""

    method = "quark"
    schemes: ClassVar[tuple[str, ...]] = ("fp8", "int8", "mxfp4")
    unquantized = "exclude"
    by_prefix = False
    telling: ClassVar[tuple[str, ...]] = (_GLOBAL,)

    def state(self, layers: Layers, planning: Planning) -> Statement:
        """See :meth:`.dialect.Dialect.state`."""
        kinds = {module: _kind(module, tensor.scheme) for module, tensor in layers.quantized.items()}
        (most, _), *_ = Counter(kinds.values()).most_common(1)
        others = {module: _layer(*kind) for module, kind in sorted(kinds.items()) if kind != most}
        return Statement(
            {
                "quant_method": self.method,
                _GLOBAL: _layer(*most),
                _LAYERS: others,
                _KINDS: {},
                "kv_cache_quant_config": {},
                "kv_cache_post_rope": False,
                "softmax_quant_spec": None,
                _ALGORITHMS: None,
                "quant_mode": "eager_mode",
                "version": "0.13",
                self.unquantized: list(layers.kept),
                "export": {
                    "kv_cache_group": [],
                    "min_kv_scale": 0.0,
                    "pack_method": "reorder",
                    "weight_format": "real_quantized",
                    "weight_merge_groups": None,
                },
            }
        )

    def options(self, statement: Json) -> Iterator[Mapping[str, Any]]:
        """See :meth:`.dialect.Dialect.options`: those of all layers, and of each that is named."""
        for weight in _weights(statement):
            if weight.get("dtype") in _BITS:
                bits, size = _BITS[weight["dtype"]], weight.get("group_size")
                yield {"num_bits": bits, "group_size": size, "symmetric": weight.get("symmetric")}

    def denies(self, statement: Json, scheme: Any) -> str | None:
        """See :meth:`.dialect.Dialect.denies`."""
        stated = dict.fromkeys(str(one["dtype"]) for one in _weights(statement) if "dtype" in one)
        fits = not stated or stated.keys() & _called(scheme)
        return None if fits else f"dtype {' and '.join(stated)!r:.60}"

    def beyond_codes(self, statement: Json) -> str | None:
        """See :meth:`.dialect.Dialect.beyond_codes`: turned weights."""
        stated = statement.get(_ALGORITHMS)
        for one in stated if isinstance(stated, list) else (stated,):
            if isinstance(one, dict) and one.get("name") in _TURNING:
                return f"{_ALGORITHMS} {one['name']!r}"
        return None

    def leave_out(self, statement: Json, decoded: Sequence[str], coded: Sequence[str]) -> None:
        """See :meth:`.dialect.Dialect.leave_out`."""
        super().leave_out(statement, decoded, coded)
        if isinstance(layers := statement.get(_LAYERS), dict):
            for name in decoded:
                layers.pop(name.removesuffix(".weight"), None)


def _weights(statement: Json) -> Iterator[Json]:
    """What is said of weights: of all layers, of each kind of them, and of each that is named."""
    groups = [statement.get(key) for key in (_LAYERS, _KINDS)]
    named = (one for group in groups if isinstance(group, dict) for one in group.values())
    for one in (statement.get(_GLOBAL), *named):
        weight = one.get("weight") if isinstance(one, dict) else None
        if isinstance(weight, dict):
            yield weight


def _called(scheme: Any) -> set[str]:
    """Quark's names of such codes."""
    match scheme.name:
        case "fp8":
            return {"fp8_e4m3" if scheme.format == "e4m3fn" else "fp8_e5m2"}
        case "mxfp4":
            return {"fp4", "mx", "mxfp4"}
    return {scheme.name, f"u{scheme.name}"}


def _kind(module: str, scheme: Any) -> tuple[str, str, bool]:
    """Quark's name of the numbers of a layer, of what shares a scale, and whether there is no zero point."""
    match scheme.name:
        case "fp8":
            e4m3_only(scheme, Quark.method)
            return "fp8_e4m3", f"per_{scheme.granularity}", True
        case "int8":
            return "int8", f"per_{scheme.granularity}", scheme.symmetric
        case "mxfp4":
            return "fp4", "per_group", True
    raise Unsayable(f"quant_method quark knows {', '.join(Quark.schemes)}, {module} is {scheme.name}")


def _layer(dtype: str, sharing: str, symmetric: bool) -> Json:
    """The specification of a layer: inputs of floats are quantized as they come, of integers not at all."""
    group = 32 if dtype == "fp4" else None
    inputs = None
    if dtype != "int8":
        # One scale to a token, which Quark calls a channel, whatever those of the weights are.
        by, along = ("per_group", -1) if group else ("per_channel", 1)
        inputs = _spec(dtype, by, group, along, symmetric, dynamic=True)
    axis = {"per_group": -1, "per_channel": 0}.get(sharing)
    return {
        "weight": _spec(dtype, sharing, group, axis, symmetric, dynamic=False),
        "input_tensors": inputs,
        "output_tensors": None,
        "bias": None,
        "target_device": None,
    }


def _spec(
    dtype: str, sharing: str, group: int | None, axis: int | None, symmetric: bool, *, dynamic: bool
) -> Json:
    blocks = group is not None
    return {
        "dtype": dtype,
        "is_dynamic": dynamic,
        "qscheme": sharing,
        "ch_axis": axis,
        "group_size": group,
        "symmetric": None if blocks else symmetric,
        "round_method": "half_even",
        "scale_type": "float",
        "scale_format": "e8m0" if blocks else None,
        "scale_calculation_mode": "even" if blocks else None,
        "zero_point_type": "int32",
        "mx_element_dtype": None,
        "observer_cls": "PerBlockMXObserver" if blocks else _OBSERVERS[sharing],
        "is_scale_quant": False,
    }


_OBSERVERS = {"per_tensor": "PerTensorMinMaxObserver", "per_channel": "PerChannelMinMaxObserver"}
