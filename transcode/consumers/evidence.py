"""What a source says of how it is quantized: its record, its config.json, its metadata and its markers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import catalog
from ..catalog.foreign import foreign
from ..core.small_json import object_or_none, read_object
from ..errors import FormatError
from . import record

__all__ = [
    "CONFIG",
    "LAYERS",
    "MODELOPT",
    "Claim",
    "beyond",
    "claims",
    "config_keys",
    "layers",
    "without_claims",
]

CONFIG = "config.json"
MODELOPT = "hf_quant_config.json"
"""Says the same as config.json does, in ModelOpt's own words."""

LAYERS = "_quantization_metadata"
"""Metadata key of ComfyUI: what its markers say, for all layers in one place."""

_CONFIGS = ("quantization_config", "compression_config")
"""Keys of config.json; the second is what early files of compressed-tensors have."""

Json = dict[str, Any]


@dataclass(frozen=True)
class Claim:
    """One statement of a source.

    Attributes:
        said: the words, for errors: ``config.json says quant_method 'gptq'``.
        conventions: those that it may mean; empty where it means none that is known.
        title: what it is called, where no convention is meant.
    """

    said: str
    conventions: frozenset[str]
    title: str = ""


def claims(metadata: Mapping[str, str], side_files: Sequence[Path], names: Iterable[str]) -> list[Claim]:
    """All that is said, the most specific first."""
    found = []
    told = record.stored(metadata)
    if told is not None:
        found.append(Claim(f"the record in its metadata says {told[0]}", frozenset({told[0]})))
    for path in side_files:
        if path.name in (CONFIG, MODELOPT):
            content = read_json(path)
            for where, config in _stated(content, path.name):
                if (claim := _claim(where, config)) is not None:
                    found.append(claim)
            if path.name == MODELOPT and content and "quantization" in content:
                found.append(Claim(f"{MODELOPT} is beside it", _answering("modelopt")))
            if path.name == CONFIG and _is_mlx((content or {}).get("quantization")):
                found.append(Claim(f"{CONFIG} says quantization {{bits, group_size}}", frozenset(), "MLX"))
    for key in _CONFIGS:
        if (stated := object_or_none(metadata.get(key))) and (claim := _claim("its metadata says", stated)):
            found.append(claim)
    if layers(metadata):
        found.append(Claim(f"its metadata has {LAYERS}", frozenset({"comfyui"})))
    return found + _marked(names)


def _is_mlx(stated: object) -> bool:
    return isinstance(stated, dict) and {"bits", "group_size"} <= stated.keys()


def layers(metadata: Mapping[str, str]) -> dict[str, Json]:
    """What ``_quantization_metadata`` says of each layer."""
    stated = object_or_none(metadata.get(LAYERS)) or {}
    found = stated.get("layers")
    if not isinstance(found, dict):
        return {}
    return {name: said for name, said in found.items() if isinstance(said, dict)}


def _marked(names: Iterable[str]) -> list[Claim]:
    found: dict[frozenset[str], str] = {}
    known = [one for one in catalog.every_convention() if any(rule.markers for rule in one.schemes.values())]
    markers = [marker.name for one in known for rule in one.schemes.values() for marker in rule.markers]
    endings = tuple({template.after or template.text for template in markers})
    for name in names:
        if not name.endswith(endings):
            continue
        meant = frozenset(one.name for one in known if one.is_marker(name))
        if meant:
            found.setdefault(meant, name)
    return [
        Claim(f"{name!r} is a marker of {' or '.join(sorted(meant))}", meant) for meant, name in found.items()
    ]


def _claim(where: str, config: Json) -> Claim | None:
    method = config.get("quant_method", config.get("method"))
    if method is None and "quant_algo" in config:
        method = "modelopt"
    if method is None and any(key.startswith(("load_in_", "_load_in_", "bnb_")) for key in config):
        method = "bitsandbytes"
    if not isinstance(method, str):
        return None
    said = f"{where} quant_method {method!r}"
    if meant := _answering(method):
        return Claim(said, meant)
    return Claim(said, frozenset(), foreign().methods.get(method.lower(), method))


def _answering(method: str) -> frozenset[str]:
    """Conventions that are meant by a ``quant_method``."""
    wanted = method.lower().replace("_", "-")
    return frozenset(
        one.name
        for one in catalog.every_convention()
        if any(other.replace("_", "-") == wanted for other in (one.config or "", *one.methods))
    )


def _stated(content: Json | None, file: str) -> Iterator[tuple[str, Json]]:
    """Every ``quantization_config`` of a config, those of its sub-models too."""
    for holder, key in config_keys(content or {}):
        found = holder[key]
        if isinstance(found, dict):
            yield f"{file} says", found


def config_keys(content: Json) -> list[tuple[Json, str]]:
    """Where a config says how tensors are quantized: itself or the config of a sub-model, and the key."""
    holders = [content, *(value for key, value in content.items() if key.endswith("_config"))]
    return [
        (holder, key)
        for holder in holders
        if isinstance(holder, dict)
        for key in _CONFIGS
        if isinstance(holder.get(key), dict)
    ]


def beyond(content: Json) -> str | None:
    """What a config says of values beyond codes and scales, in words; None if nothing.

    compressed-tensors rotates inputs as a model runs (``TransformLocation.is_online`` of its
    ``transform/transform_args.py``), for which weights were rotated before they were rounded; and it leaves
    zeros out (``sparsity_config``). Without these words tensors are not those of the model.
    """
    for holder, key in config_keys(content):
        stated = holder[key]
        for apply in _applied(stated.get("transform_config")):
            if apply.get("location") not in ("weight_input", "weight_output"):
                return f"transform_config with location {apply.get('location')!r}"
        sparsity = stated.get("sparsity_config")
        form = sparsity.get("format") if isinstance(sparsity, dict) else None
        if form not in (None, "dense"):
            return f"sparsity_config with format {form!r}"
    return None


def _applied(transforms: object) -> Iterator[Json]:
    groups = transforms.get("config_groups") if isinstance(transforms, dict) else None
    for group in groups.values() if isinstance(groups, dict) else ():
        listed = group.get("apply") if isinstance(group, dict) else None
        yield from (one for one in listed if isinstance(one, dict)) if isinstance(listed, list) else ()


def without_claims(content: Json) -> Json:
    """A config that says nothing of how tensors are quantized."""
    found = {key: value for key, value in content.items() if key not in _CONFIGS}
    for key, value in found.items():
        if key.endswith("_config") and isinstance(value, dict):
            found[key] = {inner: value[inner] for inner in value if inner not in _CONFIGS}
    return found


def read_json(path: Path) -> Json | None:
    """A JSON object from a file; None where there is none that can be read."""
    try:
        return read_object(path)
    except FormatError:
        return None
