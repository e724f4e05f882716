"""``quant_method: compressed-tensors``, which vLLM, SGLang and transformers read.

Source: ``quant_config.py``, ``quant_args.py``, ``quant_scheme.py`` in ``quantization`` of
vllm-project/compressed-tensors.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from ... import catalog
from ...core.planning import Planning
from ...core.tensor import LazyTensor
from .dialect import Dialect, Statement, Unsayable, calibrated, e4m3_only
from .layers import Layers
from .stated import KEY, Json

__all__ = ["CompressedTensors", "weights_of_groups"]


class CompressedTensors(Dialect):
    """Groups of layers that are quantized alike, and a list of those that are not."""

    method = "compressed-tensors"
    schemes = ("int8", "int4", "fp8", "mxfp8", "mxfp4", "nvfp4")
    unquantized = "ignore"
    by_prefix = False

    def state(self, layers: Layers, planning: Planning) -> Statement:
        """See :meth:`.dialect.Dialect.state`."""
        members: dict[str, list[str]] = {}
        for module, tensor in layers.quantized.items():
            members.setdefault(json.dumps(_group(tensor)), []).append(module)
        # All linear layers are of the largest group but those that are named: names go before types of
        # modules.
        ranked = sorted(members, key=lambda text: -len(members[text]))
        groups: dict[str, Json] = {}
        for number, text in enumerate(ranked):
            targets = sorted(members[text]) if number else ["Linear"]
            groups[f"group_{number}"] = {"targets": targets, **json.loads(text)}
        formats = {group["format"] for group in groups.values()}
        if formats != {"float-quantized"} and any(catalog.experts_of(f"{one}.") for one in layers.kept):
            # Its conversion of experts looks for codes alone: integrations/compressed_tensors.py.
            planning.warn(
                f"{KEY}: experts that are kept beside {' and '.join(sorted(formats))} layers are read by"
                " vLLM, not by transformers 5"
            )
        return Statement(
            {
                "quant_method": self.method,
                "format": formats.pop() if len(formats) == 1 else "mixed-precision",
                "quantization_status": "compressed",
                "config_groups": groups,
                "ignore": list(layers.kept),
                "kv_cache_scheme": None,
                "global_compression_ratio": None,
            }
        )

    def options(self, statement: Json) -> Iterator[Mapping[str, Any]]:
        """See :meth:`.dialect.Dialect.options`: those of each group."""
        return weights_of_groups(statement)

    def beyond_codes(self, statement: Json) -> str | None:
        """See :meth:`.dialect.Dialect.beyond_codes`.

        compressed-tensors rotates inputs as a model runs (``TransformLocation.is_online`` of its
        ``transform/transform_args.py``), for which weights were rotated before they were rounded; and it
        leaves zeros out (``sparsity_config``). Without these words tensors are not those of the model.
        """
        for apply in _transforms(statement.get("transform_config")):
            if apply.get("location") not in ("weight_input", "weight_output"):
                return f"transform_config with location {apply.get('location')!r}"
        sparsity = statement.get("sparsity_config")
        form = sparsity.get("format") if isinstance(sparsity, dict) else None
        return None if form in (None, "dense") else f"sparsity_config with format {form!r}"


def weights_of_groups(statement: Json) -> Iterator[Json]:
    """``weights`` of each of a statement's ``config_groups``."""
    groups = statement.get("config_groups")
    for group in groups.values() if isinstance(groups, dict) else ():
        weights = group.get("weights") if isinstance(group, dict) else None
        if isinstance(weights, dict):
            yield weights


def _transforms(config: object) -> Iterator[Json]:
    groups = config.get("config_groups") if isinstance(config, dict) else None
    for group in groups.values() if isinstance(groups, dict) else ():
        listed = group.get("apply") if isinstance(group, dict) else None
        yield from (one for one in listed if isinstance(one, dict)) if isinstance(listed, list) else ()


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
            e4m3_only(scheme, CompressedTensors.method)
            form = "float-quantized"
            if scheme.granularity == "block":
                weights = _args(8, "float", "block", block=list(scheme.block))
                inputs = _args(8, "float", "group", scheme.block[1], dynamic=True)
            else:
                weights = _args(8, "float", scheme.granularity)
                inputs = _args(8, "float", "token", dynamic=True)
        case "mxfp8":
            e4m3_only(scheme, CompressedTensors.method)
            form = "mxfp8-quantized"
            weights = _args(8, "float", "group", 32, scale="torch.uint8")
        case "mxfp4":
            form = "mxfp4-pack-quantized"
            weights = _args(4, "float", "group", 32, scale="torch.uint8")
        case "nvfp4":
            form = "nvfp4-pack-quantized"
            e4m3 = "torch.float8_e4m3fn"
            weights = _args(4, "float", "tensor_group", 16, scale=e4m3)
            if calibrated(tensor):
                inputs = _args(4, "float", "tensor_group", 16, scale=e4m3, dynamic="local")
        case name:
            raise Unsayable(f"{CompressedTensors.method} knows no {name}")
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
    args: Json = {
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
        args |= {"scale_dtype": scale, "zp_dtype": scale}
    return args
