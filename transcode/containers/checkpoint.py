"""A checkpoint opened for reading: its facts, and the files from which its bytes come."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from ..core.records import dataclass
from ..core.source import Twin
from ..core.tensor import LazyTensor
from ..io.bytes import Bytes

__all__ = ["Source", "SourceFile"]


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
        inputs: the files, as they were when they were opened.
        twins: the two models that it is of, where it is no single one; tensors are those of both, then.
    """

    path: Path
    files: tuple[SourceFile, ...]
    tensors: tuple[LazyTensor, ...]
    metadata: Mapping[str, str]
    side_files: tuple[Path, ...]
    stem: str
    notes: tuple[str, ...]
    inputs: tuple[Bytes, ...] = ()
    twins: tuple[Twin, ...] = ()

    def __repr__(self) -> str:
        return f"Source({str(self.path)!r}, {len(self.tensors)} tensors in {len(self.files)} files)"

    def close(self) -> None:
        """Close the files. What was read stays valid."""
        for file in self.inputs:
            file.close()

    def __enter__(self) -> Source:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
