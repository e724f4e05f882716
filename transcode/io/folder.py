"""Folders: names, what is known of each, and their bytes. A local folder is one implementation.

Which files are the weights of a checkpoint is found through this protocol, so that it is found in the same
way wherever a folder lies.
"""

from __future__ import annotations

import os
from os import PathLike
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Protocol

from ..errors import FormatError
from .links import leads_out

if TYPE_CHECKING:
    from .bytes import Bytes

__all__ = ["File", "Folder", "LocalFolder"]


class Folder(Protocol):
    """Some names, most of them of files.

    Attributes:
        url: where it is, as messages name it; of a local folder its path as it was given.
        name: its own.
        path: the local folder that it is; None where there is none.
    """

    url: str
    name: str
    path: Path | None

    def at(self, name: str) -> File:
        """A file in it, which may not be there."""

    def files(self) -> list[File]:
        """What is in it, sorted by name, without folders and hidden names; links that lead nowhere are.

        Raises:
            FormatError: it cannot be read.
        """

    def folders(self) -> list[Folder]:
        """The folders in it, sorted by name, without hidden ones.

        Raises:
            FormatError: it cannot be read.
        """

    def inner(self, name: str) -> Folder | None:
        """A folder in it; None where there is none of that name."""

    def outer(self) -> Folder | None:
        """The folder that it is in; None if that cannot be known."""

    def exists(self, name: str) -> bool:
        """Whether there is something of that name; not for links that lead nowhere."""

    def size(self, name: str) -> int | None:
        """Bytes of a file; None where there is no file of that name."""

    def dangling(self, name: str) -> str | None:
        """Where a link leads that leads nowhere; None for all else."""

    def outside(self, name: str) -> str | None:
        """Where a link leads out of the folder; None for all else."""

    def open(self, name: str, *, mmap: bool = True, drop_cache: bool = False) -> Bytes:
        """The bytes of a file.

        Args:
            mmap, drop_cache: how a local file is read; see :class:`.local.MappedFile`.

        Raises:
            OSError: there is no such file.
        """


class File:
    """A name in a folder; a value, which compares by where it is.

    Attributes:
        url: as messages name it.
        name: in the folder.
        folder: what knows of it.
    """

    __slots__ = ("folder", "name", "url")

    def __init__(self, url: str, name: str, folder: Folder) -> None:
        self.url = url
        self.name = name
        self.folder = folder

    def __repr__(self) -> str:
        return f"File({self.url!r})"

    def __str__(self) -> str:
        return self.url

    def __eq__(self, other: object) -> bool:
        return isinstance(other, File) and self.url == other.url

    def __hash__(self) -> int:
        return hash(self.url)

    def __lt__(self, other: File) -> bool:
        return self.url < other.url

    @property
    def stem(self) -> str:
        """The name without its last suffix."""
        return PurePosixPath(self.name).stem

    @property
    def suffix(self) -> str:
        """The last suffix of the name, with its dot."""
        return PurePosixPath(self.name).suffix

    @property
    def path(self) -> Path | None:
        """The local file that it is; None where there is none."""
        return None if self.folder.path is None else self.folder.path / self.name

    @property
    def size(self) -> int | None:
        """Bytes of it; None where there is no such file."""
        return self.folder.size(self.name)

    def exists(self) -> bool:
        """Whether there is something of that name."""
        return self.folder.exists(self.name)

    def open(self, *, mmap: bool = True, drop_cache: bool = False) -> Bytes:
        """See :meth:`Folder.open`."""
        return self.folder.open(self.name, mmap=mmap, drop_cache=drop_cache)


class LocalFolder(Folder):
    """A folder of the local file system."""

    path: Path

    def __init__(self, path: str | PathLike[str]) -> None:
        self.path = Path(path)
        self.url = str(self.path)
        self.name = self.path.absolute().name

    def __repr__(self) -> str:
        return f"LocalFolder({self.url!r})"

    def at(self, name: str) -> File:
        return File(str(self.path / name), name, self)

    def files(self) -> list[File]:
        return [self.at(path.name) for path in self._visible(folders=False)]

    def folders(self) -> list[Folder]:
        return [LocalFolder(path) for path in self._visible(folders=True)]

    def _visible(self, *, folders: bool) -> list[Path]:
        try:
            names = [path for path in self.path.iterdir() if not path.name.startswith(".")]
            return sorted(path for path in names if path.is_dir() == folders)
        except OSError as error:
            raise FormatError(f"cannot be read: {error.strerror}", file=self.url) from None

    def inner(self, name: str) -> Folder | None:
        return LocalFolder(self.path / name) if (self.path / name).is_dir() else None

    def outer(self) -> Folder | None:
        above = self.path.absolute().parent
        return LocalFolder(above) if above != self.path.absolute() else None

    def exists(self, name: str) -> bool:
        return (self.path / name).exists()

    def size(self, name: str) -> int | None:
        path = self.path / name
        return path.stat().st_size if path.is_file() else None

    def dangling(self, name: str) -> str | None:
        path = self.path / name
        return os.readlink(path) if path.is_symlink() and not path.exists() else None

    def outside(self, name: str) -> str | None:
        target = leads_out(self.path / name, self.path)
        return None if target is None else str(target)

    def open(self, name: str, *, mmap: bool = True, drop_cache: bool = False) -> Bytes:
        from .local import MappedFile  # commands that look at metadata alone do without

        return MappedFile(self.path / name, mmap=mmap, drop_cache=drop_cache)
