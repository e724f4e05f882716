"""Names of outputs that cannot be meant: URLs, other containers, misspelled suffixes."""

from __future__ import annotations

import os
from difflib import SequenceMatcher
from os import PathLike
from pathlib import Path

from ..catalog.convention import Convention
from ..containers import table
from ..containers.discover import WEIGHTS
from ..core.paths import Url, unsigned
from ..core.source import Source
from ..errors import PlanError
from ..io import hub
from ..io.links import same
from ..io.names import refused
from ..io.urls import refuse_output, remote_url
from ..voice import called

__all__ = ["destination", "refuse_destination", "refuse_format", "refuse_name"]

_SUFFIXES = tuple(kind.suffixes[0] for kind in table.WRITABLE)
_ALIKE = 0.85
"""From here on two suffixes are one and a mistake: a letter lost, doubled, swapped or replaced."""

_WRITTEN = " and ".join(kind.name for kind in table.WRITABLE)

_OTHERS = WEIGHTS | {
    ".sft", ".hdf5", ".keras", ".pickle", ".pdparams", ".nemo", ".mlpackage", ".trt", ".plan", ".ggjt",
    ".tar", ".tgz", ".gz", ".zst", ".zip", ".7z", ".json", ".yaml", ".yml",
}  # fmt: skip
"""Suffixes of files that hold, pack or list weights; those that are written are looked for before."""


def refuse_destination(path: str | PathLike[str], source: Source | None = None) -> None:
    """Refuse the name of an output that would not become what it says.

    What exists as a folder, and what ends in a slash, is a folder whatever its name.

    Args:
        source: what is read.

    Raises:
        PlanError: a URL, standard output, the suffix of another container or a misspelled one; a file or a
            name on the hub that is the source.
    """
    text = os.fspath(path)
    if os.path.isdir(text):
        return
    if source is not None:
        _refuse_source(text, source)
    if (url := remote_url(path)) is not None:
        from ..io.remote import target  # most destinations are here

        target.refuse(url)
        path = text = unsigned(url)
    refuse_output(
        path,
        elsewhere=True,
        stdout="cannot write to standard output: tensors are written at their offsets",
        hint="name a file or a folder",
    )
    refuse_name(Path(text).name, text)
    if text.endswith(("/", os.sep)):
        return
    name = Path(text).name
    if table.written(name) is not None:
        return
    stem, what, suffix = _other(name)
    if what is None:
        return
    folder = f"write {text}/ if a folder of that name is meant"
    file = Path(text).with_name(f"{stem}{suffix}")
    raise PlanError(what, file=text, hint=f"name {file} for one file, {folder}")


def refuse_format(path: str | PathLike[str], convention: Convention) -> None:
    """Refuse a file of another format than the programs of a convention read: it would hold what they look
    for, and none would open it. Conventions that quantize nothing are of all formats.

    Raises:
        PlanError: it is of another.
    """
    asked, own = table.written(Path(os.fspath(path)).name), table.writer(convention.single_file("x"))
    if asked is not None and asked is not own and convention.schemes:
        idle = called("convention", convention.name)
        raise PlanError(
            f"would be {asked.name}, and {convention.name} is for programs that read {own.name}",
            file=path,
            hint=f"name a file that ends in {own.suffixes[0]}, or leave {idle} out",
        )


def destination(path: str) -> Path:
    """Where an output goes, as plans have it: a URL as such."""
    return Path(path) if remote_url(path) is None else Url(unsigned(path))


def refuse_name(name: str, file: str | PathLike[str]) -> None:
    """Refuse the name of a file or folder that the system would take for something else."""
    if (why := refused(name)) is not None:
        raise PlanError(why, file=file, hint="choose another name")


def _refuse_source(text: str, source: Source) -> None:
    """What is the source needs no word on its suffix, nor a folder of the same name as a model of the hub."""
    for file in (source.path, *(file.path for file in source.files)):
        if same(Path(text), file):
            other = "" if Path(text) == file else f" ({file})"
            raise PlanError(
                f"is the source{other}, which is never written to", file=text, hint="write elsewhere"
            )
    meant = hub.parse(text)
    commits = source.path.parents
    if meant is not None and any(above == meant.folder for above in commits):
        raise PlanError(
            "is the source, by its name on the hub, and a folder of that name would hide it",
            file=text,
            hint="write elsewhere",
        )


def _other(name: str) -> tuple[str, str | None, str]:
    """The stem of a name that stands for a file which is not written, what is wrong, and the suffix meant."""
    stem, dot, last = name.rstrip(". ").rpartition(".")
    suffix = f".{last.lower()}"
    if not stem or not dot:
        return name, None, ""
    for meant in _SUFFIXES:
        if (at := name.lower().find(meant)) > 0:
            return name[:at], f"does not end in {meant}, so a folder would be made of it", meant
    if (kind := table.of_name(f"{stem}{suffix}")) is not None:
        return stem, f"{suffix} is {kind.title}'s, transcode writes {_WRITTEN}", _SUFFIXES[0]
    if suffix in _OTHERS:
        return stem, f"{suffix} is another format, transcode writes {_WRITTEN}", _SUFFIXES[0]
    for meant in _SUFFIXES:
        if SequenceMatcher(None, suffix, meant).ratio() >= _ALIKE:
            return stem, f".{last} is not {meant}, so a folder would be made of it", meant
    return name, None, ""
