"""SHA-256 of a file whose bytes come once, from the first to the last, and of the tensors that lie in it."""

from __future__ import annotations

import hashlib

from ..core.output import PlannedFile

__all__ = ["Flowing"]


class Flowing:
    """The digests of one file of a plan, which is not kept: each byte is given once, in order."""

    def __init__(self, file: PlannedFile) -> None:
        offset = len(file.header)
        self._bounds = sorted((offset + one.begin, offset + one.end, one.name) for one in file.places)
        self._file = hashlib.sha256()
        self._each = [hashlib.sha256() for _ in self._bounds]
        self._at = 0
        self._first = 0

    def take(self, data: bytearray) -> None:
        """The next bytes."""
        self._file.update(data)
        begin, end = self._at, self._at + len(data)
        view = memoryview(data)
        for number in range(self._first, len(self._bounds)):
            low, high, _ = self._bounds[number]
            if low >= end:
                break
            self._each[number].update(view[max(low, begin) - begin : min(high, end) - begin])
            if high <= end and number == self._first:
                self._first += 1
        self._at = end

    @property
    def file(self) -> str:
        """Of the file, in hexadecimal, as all digests here."""
        return self._file.hexdigest()

    @property
    def tensors(self) -> dict[str, str]:
        """Of each tensor by its stored name, in the order in which they lie there."""
        return {
            name: digest.hexdigest() for (_, _, name), digest in zip(self._bounds, self._each, strict=True)
        }
