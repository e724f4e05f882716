"""Bytes and folders held in memory: what a place that is no local file system must do, and nothing more."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import IO

import numpy as np

from transcode.core.scratch import Scratch
from transcode.core.spec import Spec
from transcode.errors import FormatError
from transcode.io.bytes import Bytes, read_rows
from transcode.io.folder import File, Folder


class MemoryBytes:
    """A file of a :class:`MemoryFolder`."""

    path = None

    def __init__(self, folder: MemoryFolder, name: str) -> None:
        self._folder, self._name = folder, name
        self.url = folder.at(name).url
        self._data = folder.held(name)
        self.size = len(self._data)
        self.identity = (hash(self._data),)

    def open(self) -> IO[bytes]:
        return io.BytesIO(self._data)

    def bytes(self, begin: int, end: int, scratch: Scratch, *, view: bool = True):
        assert 0 <= begin <= end <= self.size
        found = np.frombuffer(self._data, np.uint8, end - begin, begin)
        if view:
            return found
        out = scratch.take((end - begin,), "u1")
        out[:] = found
        return out

    def rows(self, offset: int, spec: Spec, start: int, stop: int, scratch: Scratch):
        return read_rows(self, offset, spec, start, stop, scratch)

    def verify(self) -> None:
        if self._folder.held(self._name) != self._data:
            raise FormatError("was changed since planning began", file=self.url)

    def close(self) -> None:
        pass


class MemoryFolder(Folder):
    """Files and folders by name."""

    path = None

    def __init__(self, url: str, contents: Mapping[str, bytes | Mapping[str, bytes]]) -> None:
        self.url = url
        self.name = url.rpartition("/")[2]
        self._contents = dict(contents)

    def held(self, name: str) -> bytes:
        data = self._contents.get(name)
        if not isinstance(data, bytes):
            raise FileNotFoundError(2, "No such file or directory", name)
        return data

    def put(self, name: str, data: bytes) -> None:
        self._contents[name] = data

    def at(self, name: str) -> File:
        return File(f"{self.url}/{name}", name, self)

    def files(self) -> list[File]:
        return [self.at(name) for name in sorted(self._contents) if self.size(name) is not None]

    def folders(self) -> list[Folder]:
        inner = [self.inner(name) for name in sorted(self._contents)]
        return [one for one in inner if one is not None]

    def inner(self, name: str) -> Folder | None:
        contents = self._contents.get(name)
        return MemoryFolder(f"{self.url}/{name}", contents) if isinstance(contents, Mapping) else None

    def outer(self) -> Folder | None:
        return None

    def exists(self, name: str) -> bool:
        return name in self._contents

    def size(self, name: str) -> int | None:
        data = self._contents.get(name)
        return len(data) if isinstance(data, bytes) else None

    def dangling(self, name: str) -> str | None:
        return None

    def outside(self, name: str) -> str | None:
        return None

    def open(self, name: str, *, mmap: bool = True, drop_cache: bool = False) -> Bytes:
        return MemoryBytes(self, name)
