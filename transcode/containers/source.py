"""A checkpoint opened for reading: its facts at once, its bytes when asked."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from types import TracebackType

from ..core.tensor import LazyTensor
from ..errors import FormatError
from ..io.local import MappedFile
from .discover import PICKLES, Found, discover, side_files
from .ranks import ZERO_TOOL
from .safetensors.edit import undo
from .safetensors.header import foreign
from .stored import stored

__all__ = ["Source", "SourceFile", "open_source"]


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file of a source.

    Attributes:
        path: as it was found; hub snapshots keep the names of their links.
        size: bytes of the file.
        tensors: how many it holds.
        metadata: its own ``__metadata__``.
    """

    path: Path
    size: int
    tensors: int
    metadata: Mapping[str, str]


@dataclass(frozen=True, repr=False)
class Source:
    """The tensors of a checkpoint, whatever files hold them. Also a context manager.

    Attributes:
        path: what was opened.
        files: the files read, by name.
        tensors: by file, then offset.
        metadata: of all files; where they disagree the first one's, and a note says so.
        side_files: config, tokenizer and other small files that belong to the weights.
        stem: prefix for the names of output files, such as ``model`` or ``diffusion_pytorch_model``.
        notes: what a user should know of how it was read.
    """

    path: Path
    files: tuple[SourceFile, ...]
    tensors: tuple[LazyTensor, ...]
    metadata: Mapping[str, str]
    side_files: tuple[Path, ...]
    stem: str
    notes: tuple[str, ...]
    _maps: tuple[MappedFile, ...] = ()

    def __repr__(self) -> str:
        return f"Source({str(self.path)!r}, {len(self.tensors)} tensors in {len(self.files)} files)"

    def close(self) -> None:
        """Close the files. What was read stays valid."""
        for file in self._maps:
            file.close()

    def verify(self) -> None:
        """See :meth:`.core.flow.Source.verify`."""
        for file in self._maps:
            file.verify()

    def __enter__(self) -> Source:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_source(
    path: str | PathLike[str], *, root_key: str | None = None, mmap: bool = True, drop_cache: bool = False
) -> Source:
    """Open a checkpoint: only headers are read, no tensor.

    Args:
        path: a safetensors file; an index (``*.safetensors.index.json``); a folder of either; a Diffusers
            folder; a PyTorch file (``.pt``, ``.pth``, ``.bin``, ``.ckpt``) or a folder of them; the folder
            of a DeepCompressor checkpoint, see :mod:`.deepcompressor`.
        root_key: where the tensors of a PyTorch file lie (``generator_ema``, ``a.b``).
        mmap: map files; else read them.
        drop_cache: keep what was read out of the page cache.

    Raises:
        FormatError: the path holds no weights, or they are damaged, incomplete or ambiguous.
    """
    from . import deepcompressor

    if root_key is None and deepcompressor.is_checkpoint(path):
        return deepcompressor.open_checkpoint(path, mmap=mmap, drop_cache=drop_cache)
    found = discover(path)
    files: list[SourceFile] = []
    maps: list[MappedFile] = []
    tensors: list[LazyTensor] = []
    notes = list(found.notes)
    for file in found.files:
        kind = _sniff(file)
        undo.repair(file)
        try:
            mapped = MappedFile(file, mmap=mmap, drop_cache=drop_cache)
            if kind == "safetensors":
                if root_key is not None:
                    raise FormatError(
                        f"has no root {root_key!r}: it is a safetensors file",
                        file=file,
                        hint="leave --root-key out",
                    )
                mine, metadata = _safetensors(mapped)
            else:
                from .torch.pickle import read_tensors

                mine, metadata, more = read_tensors(mapped, root_key=root_key)
                notes += more
        except OSError as error:
            raise FormatError(f"cannot be read: {error.strerror}", file=file) from None
        files.append(SourceFile(file, mapped.size, len(mine), metadata))
        maps.append(mapped)
        tensors += mine
    _check_lengths(tensors, path)
    _check_names(found, files, tensors)
    _check_filled(files, tensors)
    _check_total(found, tensors, notes)
    beside: tuple[Path, ...] = ()
    if found.folder is not None:
        beside, remarks = side_files(found.folder)
        notes += remarks
    return Source(
        Path(path),
        tuple(files),
        tuple(tensors),
        _merge(files, notes),
        beside,
        found.stem,
        tuple(notes),
        tuple(maps),
    )


def _safetensors(file: MappedFile) -> tuple[list[LazyTensor], Mapping[str, str]]:
    parsed = undo.read(file.path)
    tensors = [
        stored(file, entry.name, entry.spec, parsed.data_start + entry.begin) for entry in parsed.entries
    ]
    return tensors, parsed.metadata


def _sniff(path: Path) -> str:
    """``"safetensors"`` or ``"pickle"``, by content first: files are misnamed often enough."""
    try:
        with open(path, "rb") as file:
            head = file.read(64)
            empty = os.fstat(file.fileno()).st_size == 0
    except OSError as error:
        raise FormatError(f"cannot be read: {error.strerror}", file=path) from None
    if empty:
        raise FormatError("is empty", file=path, hint="is the download complete?")
    if head.startswith(b"PK\x03\x04"):
        return "pickle"
    if (told := foreign(head)) is not None:
        raise FormatError(told[0], file=path, hint=told[1])
    if head[8:9] == b"{":
        return "safetensors"
    return "pickle" if path.suffix in PICKLES else "safetensors"


_LONGEST_NAME = 4096
"""Characters; patterns may take the square of it, and real names have up to 200."""


def _check_lengths(tensors: Iterable[LazyTensor], path: str | PathLike[str]) -> None:
    for tensor in tensors:
        if len(tensor.name) > _LONGEST_NAME:
            raise FormatError(
                f"has a tensor whose name of {len(tensor.name)} characters begins {tensor.name[:80]!r},"
                f" longer than the {_LONGEST_NAME} that are read",
                file=path,
            )


def _check_names(found: Found, files: list[SourceFile], tensors: list[LazyTensor]) -> None:
    """Every name once, and just where the index says."""
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
            if found.index is not None:
                listed = found.weight_map.get(name)
                if listed is None:
                    raise FormatError(f"{found.index.name} does not name it", file=file.path, tensor=name)
                if listed != file.path.name:
                    raise FormatError(
                        f"{found.index.name} says it is in {listed}", file=file.path, tensor=name
                    )
    for name, listed in found.weight_map.items():
        if name not in where:
            assert found.index is not None
            raise FormatError(
                f"is not in {listed}, where weight_map says it is", file=found.index, tensor=name
            )


def _check_filled(files: list[SourceFile], tensors: list[LazyTensor]) -> None:
    """No weight without elements in one dimension: what a rank saves of parameters that others hold."""
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


def _check_total(found: Found, tensors: list[LazyTensor], notes: list[str]) -> None:
    held = sum(tensor.nbytes for tensor in tensors)
    if found.index is not None and found.total_size is not None and found.total_size != held:
        notes.append(
            f"{found.index.name} claims a total_size of {found.total_size} bytes, the tensors have {held}"
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
