"""Names of outputs that cannot be meant: URLs, other containers, misspelled suffixes."""

from __future__ import annotations

import os
from difflib import SequenceMatcher
from os import PathLike
from pathlib import Path

from ..containers.discover import PICKLES, WEIGHTS
from ..errors import PlanError
from ..io.urls import instead, remote

__all__ = ["refuse_destination"]

_SUFFIX = ".safetensors"
_ALIKE = 0.85
"""From here on two suffixes are one and a mistake: a letter lost, doubled, swapped or replaced."""

_CONTAINERS = (WEIGHTS - {_SUFFIX}) | {
    ".sft", ".hdf5", ".keras", ".pickle", ".pdparams", ".nemo", ".mlpackage", ".trt", ".plan", ".ggjt",
    ".tar", ".tgz", ".gz", ".zst", ".zip", ".7z", ".json", ".yaml", ".yml",
}  # fmt: skip
"""Suffixes of files that hold, pack or list weights in other ways than safetensors."""


def refuse_destination(path: str | PathLike[str]) -> None:
    """Refuse the name of an output that would not become what it says.

    What exists as a folder, and what ends in a slash, is a folder whatever its name.

    Raises:
        PlanError: a URL, standard output, the suffix of another container or a misspelled one.
    """
    text = os.fspath(path)
    if os.path.isdir(text):
        return
    if text == "-":
        raise PlanError(
            "cannot write to standard output: tensors are written at their offsets", file=text,
            hint="name a file or a folder",
        )  # fmt: skip
    if remote(text):
        raise PlanError(
            "is a URL, and only local files and folders are written",
            file=text,
            hint=instead(text) or "write to a local path, and upload what appears there",
        )
    if text.endswith(("/", os.sep)):
        return
    name = Path(text).name
    if name.endswith(_SUFFIX):
        return
    stem, what = _other(name)
    if what is None:
        return
    folder = f"write {text}/ if a folder of that name is meant"
    file = Path(text).with_name(f"{stem}{_SUFFIX}")
    raise PlanError(what, file=text, hint=f"name {file} for one file, {folder}")


def _other(name: str) -> tuple[str, str | None]:
    """The stem of a name that stands for a file which is no safetensors file, and what is wrong with it."""
    stem, dot, last = name.rstrip(". ").rpartition(".")
    suffix = f".{last.lower()}"
    if not stem or not dot:
        return name, None
    if (at := name.lower().find(_SUFFIX)) > 0:
        return name[:at], f"does not end in {_SUFFIX}, so a folder would be made of it"
    if suffix in PICKLES:
        return stem, f"{suffix} is PyTorch's, transcode writes safetensors"
    if suffix in _CONTAINERS:
        return stem, f"{suffix} is another format, transcode writes safetensors"
    if SequenceMatcher(None, suffix, _SUFFIX).ratio() >= _ALIKE:
        return stem, f".{last} is not {_SUFFIX}, so a folder would be made of it"
    return name, None
