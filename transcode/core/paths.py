"""The user's home, which need not exist, paths as the system resolves them, and those of other systems."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator
from os import PathLike
from pathlib import Path
from typing import IO, Any, ClassVar, Protocol

from ..errors import FormatError, RecipeError, unsigned

__all__ = ["Places", "Url", "expanded", "home", "located", "real", "unsigned"]


class Places(Protocol):
    """What knows what lies under URLs."""

    def fetch(self, url: str) -> bytes | None:
        """The bytes of a small file; None where there is none.

        Raises:
            FormatError: it cannot be read, or is not small.
        """

    def names(self, url: str) -> list[str] | None:
        """The files in a folder that was opened; None where none was."""


class Url(type(Path())):  # type: ignore[misc]  # before 3.12 only the system's own kind can be derived from
    """Where something lies that is on no file system: a path whose text is a URL, ``scheme://a/b``.

    Names, suffixes and folders are taken from it as from any path. Nothing that asks the system finds it;
    what is small, as a configuration is, can be read from it all the same.

    Attributes:
        places: what knows of URLs (:mod:`transcode.io.remote` sets it); without it there is nothing there.
    """

    places: ClassVar[Places | None] = None

    def __str__(self) -> str:
        return re.sub(r"^([A-Za-z][A-Za-z\d+.-]+):/(?!/)", r"\1://", super().__str__())

    def __fspath__(self) -> str:
        return str(self)

    def read_bytes(self) -> bytes:
        """All of a small file.

        Raises:
            FileNotFoundError: there is none.
            FormatError: it cannot be read.
        """
        content = None if Url.places is None else Url.places.fetch(str(self))
        if content is None:
            raise FileNotFoundError(2, "No such file or directory", str(self))
        return content

    def read_text(self, encoding: str | None = None, errors: str | None = None, **_: object) -> str:
        """As :meth:`read_bytes`, decoded."""
        return self.read_bytes().decode(encoding or "utf-8", errors or "strict")

    def open(self, mode: str = "r", *_: Any, **how: Any) -> IO[Any]:
        """A reader of a small file; see :meth:`read_bytes`."""
        if "b" in mode:
            return io.BytesIO(self.read_bytes())
        return io.StringIO(self.read_text(how.get("encoding"), how.get("errors")))

    def is_file(self, **_: object) -> bool:
        """Whether a small file can be read there."""
        try:
            self.read_bytes()
        except (OSError, FormatError):
            return False
        return True

    def is_dir(self, **_: object) -> bool:
        """Whether it is a folder that was opened."""
        return Url.places is not None and Url.places.names(str(self)) is not None

    def iterdir(self) -> Iterator[Url]:
        """The files in a folder that was opened."""
        return iter([self / name for name in (Url.places and Url.places.names(str(self))) or ()])


def located(text: str) -> Path:
    """The path of a text as messages and values have it: a :class:`Url` where it is one."""
    return Url(text) if re.match(r"[A-Za-z][A-Za-z\d+.-]+://", text) else Path(text)


def home() -> Path | None:
    """The user's home; None where neither ``$HOME`` nor the system's list of users knows one (containers)."""
    try:
        return Path.home()
    except RuntimeError:
        return None


def expanded(path: str | PathLike[str]) -> Path:
    """The path with ``~`` written out.

    Raises:
        RecipeError: there is no such home.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise RecipeError(
            "there is no home folder for ~", file=path, hint="set HOME, or write the path out"
        ) from None


def real(path: str | PathLike[str]) -> Path:
    """The path with links followed as far as they lead; those of a loop stay.

    ``Path.resolve`` raises RuntimeError for a loop before Python 3.13.
    """
    return Path(os.path.realpath(path))
