"""What a format of weight files is to the rest: an entry of the table, see :mod:`.table`.

A new format is one class and its line there. What one has that others lack stands in its class alone: how its
files are named and recognised, the rules by which tensors lie in a file, what metadata fits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Protocol

if TYPE_CHECKING:  # commands that look at metadata alone do without
    from ..core.output import PlannedFile, Stored, Unit
    from ..core.spec import Spec
    from ..core.tensor import LazyTensor
    from ..io.bytes import Bytes
    from ..io.folder import File, Folder
    from .checkpoint import Source

__all__ = [
    "Adopted",
    "Container",
    "Contents",
    "FolderContainer",
    "Heading",
    "MetadataLimits",
    "Split",
    "Writable",
]


class Contents(NamedTuple):
    """What a file holds.

    Attributes:
        tensors: in the order of their bytes.
        metadata: text by key; empty where the format has none.
        notes: what a user should know of how it was read.
    """

    tensors: Sequence[LazyTensor]
    metadata: Mapping[str, str]
    notes: Sequence[str] = ()


class MetadataLimits(NamedTuple):
    """How much metadata, text by key, a file holds.

    Attributes:
        keys: most keys.
        nbytes: most bytes of the part of the file in which they stand, with all else that stands there.
    """

    keys: int
    nbytes: int


class Heading(NamedTuple):
    """What stands before the tensors of a file.

    Attributes:
        metadata: all of it, text by key.
        tensors: name, facts and first byte in the file of each, in the order of their bytes.
        swapped: whether the bytes of numbers lie in the other order.
    """

    metadata: Mapping[str, str]
    tensors: Sequence[tuple[str, Spec, int]]
    swapped: bool = False


class Split(NamedTuple):
    """One of several files that are cut from one output.

    Attributes:
        number: which, from 0.
        of: how many there are.
        tensors: stored in all of them.
    """

    number: int
    of: int
    tensors: int


class Adopted(NamedTuple):
    """Metadata as files of a format have it.

    Attributes:
        metadata: by key.
        notes, warnings: what a user should know of what became of it.
    """

    metadata: Mapping[str, str]
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


class Container(Protocol):
    """A format of single files.

    Attributes:
        name: what messages call it.
        title: whose format it is, or what it is.
        suffixes: of its files; the first is that of files that are written.
        indexed: the suffix behind which the name of an index goes on (``model.safetensors.index.json``); None
            where the format has no indexes.
        loose: whether its files stand for themselves unless their names say otherwise. A folder may then hold
            states of a training and parts that ranks saved, and numbers in names are steps, not parts.
        rooted: whether the tensors may lie anywhere in what a file holds, which a root key then says.
        metadata: what of it a file holds; None if it holds none.
        edited: whether its metadata is edited in place; that of others is only read.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    suffixes: ClassVar[tuple[str, ...]]
    indexed: ClassVar[str | None]
    loose: ClassVar[bool]
    rooted: ClassVar[bool]
    metadata: ClassVar[MetadataLimits | None]
    edited: ClassVar[bool]

    def begins(self, head: bytes) -> bool:
        """Whether a file that begins with these up to 64 bytes is one, whatever its name.

        A format whose files have no beginning of their own says no, and is known by its suffixes.
        """

    def settle(self, file: File) -> None:
        """Put in order what an editor of the format that was killed left; before the file is opened."""

    def open(self, file: Bytes, *, root_key: str | None = None) -> Contents:
        """The contents of a file: no tensor is read.

        Args:
            root_key: where the tensors lie; for formats that are ``rooted``.

        Raises:
            FormatError: it is damaged, incomplete or ambiguous.
            OSError: it cannot be read.
        """


class Writable(Container, Protocol):
    """A format of single files that can be written, too, and has metadata.

    Attributes:
        convention: that for which what is quantized is written into a file of the format, where nobody names
            another; None where the format has no such.
    """

    convention: ClassVar[str | None]

    def heading(self, file: Bytes, *, lenient: bool = False) -> Heading:
        """What stands before the tensors of a file; reads nothing else.

        Args:
            lenient: let through what of metadata is wrong and can be repaired.

        Raises:
            FormatError: it is damaged.
            OSError: it cannot be read.
        """

    def adopt(self, metadata: Mapping[str, str], parts: Sequence[Stored]) -> Adopted:
        """What becomes of metadata, some of it perhaps of another format, in files with such parts.

        Raises:
            PlanError: a value cannot be what it is said to be.
        """

    def lay_out(
        self,
        name: str,
        units: Sequence[Unit],
        metadata: Mapping[str, str],
        *,
        split: Split | None = None,
        file: str | PathLike[str] | None = None,
    ) -> PlannedFile:
        """Give every part of a file its offset, by the format's own rules.

        Args:
            name: of the file.
            units: what goes into it, in the order of the flow.
            metadata: all of it.
            split: which of several files it is; None of one that is alone.
            file: name for errors.

        Raises:
            PlanError: a dtype, a name or the metadata does not fit into the format.
        """


class FolderContainer(Protocol):
    """A format of folders whose files are one checkpoint only together.

    Attributes:
        name: what messages call it.
    """

    name: ClassVar[str]

    def holds(self, folder: Folder) -> bool:
        """Whether a folder is one, by the names in it."""

    def open(self, folder: Folder, *, mmap: bool = True, drop_cache: bool = False) -> Source:
        """The checkpoint: no tensor is read.

        Raises:
            FormatError: a file is missing or damaged.
        """
