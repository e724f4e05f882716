"""Markers of layers as a source has them: what they say of a tensor must be understood, all of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ..catalog import Convention
from ..catalog.convention import Marker
from ..codecs.swizzle import Swizzle
from ..core.small_json import object_or_none
from ..core.tensor import LazyTensor
from . import torchao
from .evidence import layers
from .group import Reading

__all__ = ["SourceMarkers"]

_MOST = 1 << 20
"""Bytes of the longest marker that is read."""


class SourceMarkers:
    """The markers of a source, in tensors or in metadata.

    Args:
        table: tensors by name; those that are markers are read.
        metadata: that of the source.
    """

    def __init__(self, table: Mapping[str, LazyTensor], metadata: Mapping[str, str]) -> None:
        self._table = table
        self._layers = layers(metadata)
        self._listed = torchao.listed(metadata)

    def fitting(
        self, readings: Sequence[Reading], convention: Convention
    ) -> tuple[list[Reading], str | None]:
        """The readings of one tensor that its marker allows; or none, and why.

        A consumer that marks layers of a scheme takes those without a marker for plain.
        """
        name = readings[0].name
        if convention.listing is not None:
            return self._as_listed(name, readings, convention)
        templates = {
            marker.name.text: marker
            for one in readings
            for marker in convention.scheme(one.scheme.name).markers
            if marker.everywhere
        }
        if not templates:
            return list(readings), None
        content, where = None, ""
        for marker in templates.values():
            content, where = self._content(name, marker)
            if content is not None:
                break
        own = [(one, convention.scheme(one.scheme.name).markers_for(one.scheme)) for one in readings]
        if content is None:
            unmarked = [one for one, markers in own if not any(marker.everywhere for marker in markers)]
            expected = next(iter(templates.values())).name.spell(name)
            why = f"has no {expected!r}, without which {convention.name} takes it for plain"
            return unmarked, None if unmarked else why
        kept, unknown = [], []
        for one, markers in own:
            for marker in markers:
                wanted = json.loads(marker.data) if marker.dtype == "U8" else {}
                if any(content.get(key, marker.assumed.get(key)) != value for key, value in wanted.items()):
                    continue
                more = [
                    key for key, value in content.items() if key not in wanted and value not in (None, False)
                ]
                more = [key for key in more if key not in marker.silent]
                if more:
                    unknown += more
                elif one not in kept:
                    kept.append(one)
        if kept:
            return kept, None
        if unknown:
            shown = ", ".join(f"{key}={content[key]!r}" for key in dict.fromkeys(unknown))
            return [], f"{where} says {shown}, which transcode does not decode"
        return (
            [],
            f"{where} says {content.get('format', content)!r}, which is not decoded from such parts",
        )

    def _as_listed(
        self, name: str, readings: Sequence[Reading], convention: Convention
    ) -> tuple[list[Reading], str | None]:
        """Those that metadata agrees with which lists all tensors; or none, and why."""
        if (stated := self._listed.get(name)) is None:
            return [], f"its metadata does not list it, without which {convention.name} does not load it"
        faults = [torchao.contradiction(stated, one.scheme, one.spec, tiled=_tiled(one)) for one in readings]
        kept = [one for one, fault in zip(readings, faults, strict=True) if fault is None]
        if kept:
            return kept, None
        return [], f"its metadata says of it that {faults[0]}, which is not decoded from such parts"

    def _content(self, name: str, marker: Marker) -> tuple[dict[str, Any] | None, str]:
        spelled = marker.name.spell(name)
        tensor = self._table.get(spelled)
        where = repr(spelled)
        if tensor is None:
            layer = name.removesuffix(".weight")
            content, where = self._layers.get(layer), f"_quantization_metadata of {layer!r}"
            if content is None:
                return None, where
        else:
            content = _json(tensor) or {}
        nested = content.get("params")
        flat = {key: value for key, value in content.items() if key != "params"}
        return {**flat, **(nested if isinstance(nested, dict) else {})}, where


def _tiled(reading: Reading) -> bool:
    return any(isinstance(codec, Swizzle) for codec in reading.rules["scale"].codecs)


def _json(tensor: LazyTensor) -> dict[str, Any] | None:
    if tensor.spec.nbytes > _MOST:
        return None
    return object_or_none(tensor.numpy().tobytes().rstrip(b"\0"))
