"""``quant_method: compressed-tensors``, which vLLM, SGLang and transformers read.

Source: ``quant_config.py``, ``quant_args.py``, ``quant_scheme.py`` in ``quantization`` of
vllm-project/compressed-tensors.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from ... import catalog
from ...core.planning import Planning
from .cache import CACHE
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
    covering = True
    caches = True

    def state(self, layers: Layers, planning: Planning) -> Statement:
        """See :meth:`.dialect.Dialect.state`."""
        members: dict[str, list[str]] = {}
        known: dict[object, list[str]] = {}  # schemes that are said alike are not all equal
        for module, tensor in layers.quantized.items():
            kind = tensor.scheme, calibrated(tensor)
            if kind not in known:
                known[kind] = members.setdefault(json.dumps(_group(tensor.scheme, calibrated=kind[1])), [])
            known[kind].append(module)
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
                CACHE: None,
                "global_compression_ratio": None,
            }
        )

    def with_cache(self, statement: Statement) -> Statement:
        """See :meth:`.dialect.Dialect.with_cache`."""
        return replace(statement, config={**statement.config, CACHE: _args(8, "float", "tensor")})

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

    def covers(self, statement: Json, module: str) -> bool | None:
        """See :meth:`.dialect.Dialect.covers`; ``utils/match.py`` of compressed-tensors."""
        if any(_matches(module, target) for target in _texts(statement.get("ignore"))):
            return False
        targets = [target for group in _groups(statement) for target in _texts(group.get("targets"))]
        if any(target == _LINEAR or _matches(module, target) for target in targets):
            return True
        return None if any(_is_class(target) for target in targets) else False

    def contradicts(self, statement: Json, module: str, scheme: Any) -> str | None:
        """See :meth:`.dialect.Dialect.contradicts`: by the group that names it, else that of its type."""
        groups = list(_groups(statement))
        named = (
            one for one in groups if any(_matches(module, target) for target in _texts(one.get("targets")))
        )
        typed = (one for one in groups if _LINEAR in _texts(one.get("targets")))
        group = next(named, None) or next(typed, None)
        weights = None if group is None else group.get("weights")
        if group is None or not isinstance(weights, dict):
            return None if group is None else "nothing of its weights"
        try:
            meant = _group(scheme, calibrated=False)
        except Unsayable as error:
            return f"another scheme ({error})"
        stated = _DEFAULTS | {key: value for key, value in weights.items() if value is not None}
        if stated.get("strategy") is None:  # validate_model_after of quant_args.py
            size = stated.get("group_size")
            stated["strategy"] = "tensor" if size is None else "channel" if size == -1 else "group"
        for key in ("num_bits", "type", "symmetric", "strategy", "group_size"):
            if meant["weights"][key] is not None and stated.get(key) != meant["weights"][key]:
                return f"{key} {stated.get(key)!r:.40}"
        form = group.get("format") or None
        return (
            None
            if form in (None, meant["format"], *_SAME_CODES.get(meant["format"], ()))
            else f"format {form!r}"
        )

    def denies(self, statement: Json, scheme: Any) -> str | None:
        """See :meth:`.dialect.Dialect.denies`: by number and kind of bits in all groups."""
        try:
            meant = _group(scheme, calibrated=False)["weights"]
        except Unsayable:
            return None
        stated = [
            tuple(_DEFAULTS[key] if weights.get(key) is None else weights[key] for key in _NUMBERS)
            for group in _groups(statement)
            if isinstance(weights := group.get("weights"), dict)
        ]
        if not stated or (meant["num_bits"], meant["type"]) in stated:
            return None
        return "num_bits {} and type {!r:.20}".format(*stated[0])


_LINEAR = "Linear"

_DEFAULTS: Json = {"num_bits": 8, "type": "int", "symmetric": True}
"""Of ``QuantizationArgs``."""

_NUMBERS = ("num_bits", "type")

_SAME_CODES = {
    "int-quantized": ("naive-quantized",),
    "naive-quantized": ("int-quantized",),
    "float-quantized": ("naive-quantized",),
}
"""Formats that store the same tensors."""


def _texts(listed: object) -> list[str]:
    return [one for one in listed if isinstance(one, str)] if isinstance(listed, list) else []


def _groups(statement: Json) -> Iterator[Json]:
    groups = statement.get("config_groups")
    yield from (one for one in groups.values() if isinstance(one, dict)) if isinstance(groups, dict) else ()


def _matches(module: str, target: str) -> bool:
    """Whether a target is the name of a module, or ``re:`` and a regular expression for its beginning."""
    if not target.startswith("re:"):
        return target == module
    try:
        return re.match(target[3:], module) is not None
    except re.error:
        return False


def _is_class(target: str) -> bool:
    return not target.startswith("re:") and target[:1].isupper()


def weights_of_groups(statement: Json) -> Iterator[Json]:
    """``weights`` of each of a statement's ``config_groups``."""
    for group in _groups(statement):
        if isinstance(weights := group.get("weights"), dict):
            yield weights


def _transforms(config: object) -> Iterator[Json]:
    groups = config.get("config_groups") if isinstance(config, dict) else None
    for group in groups.values() if isinstance(groups, dict) else ():
        listed = group.get("apply") if isinstance(group, dict) else None
        yield from (one for one in listed if isinstance(one, dict)) if isinstance(listed, list) else ()


def _group(scheme: Any, *, calibrated: bool) -> Json:
    """One entry of ``config_groups``, without its targets."""
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
            if calibrated:
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
