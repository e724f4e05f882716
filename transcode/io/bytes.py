"""Bytes that lie somewhere and are read at their offsets: the protocol, whatever holds them.

What reads a format sees a file through this alone, so that a file of the local system (:mod:`.local`) is one
place of several from which the same tensors come.
"""

from __future__ import annotations

from pathlib import Path
from typing import IO, TYPE_CHECKING, Protocol

from ..core.types import Array

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..core.scratch import Scratch
    from ..core.spec import Spec

    Raw = NDArray[np.uint8]

__all__ = ["Bytes", "read_rows"]


class Bytes(Protocol):
    """Bytes that can be read at any place, by any thread, again.

    Implementations are values: where the bytes are, and by what they are known to be the same. They can be
    compared and pickled; what is alive of them is not part of them.
    """

    @property
    def url(self) -> str:
        """Where they lie, as messages name it; of a local file its path as it was given."""

    @property
    def path(self) -> Path | None:
        """The local file that they are; None where there is none."""

    @property
    def size(self) -> int:
        """How many they are."""

    @property
    def identity(self) -> tuple[int | str, ...]:
        """Equal to what it was as long as they are the same bytes; of a local file its size, time of
        modification, inode and device."""

    def open(self) -> IO[bytes]:
        """A reader of its own at the first byte: headers and directories are read so, without numpy.

        Raises:
            OSError: they cannot be read.
        """

    def bytes(self, begin: int, end: int, scratch: Scratch, *, view: bool = True) -> Raw:
        """Bytes ``begin`` to ``end``: a read-only view if allowed and possible, or a copy in ``scratch``.

        Raises:
            FormatError: they are not what they were, or not there any more.
        """

    def copy(self, begin: int, end: int, fd: int, offset: int) -> int:
        """Have the system copy bytes ``begin`` to ``end`` into an open file, at an offset, so that they do
        not pass through this process.

        Returns:
            How many it copied, from the first on; less than all, or none, where it cannot.

        Raises:
            FormatError: they are not what they were, or not there any more.
            OSError: the file that is written has no room.
        """

    def rows(self, offset: int, spec: Spec, start: int, stop: int, scratch: Scratch) -> Array:
        """Rows of a row-major tensor that begins at byte ``offset``: see :func:`read_rows`."""

    def verify(self) -> None:
        """Raise FormatError if they are not what they were when they were opened."""

    def close(self) -> None:
        """Let go of what is held open. Views stay valid; a later read opens again."""


def read_rows(file: Bytes, offset: int, spec: Spec, start: int, stop: int, scratch: Scratch) -> Array:
    """Rows ``start`` to ``stop`` of a row-major tensor that begins at byte ``offset`` of a file.

    Returns:
        ``[stop - start, columns]`` in the carrier dtype, C-contiguous, aligned and read-only; sub-byte
        dtypes as their bytes, 1-D. A view where the file gives one, or a copy in ``scratch`` where it does
        not or the tensor does not lie at a multiple of its item size.
    """
    import numpy as np  # here, for commands that look at facts alone

    begin, end = offset + spec.row_offset(start), offset + spec.row_offset(stop)
    scratch.read[0] += end - begin
    if spec.dtype.packed:
        return file.bytes(begin, end, scratch)
    # Maps begin at a page, and scratch at a cache line.
    aligned = begin % np.dtype(spec.dtype.carrier).itemsize == 0
    rows = file.bytes(begin, end, scratch, view=aligned).view(spec.dtype.carrier)
    return rows.reshape(stop - start, spec.columns)
