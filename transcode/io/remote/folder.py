"""Folders of objects, and what a URL stands for: a file or a folder."""

from __future__ import annotations

from pathlib import PurePosixPath

from ...core.paths import Url
from ...errors import FormatError
from ..bytes import Bytes
from ..folder import File, Folder
from .address import Address, parse
from .bytes import RemoteBytes
from .patience import patiently
from .places import store_of
from .store import Facts, Listing

__all__ = ["RemoteFolder", "locate", "note_of"]

_SMALL = 64 << 20
"""Bytes; nothing larger is read as a whole."""

_TINY = 1 << 20
_FILES = (".safetensors", ".sft", ".gguf", ".bin", ".pt", ".pth", ".ckpt", ".json")
"""What the names of files end in, where a server does not tell them from folders."""


class RemoteFolder(Folder):
    """What lies under a prefix.

    Args:
        address: of it.
        listing: what is known to be in it, where that is all that may be asked for.
    """

    path = None

    def __init__(self, address: Address, listing: Listing | None = None) -> None:
        self._address = address
        self.url = str(address)
        self.name = address.name or address.authority
        self._listed = listing
        self._whole = listing is not None or not address.scheme.startswith("http")
        self._asked: dict[str, Facts | None] = {}

    def __repr__(self) -> str:
        return f"RemoteFolder({self.url!r})"

    @property
    def listing(self) -> Listing:
        """What lies in it."""
        if self._listed is None:
            store, key = store_of(self.url)
            self._listed = patiently(self.url, lambda: store.listing(key))
        return self._listed

    def facts(self, name: str) -> Facts | None:
        """What is known of a file; None where there is none."""
        if self._listed is not None and (self._whole or name in self._listed.files):
            return self._listed.files.get(name)
        if name not in self._asked:
            store, key = store_of(str(self._address.below(name)))
            self._asked[name] = patiently(self.at(name).url, lambda: store.facts(key))
        return self._asked[name]

    def at(self, name: str) -> File:
        return File(str(self._address.below(name)), name, self)

    def files(self) -> list[File]:
        return [self.at(name) for name in sorted(self.listing.files) if not name.startswith(".")]

    def folders(self) -> list[Folder]:
        names = sorted(name for name in self.listing.folders if not name.startswith("."))
        return [RemoteFolder(self._address.below(name)) for name in names]

    def inner(self, name: str) -> Folder | None:
        return RemoteFolder(self._address.below(name)) if name in self.listing.folders else None

    def outer(self) -> Folder | None:
        return None

    def exists(self, name: str) -> bool:
        return self.facts(name) is not None

    def size(self, name: str) -> int | None:
        facts = self.facts(name)
        return None if facts is None else facts.size

    def dangling(self, name: str) -> str | None:
        return None

    def outside(self, name: str) -> str | None:
        return None

    def open(self, name: str, *, mmap: bool = True, drop_cache: bool = False) -> Bytes:
        facts = self.facts(name)
        if facts is None:
            raise FileNotFoundError(2, "No such file", self.at(name).url)
        return RemoteBytes.of(self.at(name).url, facts)


def locate(url: str) -> File | RemoteFolder:
    """The file or folder that a URL names.

    Raises:
        FormatError: there is nothing, or it cannot be read.
    """
    address = parse(url)
    lists = not address.scheme.startswith("http")
    folder = RemoteFolder(address)
    if address.name.endswith(_FILES) or (address.name and lists and not url.endswith("/")):
        above = RemoteFolder(address.above)
        file = above.at(address.name)
        if (facts := above.facts(file.name)) is not None:
            if not lists and PurePosixPath(file.name).suffix != ".json":
                # Nobody can say what lies beside it, and it may be anybody's.
                above = RemoteFolder(address.above, Listing({file.name: facts}))
            return above.at(file.name)
        if not lists:
            raise FormatError("there is no such file", file=str(address))
    if not folder.listing.files and not folder.listing.folders:
        what = "no file of the names that checkpoints have" if not lists else "no such file or folder"
        raise FormatError(what, file=str(address), hint=None if lists else "name the file itself")
    _OPENED[folder.url] = folder
    return folder


def note_of(url: str) -> str | None:
    """What a user should know of how a URL was read."""
    store, _ = store_of(url)
    note: str | None = getattr(store, "note", None)
    return note


_OPENED: dict[str, RemoteFolder] = {}


class _Known:
    """See :class:`transcode.core.paths.Places`."""

    def __init__(self) -> None:
        self._contents: dict[RemoteBytes, bytes] = {}  # several look at a configuration

    def fetch(self, url: str) -> bytes | None:
        """A small file, from a folder that was opened or by itself."""
        address = parse(url)
        folder = _OPENED.get(str(address.above)) or RemoteFolder(address.above)
        facts = folder.facts(address.name)
        if facts is None:
            return None
        if facts.size > _SMALL:
            raise FormatError(f"has {facts.size} bytes, more than are read as a whole", file=url)
        file = RemoteBytes.of(folder.at(address.name).url, facts)
        if (known := self._contents.get(file)) is not None:
            return known
        content = bytearray(facts.size)
        with memoryview(content) as view:
            file.fetch(0, facts.size, view)
        if facts.size <= _TINY:
            self._contents[file] = bytes(content)
        return bytes(content)

    def names(self, url: str) -> list[str] | None:
        """The files in a folder that was opened."""
        folder = _OPENED.get(str(parse(url)))
        return None if folder is None else [file.name for file in folder.files()]


Url.places = _Known()
