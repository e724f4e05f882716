"""What editing asks of a format of files."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from os import PathLike
from typing import IO, ClassVar, NamedTuple

__all__ = ["Facts", "Form"]


class Facts(NamedTuple):
    """A parsed header.

    Attributes:
        tensors: their names, facts and places in the data section: equal for two headers of the same tensors.
        metadata: in file order, without what only fills space.
        data_start: byte of the file at which the data section begins.
    """

    tensors: object
    metadata: Mapping[str, str]
    data_start: int


class Form(ABC):
    """How the headers of one format are read, changed and padded.

    A header is all that stands before the data section. Bare, it is without what only fills space.

    Attributes:
        magic: first bytes of records of edits (:mod:`.undo`).
        skip: bytes at its front that hold its length.
        asks: metadata that loaders ask for where there is any.
    """

    magic: ClassVar[bytes]
    skip: ClassVar[int]
    asks: ClassVar[Mapping[str, str]] = {}

    @property
    @abstractmethod
    def most(self) -> int:
        """Bytes that a header may have."""

    @abstractmethod
    def look(self, file: IO[bytes], name: str | PathLike[str], *, lenient: bool = False) -> Facts:
        """Read the header of a file. Raises FormatError."""

    @abstractmethod
    def parse(self, head: bytes, size: int, name: str | PathLike[str], *, lenient: bool = False) -> Facts:
        """Parse the header of a file of so many bytes. Raises FormatError."""

    @abstractmethod
    def bare(self, head: bytes) -> bytes:
        """A header without what fills space."""

    @abstractmethod
    def fit(self, bare: bytes, length: int) -> bytes | None:
        """A header of so many bytes, a multiple of :meth:`step`; None where it cannot have these."""

    @abstractmethod
    def splice(self, bare: bytes, metadata: Mapping[str, str]) -> bytes:
        """A bare header with other metadata. Raises ValueError: says why not."""

    @abstractmethod
    def step(self, bare: bytes) -> int:
        """What lengths of headers are a multiple of, a power of two."""

    def kept(self, head: bytes) -> bytes:
        """A header as records hold it."""
        return head

    def whole(self, kept: bytes) -> bytes | None:
        """The inverse of :meth:`kept`; None where that is none."""
        return kept if len(kept) <= self.most else None
