"""GGUF as an entry of the table: how its files are recognised, opened and laid out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, ClassVar

from ...errors import FormatError
from ..container import Adopted, Contents, Heading, MetadataLimits, Split, Writable
from .limits import MAGIC, MAX_HEADER, MOST_KEYS, ORIG_SHAPE

if TYPE_CHECKING:  # commands that look at metadata alone do without
    from ...core.output import PlannedFile, Stored, Unit
    from ...core.tensor import LazyTensor
    from ...io.bytes import Bytes
    from ...io.folder import File
    from . import header

__all__ = ["Gguf"]

_OF_FILE = ("split.", ORIG_SHAPE)
"""Beginnings of keys that say how tensors lie in the file, which these themselves say once they are read."""


class Gguf(Writable):
    """The format of ggml."""

    name: ClassVar[str] = "GGUF"
    title: ClassVar[str] = "GGUF"
    suffixes: ClassVar[tuple[str, ...]] = (".gguf",)
    indexed: ClassVar[str | None] = None
    loose: ClassVar[bool] = False
    rooted: ClassVar[bool] = False
    metadata: ClassVar[MetadataLimits | None] = MetadataLimits(MOST_KEYS, MAX_HEADER)
    edited: ClassVar[bool] = True
    convention: ClassVar[str | None] = "gguf"

    def begins(self, head: bytes) -> bool:
        return head.startswith(MAGIC)

    def settle(self, file: File) -> None:
        if file.path is not None:
            from ..edit import undo  # most sources are not of this format

            undo.repair(file.path)

    def heading(self, file: Bytes, *, lenient: bool = False) -> Heading:
        read = _header(file)
        return Heading(read.metadata, [(one.name, one.spec, one.start) for one in read.entries], read.big)

    def open(self, file: Bytes, *, root_key: str | None = None) -> Contents:
        from ..stored import stored

        read = _header(file)
        tensors = [stored(file, one.name, one.spec, one.start) for one in read.entries]
        notes = []
        if read.big:
            tensors = [_swapped(tensor, file) for tensor in tensors]
            notes.append("its numbers are big-endian, and are swapped as they are read")
        metadata = {key: value for key, value in read.metadata.items() if not key.startswith(_OF_FILE)}
        return Contents(tensors, metadata, notes)

    def adopt(self, metadata: Mapping[str, str], parts: Sequence[Stored]) -> Adopted:
        from . import writing

        return writing.adopt(metadata, parts)

    def lay_out(
        self,
        name: str,
        units: Sequence[Unit],
        metadata: Mapping[str, str],
        *,
        split: Split | None = None,
        file: str | PathLike[str] | None = None,
    ) -> PlannedFile:
        """Parts by name, each at a multiple of the alignment; see :func:`.writing.lay_out`."""
        from . import writing

        return writing.lay_out(name, units, metadata, split, file)


def _header(file: Bytes) -> header.Header:
    from . import header

    def read() -> header.Header:
        with file.open() as reader:
            return header.read(reader, file.url)

    if file.path is None:
        return read()
    from ..edit import undo

    return undo.steadily(file.path, read)


def _swapped(tensor: LazyTensor, file: Bytes) -> LazyTensor:
    from .swapped import Swapped
    from .types import swaps

    order = swaps(tensor.spec.dtype)
    if order is None:
        raise FormatError(
            f"is {tensor.spec.dtype} in a big-endian file: how the bytes of such blocks are ordered is not"
            " settled",
            file=file.url,
            tensor=tensor.name,
            hint="take a little-endian file",
        )
    if order == tuple(range(len(order))):
        return tensor
    return tensor.evolve(value=Swapped(tensor.value, order))
