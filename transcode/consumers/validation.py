"""Is the metadata of a checkpoint what a consumer asks for, and is it true of the tensors?"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Literal

from ..catalog.profiles import Key, Profile
from ..core import small_json
from ..core.records import dataclass
from ..core.spec import Spec
from ..errors import FormatError
from .config.svdquant import quantization_config

__all__ = ["Finding", "validate"]

Tensors = Mapping[str, Spec]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong (``error``) or could be better (``warning``) about a metadata key."""

    level: Literal["error", "warning"]
    key: str
    what: str

    def __str__(self) -> str:
        return f"{self.key}: {self.what}" if self.key else self.what


def validate(metadata: Mapping[str, str], tensors: Tensors, profile: Profile | None = None) -> list[Finding]:
    """Findings, errors first.

    With a profile: its keys. In any case: what the metadata says of the tensors must be true of them.
    """
    findings = (
        []
        if profile is None
        else [finding for key in profile.keys.values() for finding in _key(key, metadata)]
    )
    for name, check in _CONSISTENCY.items():
        if name in metadata:
            findings += check(name, metadata, tensors)
    return sorted(dict.fromkeys(findings), key=lambda finding: finding.level)


def _error(key: str, what: str) -> Finding:
    return Finding("error", key, what)


def _key(key: Key, metadata: Mapping[str, str]) -> Iterator[Finding]:
    value = metadata.get(key.name)
    if value is None:
        if key.need == "required" or (key.need == "required-with-metadata" and metadata):
            yield _error(key.name, f"is missing: {key.why}")
        elif key.need == "recommended":
            yield Finding("warning", key.name, f"is missing: {key.why}")
        return
    if key.one_of and value not in key.one_of:
        yield _error(key.name, f"is {value!r:.60}, must be one of {', '.join(key.one_of)}")
    if key.matches is not None and not key.matches.fullmatch(value):
        yield _error(key.name, f"is {value!r:.60}, must look like {key.matches.pattern}")
    if key.json is not None:
        yield from _json(key, value)


def _json(key: Key, value: str) -> Iterator[Finding]:
    try:
        opened = small_json.parse(value)
    except FormatError as error:
        yield _error(key.name, error.what)
        return
    wanted = {"object": dict, "array": list}.get(key.json or "")
    if wanted is not None and not isinstance(opened, wanted):
        yield _error(key.name, f"is a JSON {type(opened).__name__}, must be an {key.json}")
        return
    for path in key.fields:
        at: object = opened
        for part in path.split("."):
            at = at.get(part, _ABSENT) if isinstance(at, dict) else _ABSENT
        if at is _ABSENT:
            yield _error(key.name, f"lacks the field {path!r}")


_ABSENT = object()


def _svdquant(name: str, metadata: Mapping[str, str], tensors: Tensors) -> Iterator[Finding]:
    """``quantization_config`` of SVDQuant checkpoints against dtypes, scale shapes and rank."""
    stored = small_json.object_or_none(metadata[name])
    if stored is None or stored.get("method") != "svdquant" or not tensors:
        return
    true = quantization_config(tensors)
    if true is None:
        yield _error(name, "says svdquant, but no tensor is quantized that way (none ends in .qweight)")
        return
    for part in ("weight", "activation"):
        stated = stored.get(part)
        if not isinstance(stated, dict):
            continue
        for field in ("dtype", "scale_dtype", "group_size"):
            if field in stated and stated[field] != true[part][field]:
                yield _error(
                    name,
                    f"{part}.{field} is {json.dumps(stated[field])}, "
                    f"the tensors are {json.dumps(true[part][field])}",
                )
    if "rank" in stored and stored["rank"] != true["rank"]:
        yield _error(name, f"rank is {json.dumps(stored['rank'])}, the low-rank tensors have {true['rank']}")
    yield from _group_sizes(name, true["weight"]["group_size"], tensors)


def _group_sizes(name: str, group: int, tensors: Tensors) -> Iterator[Finding]:
    """Codes are ``[N, K/2]``, scales ``[K/group, N]``: shapes tell the group size too."""
    for tensor, spec in tensors.items():
        if not tensor.endswith(".qweight") or len(spec.shape) != 2:
            continue
        scales = tensors.get(tensor.removesuffix("qweight") + "wscales")
        if scales is not None and len(scales.shape) == 2 and scales.shape[0]:
            size = 2 * spec.shape[1] / scales.shape[0]
            if spec.dtype.name in ("I8", "U8") and size != group:
                yield _error(name, f"{tensor} has groups of {size:g}, its precision has groups of {group}")
                return


_COMFY_DTYPES = {
    "float8_e4m3fn": ("F8_E4M3",),
    "float8_e5m2": ("F8_E5M2",),
    "mxfp8": ("F8_E4M3", "U8"),
    "nvfp4": ("U8",),
    "int8_tensorwise": ("I8",),
    "asym_w4a8_int8": ("I8",),
    "convrot_w4a4": ("I8",),
    "awq_w4a16": ("I8",),
}


def _comfy(name: str, metadata: Mapping[str, str], tensors: Tensors) -> Iterator[Finding]:
    """``_quantization_metadata``: every layer it names must exist, with codes of its format's dtype."""
    stored = small_json.object_or_none(metadata[name])
    layers = None if stored is None else stored.get("layers")
    if not isinstance(layers, dict) or not tensors:
        return
    for layer, stated in layers.items():
        weight = tensors.get(f"{layer}.weight")
        if weight is None:
            yield _error(name, f"names the layer {layer!r}, which has no weight")
            continue
        form = stated.get("format") if isinstance(stated, dict) else None
        allowed = _COMFY_DTYPES.get(form) if isinstance(form, str) else None
        if allowed is not None and weight.dtype.name not in allowed:
            yield _error(name, f"says {form} of {layer!r}, whose weight is {weight.dtype}")


_CONSISTENCY: dict[str, Callable[[str, Mapping[str, str], Tensors], Iterator[Finding]]] = {
    "quantization_config": _svdquant,
    "_quantization_metadata": _comfy,
}
