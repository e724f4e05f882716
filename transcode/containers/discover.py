"""Which files a path stands for: one file, the shards of an index, a folder, a Diffusers folder."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path, PurePosixPath
from typing import Any

from ..core import small_json
from ..errors import FormatError
from ..io import commit
from ..io.links import leads_out
from ..io.urls import refuse_url
from .modelsets import INDEX, SHARD, check_complete, choose, is_standard, model_sets, names_of
from .ranks import check_parts, check_rank_folders, is_optimizer, is_part_of_run

__all__ = ["PICKLES", "WEIGHTS", "Found", "discover", "side_files"]

PICKLES = (".bin", ".pt", ".pth", ".ckpt")
"""Suffixes of PyTorch files."""

WEIGHTS = frozenset({
    ".safetensors", *PICKLES, ".gguf", ".ggml", ".onnx", ".onnx_data", ".h5", ".msgpack", ".pb", ".tflite",
    ".npz", ".npy", ".pkl", ".engine", ".mlmodel",
})  # fmt: skip
"""Suffixes of files that hold weights; they never come along as side files."""

MAX_SIDE_FILE = 64 << 20
"""Bytes; larger files beside the weights are not taken for side files. The largest tokenizers have half."""

_PARTIAL = (".incomplete", ".part", ".partial", ".crdownload", ".aria2")
_TRAINING = re.compile(
    r"(training_args|optimizer|scheduler|scaler|rng_state.*|random_states.*|trainer_state)$"
)
_COMPONENTS = ("transformer", "unet", "transformer_2")
_SIDE_SUFFIXES = frozenset({
    ".json", ".txt", ".model", ".jinja", ".jinja2", ".py", ".md", ".yaml", ".yml", ".vocab", ".bpe", ".spm",
    ".tiktoken",
})  # fmt: skip
_SIDE_NAMES = ("tokenizer", "merges", "vocab", "license", "notice", "readme", "use_policy", "copying")


@dataclass(frozen=True, slots=True)
class Found:
    """The weight files of a source, sorted by name, and what their folder says about them.

    Attributes:
        files: one or more paths, all safetensors or all PyTorch files.
        stem: prefix for the names of output files.
        folder: where side files lie; None when files that happen to lie there need not belong to the weights.
        index: the index file that listed them.
        weight_map: tensor name to file name, as the index says.
        total_size: what the index claims, in bytes of tensors.
        notes: what a user should know of how they were found.
    """

    files: tuple[Path, ...]
    stem: str
    folder: Path | None
    index: Path | None = None
    weight_map: Mapping[str, str] = field(default_factory=dict)
    total_size: int | None = None
    notes: tuple[str, ...] = ()


def discover(path: str | PathLike[str]) -> Found:
    """Find the weights that a path stands for, without opening them.

    Raises:
        FormatError: there are none, or it is not clear which are meant.
    """
    refuse_url(path)
    path = Path(path)
    commit.settle(path if path.is_dir() else path.parent)
    if not path.exists():
        broken = path.is_symlink()
        what = (
            f"is a link to {os.readlink(path)}, which does not exist" if broken else "no such file or folder"
        )
        raise FormatError(what, file=path, hint="is the download complete?" if broken else None)
    if path.is_dir():
        return _folder(path)
    if _is_index(path.name):
        return _indexed(path)
    if path.suffix == ".json":
        raise FormatError("is JSON but not named like an index (*.safetensors.index.json)", file=path)
    return _single(path)


def _single(path: Path) -> Found:
    files = _listing(path.parent)
    check_parts(path, [path], files)
    others = [p for p in files if p.name != path.name and p.suffix in WEIGHTS]
    shard = SHARD.match(path.stem)
    notes = [f"{path.name} is one of {int(shard['count'])} shards; only this one is read"] if shard else []
    # A lone file may lie among strangers (a downloads folder): a config beside it is its own if there are no
    # other weights, or if its name is the one that loaders look for.
    mine = (path.parent / "config.json").is_file()
    if mine and (shard or (others and not is_standard(path))):
        mine = False
        notes.append(
            f"config.json and what else lies beside {path.name} is not taken along: other weights lie there"
        )
    return Found((path,), path.stem, path.parent if mine else None, notes=tuple(notes))


def _is_index(name: str) -> bool:
    return INDEX.match(name) is not None


def _listing(folder: Path) -> list[Path]:
    try:
        return sorted(p for p in folder.iterdir() if not p.name.startswith(".") and not p.is_dir())
    except OSError as error:
        raise FormatError(f"cannot be read: {error.strerror}", file=folder) from None


def _below(folder: Path) -> list[str]:
    """The folders in a folder that hold weights, with a slash."""
    try:
        inner = sorted(p for p in folder.iterdir() if not p.name.startswith(".") and p.is_dir())
    except OSError as error:
        raise FormatError(f"cannot be read: {error.strerror}", file=folder) from None
    return [f"{p.name}/" for p in inner if any(_is_weights(q) or is_part_of_run(q) for q in _listing(p))]


def _is_weights(path: Path) -> bool:
    return path.suffix == ".safetensors" or path.suffix in PICKLES


def _folder(folder: Path) -> Found:
    files = _listing(folder)
    component = _component(folder)
    weights = [p for p in files if _is_weights(p)]
    if component is not None and (not weights or (folder / "model_index.json").exists()):
        notes = [f"reads {component.name}/ of the Diffusers folder {folder}"]
        if weights:
            notes.append(f"does not read {names_of(weights)} beside {component.name}/")
        found = _folder(component)
        return replace(found, notes=(*notes, *found.notes))

    for p in files:
        if p.suffix in _PARTIAL or (p.suffix == ".lock" and not p.with_suffix("").exists()):
            if p.name.removesuffix(p.suffix).endswith((*WEIGHTS, ".json")) or p.suffix == ".incomplete":
                raise FormatError(
                    "is a download in progress or broken off", file=p, hint="finish the download"
                )
        elif p.is_symlink() and not p.exists():
            raise FormatError(
                f"is a link to {os.readlink(p)}, which does not exist",
                file=p,
                hint="is the download complete?",
            )

    below = _below(folder)
    tensors = [p for p in files if p.suffix == ".safetensors"]
    indexes = [p for p in files if _is_index(p.name)]
    states = [p for p in files if is_optimizer(p)]
    pickles = [p for p in files if p.suffix in PICKLES and not _TRAINING.match(p.stem) and p not in states]
    if tensors or any(".safetensors." in p.name for p in indexes):
        found = _one_kind(folder, tensors, [p for p in indexes if ".safetensors." in p.name], below)
        if pickles:
            found = replace(
                found, notes=(*found.notes, f"does not read {names_of(pickles)} beside safetensors")
            )
        return found
    check_parts(folder, [p for p in files if p.suffix == ".distcp"], files)
    check_rank_folders(folder, below)
    if not pickles:
        check_parts(folder, states, files)
    if pickles or indexes:
        return _one_kind(folder, pickles, indexes, below)
    if below:
        raise FormatError(
            f"holds weights in {', '.join(below)}", file=folder, hint="point SRC at one of them"
        )
    other = [p for p in files if p.suffix in WEIGHTS]
    if other:
        raise FormatError(
            f"holds {names_of(other)}, which transcode does not read", file=folder,
            hint="it reads .safetensors, .bin, .pt, .pth and .ckpt",
        )  # fmt: skip
    raise FormatError("no weights found: no .safetensors, .bin, .pt, .pth or .ckpt file in it", file=folder)


def _component(folder: Path) -> Path | None:
    """The denoiser's folder of a Diffusers pipeline."""
    held = []
    for name in _COMPONENTS:
        inner = folder / name
        if inner.is_dir() and any(map(_is_weights, _listing(inner))):
            held.append(inner)
    if len(held) > 1:
        names = " and ".join(f"{p.name}/" for p in held)
        raise FormatError(f"holds weights in {names}", file=folder, hint="point SRC at one of them")
    return held[0] if held else None


def _one_kind(folder: Path, weights: list[Path], indexes: list[Path], below: list[str]) -> Found:
    """The model among the files of a folder that are all safetensors, or all PyTorch files."""
    parts = [p for p in weights if is_part_of_run(p)]
    remarks: tuple[str, ...] = ()
    if any(map(is_standard, weights)) and parts:
        remarks = (f"does not read {names_of(parts)}, parts of a parallel run",)
        weights = [p for p in weights if p not in parts]
    else:
        check_parts(folder, parts, _listing(folder))
    members = {index: {index.parent / name for name in _weight_map(index).values()} for index in indexes}
    chosen, notes = choose(folder, model_sets(weights, members), below)
    notes = (*remarks, *notes)
    check_parts(folder, chosen.files, _listing(folder))  # for that of the folder itself
    if chosen.index is not None:
        found = _indexed(chosen.index)
        return replace(found, notes=(*notes, *found.notes))
    check_complete(chosen.files)
    return Found(chosen.files, chosen.stem, folder, notes=notes)


def _weight_map(index: Path) -> dict[str, str]:
    """What an index says, as far as it says anything: :func:`_indexed` is the one that complains."""
    table = _read_index(index).get("weight_map")
    return {k: v for k, v in table.items() if isinstance(v, str) and v} if isinstance(table, dict) else {}


def _indexed(index: Path) -> Found:
    table = _read_index(index)
    weight_map = table.get("weight_map")
    if not isinstance(weight_map, dict):
        raise FormatError("has no object weight_map", file=index)
    for name, file in weight_map.items():
        if not isinstance(file, str):
            raise FormatError(f"weight_map names {file!r}, not a file", file=index, tensor=name)
        # A file name from elsewhere must not lead out of the folder.
        if file != PurePosixPath(file).name or file in ("", ".", "..") or "\\" in file:
            raise FormatError(
                f"weight_map names {file!r}, which is not a file of this folder", file=index, tensor=name
            )
    files = [index.with_name(name) for name in sorted(set(weight_map.values()))]
    if not files:
        raise FormatError("weight_map is empty", file=index)
    for p in files:
        if not p.exists():
            raise FormatError(f"is missing, {index.name} names it", file=p, hint="is the download complete?")
    match = INDEX.match(index.name)
    assert match is not None
    metadata = table.get("metadata")
    total = metadata.get("total_size") if isinstance(metadata, dict) else None
    return Found(
        tuple(files), match["stem"], index.parent, index, weight_map,
        int(total) if isinstance(total, (int, float)) and total == total and abs(total) < 2**63 else None,
    )  # fmt: skip


def _read_index(index: Path) -> dict[str, Any]:
    raw = small_json.read(index)
    if raw.startswith(b"version https://git-lfs"):
        raise FormatError("is a Git LFS pointer, not the file itself", file=index, hint="run `git lfs pull`")
    return small_json.parse_object(raw, file=index)


def side_files(folder: Path) -> tuple[tuple[Path, ...], tuple[str, ...]]:
    """Small files beside the weights that belong to the model: config, tokenizer, licence, and notes.

    Never weights, indexes of weights, hidden files, nor what links lead to elsewhere.
    """
    kept: list[Path] = []
    notes: list[str] = []
    for p in _listing(folder):
        if p.suffix in WEIGHTS or re.search(r"\.index(\.[^.]+)?\.json$", p.name) or not p.is_file():
            continue
        if p.suffix.lower() not in _SIDE_SUFFIXES and not p.name.lower().startswith(_SIDE_NAMES):
            continue
        if (target := leads_out(p, folder)) is not None:
            notes.append(f"{p.name} is left out: it is a link out of the folder, to {target}")
            continue
        size = p.stat().st_size
        if size > MAX_SIDE_FILE:
            notes.append(f"{p.name} is no side file: it has {size} bytes")
            continue
        kept.append(p)
    return tuple(kept), tuple(notes)
