"""Objects written by obstore, which takes the parts of an object in their order."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import Any

from ...errors import FormatError, TranscodeError
from .address import Address
from .buckets import connected, words

__all__ = ["Streams"]

_PART = 8 << 20
_AT_ONCE = 4
_MOST_PARTS = 9000
"""GCS and S3 take 10,000, Azure 50,000."""


class Streams:
    """A prefix of a bucket.

    Args:
        prefix: of it.
    """

    ordered = True
    copies = 1

    def __init__(self, prefix: Address) -> None:
        self._prefix = prefix
        self._store = connected(prefix._replace(key=""), patient=True)

    def part(self, size: int) -> int:
        """At most as many as stores take."""
        least = -(-size // _MOST_PARTS)
        return max(_PART, -(-least // (1 << 20)) << 20)

    def existing(self) -> set[str]:
        """See :class:`.target.Target`."""
        import obstore

        try:
            listed = obstore.list_with_delimiter(self._store, self._prefix.key.rstrip("/") or None)
        except (obstore.exceptions.BaseError, OSError) as error:
            raise FormatError(f"cannot be listed: {words(error)}", file=str(self._prefix)) from None
        return {item["path"].rpartition("/")[2] for item in listed["objects"]}

    def unfinished(self) -> int:
        """See :class:`.target.Target`: obstore lists no parts."""
        return 0

    def begin(self, name: str, size: int) -> _Object:
        """See :class:`.target.Target`."""
        return _Object(self._store, self._prefix.below(name), self.part(size))

    def put(self, name: str, content: bytes) -> None:
        """See :class:`.target.Target`."""
        import obstore

        where = self._prefix.below(name)
        try:
            obstore.put(self._store, where.key, content, use_multipart=False)
        except (obstore.exceptions.BaseError, OSError) as error:
            raise _refused(where, error) from None

    def commit(self) -> None:
        """Each object has appeared when it was placed."""


class _Dropped(Exception):
    """Ends a stream, so that nothing of it appears."""


class _Object:
    """A stream that obstore reads in a thread of its own; it appears when the stream ends."""

    def __init__(self, store: Any, where: Address, part: int) -> None:
        self._store = store
        self._where = where
        self._part = part
        self._parts: queue.Queue[bytearray | type[_Dropped] | None] = queue.Queue(1)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="upload", daemon=True)
        self._thread.start()

    def send(self, number: int, data: bytearray) -> None:
        self._give(data)

    def _give(self, item: bytearray | type[_Dropped] | None) -> None:
        while True:
            if self._error is not None:
                raise _refused(self._where, self._error)
            try:
                self._parts.put(item, timeout=0.2)
                return
            except queue.Full:  # as long as the store takes them
                continue

    def place(self) -> None:
        self._give(None)
        self._thread.join()
        if self._error is not None:
            raise _refused(self._where, self._error)

    def drop(self) -> None:
        try:
            while self._thread.is_alive() and self._error is None:
                try:
                    self._parts.put(_Dropped, timeout=0.2)
                    break
                except queue.Full:
                    continue
        finally:
            self._thread.join()

    def _stream(self) -> Iterator[bytearray]:
        while (item := self._parts.get()) is not None:
            if item is _Dropped:
                raise _Dropped
            assert isinstance(item, bytearray)
            yield item

    def _work(self) -> None:
        import obstore

        try:
            obstore.put(
                self._store,
                self._where.key,
                self._stream(),
                use_multipart=True,
                chunk_size=self._part,
                max_concurrency=_AT_ONCE,
            )
        except BaseException as error:
            self._error = error


def _refused(where: Address, error: BaseException) -> TranscodeError:
    return TranscodeError(f"cannot be written: {words(error)}", file=str(where))
