"""The models of an all-in-one file as a folder of files, and that folder as one source again.

A file of one component says in its metadata what stood before its names (:data:`PREFIX`), and how these were
spelled where that was changed (:data:`SPELLING`). What has no such word, as the folders that Diffusers saves,
gets the prefix, and the spelling, that ComfyUI gives such a component.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

from .. import catalog
from ..catalog.components import component_table
from ..catalog.pipelines import Part
from ..catalog.twins import pairs_of
from ..containers.checkpoint import Source
from ..containers.joined import join_sources
from ..containers.source import open_place
from ..core import small_json
from ..errors import FormatError
from ..io.folder import File
from ..io.named import locate
from ..voice import called
from . import torchao
from .evidence import LAYERS
from .pipelines import pipeline_of

__all__ = [
    "PREFIX", "SPELLINGS", "layers_below", "meant", "open_components", "own_metadata", "serves",
    "spellings_of",
]  # fmt: skip

PREFIX = "component_prefix"
"""Metadata key of a component's file."""

SPELLING, SPELLINGS = "component_spelling", "component_spellings"
"""Metadata keys: how the names of a component's file were spelled in the all-in-one file, and the same of all
components of a file, by prefix, as JSON."""


_MEANT = {"diffusers": ("diffusers", "transformers"), "original": ("original", "comfyui", "lightx2v")}
"""What is asked for -> the spellings that mean it, the first that a family has: text encoders of pipelines of
Diffusers are spelled as transformers does, and some families have their own names from who else uses them."""


def meant(to: str, family: catalog.Family) -> str | None:
    """The spelling of a component's family that is meant; None where it has no such one, or no way to it."""
    reachable = {family.spelling, *family.converts_to()}
    return next((one for one in _MEANT.get(to, (to,)) if one in reachable), None)


def spellings_of(metadata: Mapping[str, str]) -> dict[str, str]:
    """How the components of a file were spelled before, by prefix, as far as its metadata say so."""
    stated = small_json.object_or_none(metadata.get(SPELLINGS)) or {}
    return {prefix: said for prefix, said in stated.items() if isinstance(said, str)}


def own_metadata(metadata: Mapping[str, str], prefix: str) -> dict[str, str]:
    """What of the metadata of an all-in-one file holds for one component, and its prefix.

    Args:
        prefix: what is taken off its names.
    """
    own = {**torchao.below(metadata, prefix), PREFIX: prefix}
    spelled = spellings_of(metadata).get(prefix)
    own.pop(SPELLINGS, None)
    if spelled is not None:
        own[SPELLING] = spelled
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
    spelled: dict[str, str] = {}
    changes = False
    bare: list[str] = []
    pipeline = pipeline_of(place)
    folders = place.folders()
    _refuse_pair([inner.name for inner in folders], path)
    for inner in folders:
        if not any(file.suffix in (".safetensors", ".bin", ".pt", ".pth") for file in inner.files()):
            if component_table().holds(inner.name):
                raise FormatError(
                    f"{inner.name}/ holds no weights that go into one file", file=path,
                    hint="is the download complete? to do without that model, take its folder out",
                )  # fmt: skip
            bare.append(f"{inner.name}/")
            continue
        source = open_place(inner, mmap=mmap, drop_cache=drop_cache)
        family = catalog.detect([tensor.name for tensor in source.tensors])
        parts = {} if pipeline is None else pipeline.parts
        prefix, before = _placed(inner.name, source, family, parts, path)
        if family is not None:
            spelled[prefix] = before or family.spelling
            changes = changes or spelled[prefix] != family.spelling
        stated = small_json.object_or_none(source.metadata.get(LAYERS)) or {}
        named = stated.get("layers")
        if isinstance(named, dict):
            layers |= {f"{prefix}{name}": said_of for name, said_of in named.items()}
        sources.append(_below(source, prefix))
    if len(sources) < 2:
        raise FormatError("holds no two folders with weights", file=path, hint="is it one that split made?")
    whole = join_sources(sources)
    ours = (PREFIX, SPELLING, LAYERS)
    metadata = {key: value for key, value in whole.metadata.items() if key not in ours}
    if changes:
        metadata[SPELLINGS] = small_json.spell(spelled)
    if layers:
        metadata[LAYERS] = small_json.spell({"format_version": "1.0", "layers": layers})
    notes = tuple(note for note in whole.notes if not any(repr(key) in note for key in ours))
    if bare:
        notes += (f"{', '.join(bare)} left out: no weights are in there, and one file holds weights alone",)
    return replace(whole, path=Path(path), side_files=(), stem="model", metadata=metadata, notes=notes)


def _placed(
    folder: str, source: Source, family: catalog.Family | None, parts: Mapping[str, Part], path: str
) -> tuple[str, str | None]:
    """What goes before the names of a component, and how they are to be spelled; None for as they are.

    Args:
        parts: of the pipeline that the folder of it says it is of.
    """
    if (said := source.metadata.get(PREFIX)) is not None:
        return said, source.metadata.get(SPELLING)
    usual = parts.get(folder)
    prefix = _usual(folder, path) if usual is None or usual.prefix is None else usual.prefix
    if usual is not None and usual.spelling is not None:
        return prefix, usual.spelling
    if family is None or serves(folder):
        return prefix, None
    return prefix, meant("original", family)


def serves(folder: str) -> bool:
    """Whether a component's folder is that of a text encoder, of which files have transformers' own names."""
    return folder.startswith("text_encoder")


def _refuse_pair(folders: Collection[str], path: str) -> None:
    """Refuse two denoisers, which no program takes from one file."""
    for pair in pairs_of(folders):
        high, low = pair["high"], pair["low"]
        raise FormatError(
            f"{high}/ and {low}/ are two models that take turns, of which programs load a file each",
            file=path,
            hint=f"`transcode run` converts both into a folder ({called('convention', 'comfyui')})",
        )


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
        if folder in (name, entry.folder, *entry.names) and not folder.startswith("text_encoder"):
            return entry.usual
    raise FormatError(
        f"{folder}/ does not say what stood before its names", file=path,
        hint=f"put it into its metadata: transcode meta set {folder}/model.safetensors"
        f" {PREFIX}=text_encoders.clip_l.transformer.",
    )  # fmt: skip
