"""PyTorch's files as an entry of the table."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from ..container import Container, Contents, MetadataLimits

if TYPE_CHECKING:
    from ...io.bytes import Bytes
    from ...io.folder import File

__all__ = ["Torch"]


class Torch(Container):
    """What ``torch.save`` wrote: today's zip files, and the row of pickles of old."""

    name: ClassVar[str] = "torch"
    title: ClassVar[str] = "PyTorch"
    suffixes: ClassVar[tuple[str, ...]] = (".bin", ".pt", ".pth", ".ckpt")
    indexed: ClassVar[str | None] = ".bin"
    loose: ClassVar[bool] = True
    rooted: ClassVar[bool] = True
    metadata: ClassVar[MetadataLimits | None] = None
    edited: ClassVar[bool] = False

    def begins(self, head: bytes) -> bool:
        return head.startswith(b"PK\x03\x04")  # the old ones begin like any pickle

    def settle(self, file: File) -> None:
        """Nothing: such files are never edited."""

    def open(self, file: Bytes, *, root_key: str | None = None) -> Contents:
        from .pickle import read_tensors  # most checkpoints are no pickles

        tensors, metadata, notes = read_tensors(file, root_key=root_key)
        return Contents(tensors, metadata, notes)
