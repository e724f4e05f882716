"""How the metadata of GGUF files is edited.

A data section begins at the next multiple of ``general.alignment`` behind the facts of the tensors. So that
it can stay where it is when metadata takes less, the rest is filled by a text of spaces under a key of its
own, :data:`.limits.FILLER`, the last of all.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from functools import lru_cache
from io import BytesIO
from os import PathLike
from typing import IO, ClassVar

from ..edit.form import Facts, Form
from . import header, values
from .limits import FILLER, MAX_HEADER, MOST_KEYS, ORIG_SHAPE

__all__ = ["GgufForm"]

_FRONT = 24
"""Bytes before the first key: magic, version, numbers of tensors and of keys."""

_PLACING = (header.ALIGNMENT, "split.", ORIG_SHAPE)
"""Beginnings of keys that say how tensors lie."""


class GgufForm(Form):
    """Bare is a header up to the end of the facts of its tensors, without what fills it."""

    magic: ClassVar[bytes] = b"TCU3"
    skip: ClassVar[int] = 0

    @property
    def most(self) -> int:
        """As many as are read."""
        return MAX_HEADER

    def look(self, file: IO[bytes], name: str | PathLike[str], *, lenient: bool = False) -> Facts:
        """See :class:`..edit.form.Form`."""
        return _facts(header.read(file, name))

    def parse(self, head: bytes, size: int, name: str | PathLike[str], *, lenient: bool = False) -> Facts:
        """See :class:`..edit.form.Form`."""
        return _facts(header.read(BytesIO(head), name, size=size))

    def bare(self, head: bytes) -> bytes:
        """Without its padding and the key that fills it."""
        parsed = _front(head)
        if parsed.filler is None or parsed.big:  # such a file is not edited
            return head[: parsed.facts_end]
        begin, end = parsed.filler
        keys = len(parsed.metadata)
        return _counted(head, keys, head[_FRONT:begin] + head[end : parsed.facts_end])

    def fit(self, bare: bytes, length: int) -> bytes | None:
        """Padded, where less than the alignment is left; else filled."""
        left = length - len(bare)
        if left < 0:
            return None
        parsed = _front(bare)
        if left < parsed.alignment:
            return bare.ljust(length, b"\0")
        least = len(values.pair(FILLER, values.make("string", "")))
        if left < least:
            return None
        filler = values.pair(FILLER, values.make("string", " " * (left - least)))
        end = parsed.metadata_end
        return _counted(bare, len(parsed.metadata) + 1, bare[_FRONT:end] + filler + bare[end:])

    def splice(self, bare: bytes, metadata: Mapping[str, str]) -> bytes:
        """With values of the types that they had, those that :func:`.values.typed` reads, or texts."""
        parsed = _front(bare)
        if parsed.big:
            raise ValueError("its numbers are big-endian, and such a file is not edited: write it anew")
        pairs = values.typed(metadata, parsed.metadata)
        if len(pairs) >= MOST_KEYS:
            raise ValueError(f"there would be {len(pairs)} keys, as many as are read or more")
        for key in {**parsed.metadata, **pairs}:
            if key.startswith(_PLACING) and pairs.get(key) != parsed.metadata.get(key):
                raise ValueError(f"the key {key!r} says how the tensors lie in the file, and is not edited")
        keys = b"".join(values.pair(key, value) for key, value in pairs.items())
        return _counted(bare, len(pairs), keys + bare[parsed.metadata_end :])

    def step(self, bare: bytes) -> int:
        """The alignment of its tensors."""
        return _front(bare).alignment


@lru_cache(maxsize=4)
def _front(head: bytes) -> header.Header:
    """A header of a file of unknown length."""
    return header.read(BytesIO(head), "", size=None)


def _counted(head: bytes, keys: int, rest: bytes) -> bytes:
    return head[:16] + struct.pack("<Q", keys) + rest


def _facts(parsed: header.Header) -> Facts:
    start = parsed.data_start
    tensors = tuple((one.name, one.spec, one.start - start) for one in parsed.entries)
    return Facts(tensors, dict(parsed.metadata), start)
