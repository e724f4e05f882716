"""Which files a path stands for: one file, the shards of an index, a folder, a Diffusers folder."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import field, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from ..catalog.twins import pairs_of
from ..core import small_json
from ..core.paths import located
from ..core.records import dataclass
from ..core.types import JsonObject
from ..errors import FormatError, NoWeights
from ..io.folder import File
from ..io.names import refused
from . import foreign, modelsets, table
from .ranks import check_parts, check_rank_folders, is_optimizer, is_part_of_run

if TYPE_CHECKING:
    from ..io.folder import Folder
    from .container import Container

__all__ = ["WEIGHTS", "WeightFiles", "discover", "pair_in", "read_json", "side_files"]

WEIGHTS = foreign.SUFFIXES | {suffix for kind in table.FILES for suffix in kind.suffixes}
"""Suffixes of files that hold weights; they never come along as side files."""

MAX_SIDE_FILE = 64 << 20
"""Bytes; larger files beside the weights are not taken for side files. The largest tokenizers have half."""

_PARTIAL = (".incomplete", ".part", ".partial", ".crdownload", ".aria2")
_TRAINING = r"(training_args|optimizer|scheduler|scaler|rng_state.*|random_states.*|trainer_state)$"
_COMPONENTS = ("transformer", "unet", "transformer_2")

_SIDE_SUFFIXES = frozenset({
    ".json", ".txt", ".model", ".jinja", ".jinja2", ".py", ".md", ".yaml", ".yml", ".vocab", ".bpe", ".spm",
    ".tiktoken",
})  # fmt: skip
_SIDE_NAMES = ("tokenizer", "merges", "vocab", "license", "notice", "readme", "use_policy", "copying")


@dataclass(frozen=True, slots=True)
class WeightFiles:
    """The weight files of a source, sorted by name, and what their folder says about them.

    Attributes:
        files: one or more, all of one format.
        stem: prefix for the names of output files.
        folder: where side files lie; None when files that happen to lie there need not belong to the weights.
        index: the index file that listed them.
        weight_map: tensor name to file name, as the index says.
        total_size: what the index claims, in bytes of tensors.
        notes: what a user should know of how they were found.
    """

    files: tuple[File, ...]
    stem: str
    folder: Folder | None
    index: File | None = None
    weight_map: Mapping[str, str] = field(default_factory=dict)
    total_size: int | None = None
    notes: tuple[str, ...] = ()


def discover(place: File | Folder) -> WeightFiles:
    """Find the weights that a folder or a file stands for, without opening them.

    Raises:
        FormatError: there are none, or it is not clear which are meant.
    """
    if not isinstance(place, File):
        return _folder(place)
    if _is_index(place.name):
        return _indexed(place)
    if place.suffix == ".json":
        raise FormatError("is JSON but not named like an index (*.safetensors.index.json)", file=place.url)
    return _single(place)


def _single(file: File) -> WeightFiles:
    files = file.folder.files()
    check_parts(file, [file], files)
    others = [p for p in files if p.name != file.name and p.suffix in WEIGHTS]
    shard = modelsets.shard(file.stem)
    notes = [f"{file.name} is one of {int(shard['count'])} shards; only this one is read"] if shard else []
    # A lone file may lie among strangers (a downloads folder): a config beside it is its own if there are no
    # other weights, or if its name is the one that loaders look for.
    own_config = file.folder.size("config.json") is not None
    if own_config and (shard or (others and not modelsets.is_standard(file))):
        own_config = False
        notes.append(
            f"config.json and what else lies beside {file.name} is not taken along: other weights lie there"
        )
    return WeightFiles((file,), file.stem, file.folder if own_config else None, notes=tuple(notes))


def _is_index(name: str) -> bool:
    return modelsets.index(name) is not None


def _below(folder: Folder) -> list[str]:
    """The folders in a folder that hold weights, with a slash."""
    return [
        f"{inner.name}/"
        for inner in folder.folders()
        if any(_is_weights(p) or is_part_of_run(p) for p in inner.files())
    ]


def _is_weights(file: File) -> bool:
    return table.of_name(file.name) is not None


def _folder(folder: Folder) -> WeightFiles:
    files = folder.files()
    component = _component(folder)
    weights = [p for p in files if _is_weights(p)]
    if component is not None and (not weights or folder.exists("model_index.json")):
        notes = [f"reads {component.name}/ of the Diffusers folder {folder.url}"]
        if weights:
            notes.append(f"does not read {modelsets.names_of(weights)} beside {component.name}/")
        chosen = _folder(component)
        return replace(chosen, notes=(*notes, *chosen.notes))
    _check_whole(folder, files)
    below = _below(folder)
    kinds = [(kind, *_of_kind(kind, files)) for kind in table.FILES]
    for number, (kind, weights, indexes) in enumerate(kinds):
        if kind.loose:
            check_parts(folder, [p for p in files if p.suffix == ".distcp"], files)
            check_rank_folders(folder, below)
            if not weights:
                check_parts(folder, [p for p in files if is_optimizer(p)], files)
        if weights or indexes:
            chosen = _one_kind(folder, weights, indexes, below)
            for _, others, _ in kinds[number + 1 :]:
                if others:
                    note = f"does not read {modelsets.names_of(others)} beside {kind.name}"
                    chosen = replace(chosen, notes=(*chosen.notes, note))
            return chosen
    if below:
        raise NoWeights(
            f"holds weights in {', '.join(below)}",
            file=folder.url,
            hint=_which([name.rstrip("/") for name in below]),
        )
    other = [p for p in files if p.suffix in WEIGHTS]
    if other:
        raise FormatError(
            f"holds {modelsets.names_of(other)}, which transcode does not read", file=folder.url,
            hint=f"it reads {table.listed(table.FILES, 'and')}",
        )  # fmt: skip
    raise NoWeights(f"no weights found: no {table.listed(table.FILES, 'or')} file in it", file=folder.url)


def _check_whole(folder: Folder, files: list[File]) -> None:
    """Refuse a folder of which something has not arrived yet."""
    for p in files:
        if p.suffix in _PARTIAL or (p.suffix == ".lock" and not folder.exists(p.stem)):
            if p.name.removesuffix(p.suffix).endswith((*WEIGHTS, ".json")) or p.suffix == ".incomplete":
                raise FormatError(
                    "is a download in progress or broken off", file=p.url, hint="finish the download"
                )
        elif (target := folder.dangling(p.name)) is not None:
            raise FormatError(
                f"is a link to {target}, which does not exist",
                file=p.url,
                hint="is the download complete?",
            )


def _of_kind(kind: Container, files: list[File]) -> tuple[list[File], list[File]]:
    """The weights of a format in a folder, and the indexes of such."""
    weights = [p for p in files if p.name.endswith(kind.suffixes)]
    if kind.loose:
        weights = [p for p in weights if not re.match(_TRAINING, p.stem) and not is_optimizer(p)]
    indexes = [p for p in files if (match := modelsets.index(p.name)) and match["suffix"] == kind.indexed]
    return weights, indexes


def _component(folder: Folder) -> Folder | None:
    """The denoiser's folder of a Diffusers pipeline."""
    held = []
    for name in _COMPONENTS:
        inner = folder.inner(name)
        if inner is not None and any(map(_is_weights, inner.files())):
            held.append(inner)
    if len(held) > 1:
        names = " and ".join(f"{p.name}/" for p in held)
        raise NoWeights(f"holds weights in {names}", file=folder.url, hint=_which([p.name for p in held]))
    return held[0] if held else None


def _which(folders: list[str]) -> str:
    """What to do with a folder of several models."""
    for pair in pairs_of(folders):
        return (
            f"point SRC at one of them, {pair['high']}/ is the model of high noise, {pair['low']}/ that of"
            " low noise; `transcode run` converts both at once"
        )
    return "point SRC at one of them"


def pair_in(folder: Folder) -> tuple[dict[str, File | Folder], list[str]] | None:
    """The two models that take turns in a folder, as noise -> subfolder or file, and what else is there.

    They may lie in subfolders, whatever models serve them beside these; or be files beside each other, where
    no other file could be meant. None where there are none.
    """
    files, below = folder.files(), _below(folder)
    for pair in pairs_of([name.rstrip("/") for name in below]):
        inner = {noise: place for noise, name in pair.items() if (place := folder.inner(name)) is not None}
        others = [name for name in below if name.rstrip("/") not in pair.values()]
        return {**inner}, [*(file.name for file in files if _is_weights(file)), *others]
    for kind in table.FILES:
        weights, indexes = _of_kind(kind, files)
        members = {one: set(map(folder.at, set(_weight_map(one).values()))) for one in indexes}
        sets = modelsets.model_sets(weights, members)
        leads = {one.stem: one.lead for one in sets if one.index is not None or len(one.files) == 1}
        pairs = pairs_of(leads)
        serving = [one.lead.name for one in sets if modelsets.serves(one)]
        if len(pairs) == 1 and len(sets) == len(serving) + 2:
            return {noise: leads[stem] for noise, stem in pairs[0].items()}, [*serving, *below]
    return None


def _one_kind(folder: Folder, weights: list[File], indexes: list[File], below: list[str]) -> WeightFiles:
    """The model among the files of a folder that are all of one format."""
    parts = [p for p in weights if is_part_of_run(p)]
    remarks: tuple[str, ...] = ()
    if any(map(modelsets.is_standard, weights)) and parts:
        remarks = (f"does not read {modelsets.names_of(parts)}, parts of a parallel run",)
        weights = [p for p in weights if p not in parts]
    else:
        check_parts(folder, parts, folder.files())
    members = {index: set(map(folder.at, set(_weight_map(index).values()))) for index in indexes}
    chosen, notes = modelsets.choose(folder, modelsets.model_sets(weights, members), below)
    notes = (*remarks, *notes)
    check_parts(folder, chosen.files, folder.files())  # for that of the folder itself
    if chosen.index is not None:
        whole = _indexed(chosen.index)
        return replace(whole, notes=(*notes, *whole.notes))
    modelsets.check_complete(chosen.files)
    return WeightFiles(chosen.files, chosen.stem, folder, notes=notes)


def _weight_map(index: File) -> dict[str, str]:
    """What an index says, as far as it says anything: :func:`_indexed` is the one that complains."""
    table = read_json(index).get("weight_map")
    return {k: v for k, v in table.items() if isinstance(v, str) and v} if isinstance(table, dict) else {}


def _indexed(index: File) -> WeightFiles:
    table = read_json(index)
    listed = table.get("weight_map")
    if not isinstance(listed, dict):
        raise FormatError("has no object weight_map", file=index.url)
    weight_map: dict[str, str] = {}
    legal: set[str] = set()
    for name, file in listed.items():
        if not isinstance(file, str):
            raise FormatError(f"weight_map names {file!r}, not a file", file=index.url, tensor=name)
        # A file name from elsewhere must not lead out of the folder.
        if file not in legal:
            if file != PurePosixPath(file).name or file in ("", ".", "..") or "\\" in file or refused(file):
                raise FormatError(
                    f"weight_map names {file!r}, which is not a file of this folder",
                    file=index.url,
                    tensor=name,
                )
            legal.add(file)
        weight_map[name] = file
    files = [index.folder.at(name) for name in sorted(set(weight_map.values()))]
    if not files:
        raise FormatError("weight_map is empty", file=index.url)
    for p in files:
        if not p.exists():
            raise FormatError(
                f"is missing, {index.name} names it", file=p.url, hint="is the download complete?"
            )
    match = modelsets.index(index.name)
    assert match is not None
    metadata = table.get("metadata")
    total = metadata.get("total_size") if isinstance(metadata, dict) else None
    return WeightFiles(
        tuple(files), match["stem"], index.folder, index, weight_map,
        int(total) if isinstance(total, (int, float)) and total == total and abs(total) < 2**63 else None,
    )  # fmt: skip


def read_json(index: File) -> JsonObject:
    """The object of a JSON file of any folder.

    Raises:
        FormatError: it is no regular file, cannot be read, or holds something else.
    """
    if index.size is None:
        raise FormatError("is no regular file", file=index.url)  # a pipe would be waited for
    try:
        with index.open().open() as reader:
            raw = small_json.take(reader, file=index.url)
    except OSError as error:
        raise FormatError(f"cannot be read: {error.strerror}", file=index.url) from None
    if raw.startswith(b"version https://git-lfs"):
        raise FormatError(
            "is a Git LFS pointer, not the file itself", file=index.url, hint="run `git lfs pull`"
        )
    return small_json.parse_object(raw, file=index.url)


def side_files(folder: Folder) -> tuple[tuple[Path, ...], tuple[str, ...]]:
    """Small files beside the weights that belong to the model: config, tokenizer, licence, and notes.

    Never weights, indexes of weights, hidden files, nor what links lead to elsewhere.
    """
    kept: list[Path] = []
    notes: list[str] = []
    for file in folder.files():
        size = file.size
        if file.suffix in WEIGHTS or re.search(r"\.index(\.[^.]+)?\.json$", file.name) or size is None:
            continue
        if file.suffix.lower() not in _SIDE_SUFFIXES and not file.name.lower().startswith(_SIDE_NAMES):
            continue
        if (target := folder.outside(file.name)) is not None:
            notes.append(f"{file.name} is left out: it is a link out of the folder, to {target}")
            continue
        if size > MAX_SIDE_FILE:
            notes.append(f"{file.name} is no side file: it has {size} bytes")
            continue
        kept.append(file.path or located(file.url))
    return tuple(kept), tuple(notes)
