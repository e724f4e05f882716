"""The entrance to every checkpoint: what a path stands for, opened."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from os import PathLike
from pathlib import Path

from ..core.paths import located
from ..core.spec import tallied
from ..core.tensor import LazyTensor
from ..core.uncollected import uncollected
from ..errors import FormatError
from ..io import hub
from ..io.bytes import Bytes
from ..io.folder import File, Folder
from ..io.named import locate, note_of
from ..io.urls import remote_url
from ..voice import called
from . import table
from .checkpoint import Source, SourceFile
from .discover import WeightFiles, discover, side_files
from .ranks import ZERO_TOOL

__all__ = ["open_place", "open_source", "opened"]


def open_source(
    path: str | PathLike[str], *, root_key: str | None = None, mmap: bool = True, drop_cache: bool = False
) -> Source:
    """Open a checkpoint: only headers are read, no tensor.

    Args:
        path: a safetensors file; an index (``*.safetensors.index.json``); a folder of either; a Diffusers
            folder; a PyTorch file (``.pt``, ``.pth``, ``.bin``, ``.ckpt``) or a folder of them; the folder
            of a DeepCompressor checkpoint, see :mod:`.deepcompressor`; or what the hub's
            cache has of a name, see :mod:`transcode.io.hub`.
        root_key: where the tensors of a PyTorch file lie (``generator_ema``, ``a.b``).
        mmap: map files; else read them.
        drop_cache: keep what was read out of the page cache.

    Raises:
        FormatError: the path holds no weights, or they are damaged, incomplete or ambiguous.
    """
    return opened(path, lambda place: open_place(place, root_key=root_key, mmap=mmap, drop_cache=drop_cache))


def opened(path: str | PathLike[str], open_it: Callable[[File | Folder], Source]) -> Source:
    """What ``open_it`` makes of what a path stands for, with the note on where that is."""
    with hub.explaining(path) as snapshot:
        source = open_it(locate(path))
    note = None if snapshot is None else snapshot.note
    if (url := remote_url(path)) is not None:
        note = note_of(url)
    return source if note is None else replace(source, notes=(note, *source.notes))


@uncollected()
def open_place(
    place: File | Folder, *, root_key: str | None = None, mmap: bool = True, drop_cache: bool = False
) -> Source:
    """As :func:`open_source`, of a file or folder wherever it lies."""
    if root_key is None and not isinstance(place, File):
        for whole in table.folders():
            if whole.holds(place):
                return whole.open(place, mmap=mmap, drop_cache=drop_cache)
    checkpoint = discover(place)
    files: list[SourceFile] = []
    inputs: list[Bytes] = []
    tensors: list[LazyTensor] = []
    notes = list(checkpoint.notes)
    for file in checkpoint.files:
        container = table.sniff(file)
        container.settle(file)
        try:
            raw = file.open(mmap=mmap, drop_cache=drop_cache)
            if root_key is not None and not container.rooted:
                raise FormatError(
                    f"has no root {root_key!r}: it is a {container.name} file",
                    file=file.url,
                    hint=f"leave {called('root_key')} out",
                )
            contents = container.open(raw, root_key=root_key)
        except OSError as error:
            raise FormatError(f"cannot be read: {error.strerror}", file=file.url) from None
        files.append(SourceFile(located(file.url), raw.size, len(contents.tensors), contents.metadata))
        inputs.append(raw)
        tensors += contents.tensors
        notes += contents.notes
    _check_lengths(tensors, place.url)
    _check_names(checkpoint, files, tensors)
    _check_filled(files, tensors)
    _check_total(checkpoint, tensors, notes)
    beside: tuple[Path, ...] = ()
    if checkpoint.folder is not None:
        beside, remarks = side_files(checkpoint.folder)
        notes += remarks
    return Source(
        located(place.url),
        tuple(files),
        tuple(tensors),
        _merge(files, notes),
        beside,
        checkpoint.stem,
        tuple(notes),
        tuple(inputs),
    )


_LONGEST_NAME = 4096
"""Characters; patterns may take the square of it, and real names have up to 200."""


def _check_lengths(tensors: Iterable[LazyTensor], path: str) -> None:
    names = [tensor.name for tensor in tensors]
    if max(map(len, names), default=0) > _LONGEST_NAME:
        name = next(name for name in names if len(name) > _LONGEST_NAME)
        raise FormatError(
            f"has a tensor whose name of {len(name)} characters begins {name[:80]!r},"
            f" longer than the {_LONGEST_NAME} that are read",
            file=path,
        )


def _check_names(checkpoint: WeightFiles, files: list[SourceFile], tensors: list[LazyTensor]) -> None:
    """Every name once, and just where the index says."""
    if checkpoint.index is None and len({tensor.name for tensor in tensors}) == len(tensors):
        return
    where: dict[str, Path] = {}
    at = iter(tensors)
    for file in files:
        for _ in range(file.tensors):
            name = next(at).name
            if name in where:
                raise FormatError(
                    f"is also in {where[name].name}", file=file.path, tensor=name,
                    hint="if they are different models, point SRC at one file",
                )  # fmt: skip
            where[name] = file.path
            if checkpoint.index is not None:
                listed = checkpoint.weight_map.get(name)
                if listed is None:
                    raise FormatError(
                        f"{checkpoint.index.name} does not name it", file=file.path, tensor=name
                    )
                if listed != file.path.name:
                    raise FormatError(
                        f"{checkpoint.index.name} says it is in {listed}", file=file.path, tensor=name
                    )
    for name, listed in checkpoint.weight_map.items():
        if name not in where:
            assert checkpoint.index is not None
            raise FormatError(
                f"is not in {listed}, where weight_map says it is", file=checkpoint.index.url, tensor=name
            )


def _check_filled(files: list[SourceFile], tensors: list[LazyTensor]) -> None:
    """No weight without elements in one dimension: what a rank saves of parameters that others hold."""
    if all(spec.shape != (0,) for spec, _ in tallied(tensor.spec for tensor in tensors)):
        return
    at = iter(tensors)
    for file in files:
        for _ in range(file.tensors):
            tensor = next(at)
            if tensor.spec.shape == (0,) and tensor.name.endswith(".weight"):
                raise FormatError(
                    "is empty: its parameters were partitioned (ZeRO stage 3, FSDP) and not gathered",
                    file=file.path,
                    tensor=tensor.name,
                    hint=f"join the ranks: {ZERO_TOOL}",
                )


def _check_total(checkpoint: WeightFiles, tensors: list[LazyTensor], notes: list[str]) -> None:
    if checkpoint.index is None or checkpoint.total_size is None:
        return
    held = sum(tensor.nbytes for tensor in tensors)
    if checkpoint.total_size != held:
        notes.append(
            f"{checkpoint.index.name} claims a total_size of {checkpoint.total_size} bytes,"
            f" the tensors have {held}"
        )


def _merge(files: list[SourceFile], notes: list[str]) -> dict[str, str]:
    merged: dict[str, str] = {}
    for file in files:
        for key, value in file.metadata.items():
            if merged.setdefault(key, value) != value:
                notes.append(
                    f"metadata {key!r} of {file.path.name} differs from the first shard's and is left out"
                )
    return merged
