"""Where the bytes of a part lie in a file just as they are to be written."""

from __future__ import annotations

from typing import Protocol

from .records import dataclass
from .scratch import Scratch
from .types import Array

__all__ = ["Copyable", "Extent"]


class Copyable(Protocol):
    """What an extent asks of the bytes that it lies in; see :class:`~transcode.io.bytes.Bytes`."""

    def bytes(self, begin: int, end: int, scratch: Scratch, *, view: bool = True) -> Array:
        """Bytes ``begin`` to ``end``."""

    def copy(self, begin: int, end: int, fd: int, offset: int) -> int:
        """Have the system copy bytes ``begin`` to ``end`` into an open file, at an offset.

        Returns:
            How many it copied, from the first on; less than all, or none, where it cannot.

        Raises:
            OSError: the file that is written has no room.
        """


@dataclass(frozen=True, slots=True)
class Extent:
    """A run of bytes in a file.

    Attributes:
        file: where it lies.
        begin: its first byte there.
        nbytes: how many.
    """

    file: Copyable
    begin: int
    nbytes: int
