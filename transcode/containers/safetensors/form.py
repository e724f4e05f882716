"""How the metadata of safetensors files is edited."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from os import PathLike
from typing import IO, ClassVar

from ..edit.form import Facts, Form
from . import header
from .splice import checked, splice

__all__ = ["SafetensorsForm"]


class SafetensorsForm(Form):
    """Bare is the JSON, without its length before it and the spaces behind it."""

    magic: ClassVar[bytes] = b"TCU2"
    skip: ClassVar[int] = 8
    asks: ClassVar[Mapping[str, str]] = {"format": "pt"}

    @property
    def most(self) -> int:
        """As many as are read."""
        return 8 + header.MAX_HEADER

    def look(self, file: IO[bytes], name: str | PathLike[str], *, lenient: bool = False) -> Facts:
        """See :class:`..edit.form.Form`."""
        return _facts(header.read_open(file, name, lenient=lenient))

    def parse(self, head: bytes, size: int, name: str | PathLike[str], *, lenient: bool = False) -> Facts:
        """See :class:`..edit.form.Form`."""
        return _facts(header.parse(head[8:], file_size=size, file=name, lenient=lenient))

    def bare(self, head: bytes) -> bytes:
        """The JSON."""
        return head[8:].rstrip(b" ")

    def fit(self, bare: bytes, length: int) -> bytes | None:
        """With spaces behind it."""
        return struct.pack("<Q", length - 8) + bare.ljust(length - 8) if 8 + len(bare) <= length else None

    def splice(self, bare: bytes, metadata: Mapping[str, str]) -> bytes:
        """See :func:`.splice.splice`."""
        return splice(bare.decode(), checked(metadata)).encode()

    def step(self, bare: bytes) -> int:
        """Any length will do."""
        return 1

    def kept(self, head: bytes) -> bytes:
        """Without the spaces at its end, of which the length tells how many there were."""
        return head.rstrip(b" ")

    def whole(self, kept: bytes) -> bytes | None:
        """With them."""
        length = 8 + int.from_bytes(kept[:8], "little")
        return kept.ljust(length) if 8 <= len(kept) <= length <= self.most else None


def _facts(parsed: header.Header) -> Facts:
    return Facts(parsed.entries, parsed.metadata, parsed.data_start)
