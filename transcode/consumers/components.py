"""The models of an all-in-one file as a folder of files, and that folder as one source again.

A file of one component says in its metadata what stood before its names (:data:`PREFIX`). What has no such
word, as the folders that Diffusers saves, gets the prefix that ComfyUI gives such a component.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from ..catalog.components import OTHER, component_table
from ..containers.checkpoint import Source
from ..containers.joined import join_sources
from ..containers.source import open_place
from ..core import small_json
from ..errors import FormatError
from ..io.folder import File
from ..io.named import locate
from .evidence import LAYERS

__all__ = ["PREFIX", "layers_below", "open_components", "own_metadata"]

PREFIX = "component_prefix"
"""Metadata key of a component's file."""


def own_metadata(metadata: Mapping[str, str], prefix: str) -> dict[str, str]:
    """What of the metadata of an all-in-one file holds for one component, and its prefix.

    Args:
        prefix: what is taken off its names.
    """
    own = {**metadata, PREFIX: prefix}
    layers = layers_below(metadata.get(LAYERS), prefix)
    own.pop(LAYERS, None)
    return own if layers is None else {**own, LAYERS: layers}


def layers_below(text: str | None, prefix: str) -> str | None:
    """Metadata that speaks of layers, of those below a prefix alone, without it; None where it names none."""
    stated = small_json.object_or_none(text) or {}
    layers = stated.get("layers")
    if not isinstance(layers, dict):
        return text
    below = {name.removeprefix(prefix): said for name, said in layers.items() if name.startswith(prefix)}
    return small_json.spell({**stated, "layers": below}) if below else None


def open_components(path: str, *, mmap: bool = True, drop_cache: bool = False) -> Source:
    """The models in the subfolders of a folder as one source, under names with their prefixes.

    Raises:
        FormatError: there are not two of them, one is damaged, or nobody knows what to put before the names
            of one.
    """
    place = locate(path)
    if isinstance(place, File):
        raise FormatError("is no folder", file=path, hint="name the folder that holds the components")
    sources: list[Source] = []
    layers: dict[str, object] = {}
    for inner in place.folders():
        if not any(file.suffix in (".safetensors", ".bin", ".pt", ".pth") for file in inner.files()):
            continue
        source = open_place(inner, mmap=mmap, drop_cache=drop_cache)
        said = source.metadata.get(PREFIX)
        prefix = _usual(inner.name, path) if said is None else said
        stated = small_json.object_or_none(source.metadata.get(LAYERS)) or {}
        named = stated.get("layers")
        if isinstance(named, dict):
            layers |= {f"{prefix}{name}": said_of for name, said_of in named.items()}
        sources.append(_below(source, prefix))
    if len(sources) < 2:
        raise FormatError("holds no two folders with weights", file=path, hint="is it one that split made?")
    whole = join_sources(sources)
    metadata = {key: value for key, value in whole.metadata.items() if key not in (PREFIX, LAYERS)}
    if layers:
        metadata[LAYERS] = small_json.spell({"format_version": "1.0", "layers": layers})
    notes = tuple(note for note in whole.notes if repr(PREFIX) not in note and repr(LAYERS) not in note)
    return replace(whole, path=Path(path), side_files=(), stem="model", metadata=metadata, notes=notes)


def _below(source: Source, prefix: str) -> Source:
    """The same, with names that begin with a prefix."""
    tensors = tuple(
        tensor.evolve(name=f"{prefix}{tensor.name}", source=f"{prefix}{tensor.name}")
        for tensor in source.tensors
    )
    return replace(source, tensors=tensors)


def _usual(folder: str, path: str) -> str:
    """The prefix of the component that a folder of Diffusers' layout holds.

    Raises:
        FormatError: there is none, or which one it is depends on the pipeline.
    """
    for name, entry in component_table().entries.items():
        if folder in (name, entry.folder, *entry.names) and name != OTHER and folder != "text_encoder":
            return entry.prefixes[0]
    raise FormatError(
        f"{folder}/ does not say what stood before its names", file=path,
        hint=f"put it into its metadata: transcode meta set {folder}/model.safetensors"
        f" {PREFIX}=text_encoders.clip_l.transformer.",
    )  # fmt: skip
