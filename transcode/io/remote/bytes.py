"""The bytes of an object somewhere else; see :class:`transcode.io.bytes.Bytes`."""

from __future__ import annotations

import io
import os
import threading
from typing import IO, TYPE_CHECKING, Any

from ...core.records import dataclass
from ...core.scratch import Scratch
from ...core.spec import Spec
from ...core.types import Array
from ...errors import FormatError
from ..bytes import read_rows
from .ahead import Range, expected
from .patience import changed, fetch, patiently
from .places import store_of
from .store import HEAD, Changed, Facts

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Raw = NDArray[np.uint8]

__all__ = ["RemoteBytes"]

_MUCH = 4 << 10
_STEP = 1 << 20
"""Most bytes that a reader fetches beyond those that it is asked for."""

_HEADS: dict[RemoteBytes, bytes] = {}
"""The first bytes of objects that are being read, which came with their facts."""


@dataclass(frozen=True, repr=False)
class RemoteBytes:
    """An object that is read by ranges.

    It is a value: where it is, and by what it is known to be the same. Each range that is read is held
    against that, so that bytes of two versions never come together. Thread-safe.

    Attributes:
        url: where it is, without what would let somebody in.
        size: its bytes.
        tag: see :class:`.store.Facts`.
    """

    url: str
    size: int
    tag: str

    @classmethod
    def of(cls, url: str, facts: Facts) -> RemoteBytes:
        """The object of which something is known."""
        opened = cls(url, facts.size, facts.tag)
        if facts.head:
            _HEADS[opened] = facts.head
        return opened

    @property
    def path(self) -> None:
        """There is no local file."""

    @property
    def identity(self) -> tuple[int | str, ...]:
        """Size and tag."""
        return self.size, self.tag

    def __repr__(self) -> str:
        return f"RemoteBytes({self.url!r})"

    def open(self) -> IO[bytes]:
        """A reader at the first byte, which fetches a little more than it is asked for."""
        return _Reader(self)  # type: ignore[return-value]  # reads and seeks, as files do

    def close(self) -> None:
        """Let go of what came before it was asked for."""
        _HEADS.pop(self, None)

    def verify(self) -> None:
        """Raise FormatError if the object is not what it was."""
        store, key = store_of(self.url)
        facts = patiently(self.url, lambda: store.facts(key, head=1))
        if facts is None:
            raise changed(self.url, Changed("it is not there any more"))
        if (facts.size, facts.tag) != (self.size, self.tag):
            raise changed(self.url, Changed(f"it has {facts.size} bytes and the tag {facts.tag or 'none'}"))

    def bytes(self, begin: int, end: int, scratch: Scratch, *, view: bool = True) -> Raw:
        """Bytes ``begin`` to ``end``, in ``scratch``.

        Raises:
            FormatError: they cannot be had, or the object was changed.
        """
        out: Raw = scratch.take((end - begin,), "u1")
        self._into(begin, end, memoryview(out))  # type: ignore[arg-type]  # as in the mapping
        out.flags.writeable = False
        return out

    def copy(self, begin: int, end: int, fd: int, offset: int) -> int:
        """The system cannot copy them: none."""
        return 0

    def rows(self, offset: int, spec: Spec, start: int, stop: int, scratch: Scratch) -> Array:
        """See :func:`transcode.io.bytes.read_rows`."""
        return read_rows(self, offset, spec, start, stop, scratch)

    def range(self, begin: int, end: int) -> Range:
        """Bytes that will be read, as :class:`.ahead.Expected` takes them."""
        return Range(self, self.fetch, begin, end)

    def fetch(self, begin: int, end: int, into: memoryview, ended: threading.Event | None = None) -> None:
        """Bytes ``begin`` to ``end`` into memory, from the object itself."""
        if end > self.size:
            raise FormatError(f"has {self.size} bytes, {end} were expected", file=self.url)
        head = _HEADS.get(self, b"")
        known = max(min(len(head), end) - begin, 0)
        into[:known] = head[begin : begin + known]
        if begin + known < end:
            store, key = store_of(self.url)
            facts = Facts(self.size, self.tag)
            fetch(store, key, begin + known, end, facts, into[known:], self.url, ended)

    def _into(self, begin: int, end: int, into: memoryview) -> None:
        assert 0 <= begin <= end
        announced = expected(self)
        if announced is None:
            self.fetch(begin, end, into)
            return
        for low, high in announced.read(self, begin, end, into):
            self.fetch(low, high, into[low - begin : high - begin], announced.ended)


class _Reader(io.RawIOBase):
    """Reads on from the last block that was fetched; each further one is larger, up to a limit."""

    def __init__(self, file: RemoteBytes) -> None:
        self._file = file
        self._at = 0
        self._begin = 0
        self._block = b""
        self._step = HEAD

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._file.size}[whence]
        if base + offset < 0:
            raise OSError(22, "Invalid argument")
        self._at = base + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer, unless the object ends before."""
        out = memoryview(buffer).cast("B")
        wanted = max(min(len(out), self._file.size - self._at), 0)
        filled = 0
        while filled < wanted:
            skipped = self._at - self._begin
            if 0 <= skipped < len(self._block):
                piece = self._block[skipped : skipped + wanted - filled]
                out[filled : filled + len(piece)] = piece
                filled += len(piece)
                self._at += len(piece)
            else:
                self._fetch(wanted - filled)
        return filled

    def _fetch(self, wanted: int) -> None:
        head = _HEADS.get(self._file, b"")
        if self._at < len(head):
            self._begin, self._block = 0, head
            return
        follows = self._at == self._begin + len(self._block)
        self._step = min(self._step * 2, _STEP) if follows and self._block else HEAD
        # Who asks for much knows what it wants; who asks for little will ask for more.
        end = min(self._at + (wanted if wanted >= _MUCH else self._step), self._file.size)
        block = bytearray(end - self._at)
        with memoryview(block) as view:
            self._file.fetch(self._at, end, view)
        self._begin, self._block = self._at, bytes(block)
        if self._at == 0:
            _HEADS.setdefault(self._file, self._block[:HEAD])

    def readall(self) -> bytes:
        return self.read(max(self._file.size - self._at, 0)) or b""
