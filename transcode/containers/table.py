"""All formats of weight files, and which of them a file is."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ..errors import FormatError, PlanError
from .container import Container, FolderContainer, Split, Writable
from .foreign import foreign
from .gguf.container import Gguf
from .safetensors.container import Safetensors
from .torch.container import Torch

if TYPE_CHECKING:
    from ..io.folder import File

__all__ = ["FILES", "WRITABLE", "Split", "folders", "listed", "of_name", "sniff", "writer", "written"]

_SAFETENSORS, _GGUF = Safetensors(), Gguf()

FILES: tuple[Container, ...] = (_SAFETENSORS, Torch(), _GGUF)
"""Formats of files, in the order in which a folder that holds several is read."""

WRITABLE: tuple[Writable, ...] = (_SAFETENSORS, _GGUF)
"""Those that are written; the first where nothing says which is meant."""

_HEAD = 64


def folders() -> tuple[FolderContainer, ...]:
    """Formats of whole folders."""
    from .deepcompressor.container import DeepCompressor  # commands that look at metadata alone do without

    return (DeepCompressor(),)


def of_name(name: str) -> Container | None:
    """The format that the suffix of a name stands for."""
    return next((container for container in FILES if name.endswith(container.suffixes)), None)


def sniff(file: File) -> Container:
    """The format of a file, by content first: files are misnamed often enough.

    Raises:
        FormatError: it is empty, cannot be read, or is surely none of those that are read.
    """
    try:
        opened = file.open()
        with opened.open() as reader:
            head = reader.read(_HEAD)
    except OSError as error:
        raise FormatError(f"cannot be read: {error.strerror}", file=file.url) from None
    if not head:
        raise FormatError("is empty", file=file.url, hint="is the download complete?")
    for container in FILES:
        if container.begins(head):
            return container
    if (other := foreign(head)) is not None:
        raise FormatError(other[0], file=file.url, hint=other[1])
    # The first says what is wrong with files that are none.
    return of_name(file.name) or FILES[0]


def written(name: str) -> Writable | None:
    """The format in which a file of this name is written; None if it is no name of such a file."""
    return next((container for container in WRITABLE if name.endswith(container.suffixes[0])), None)


def writer(name: str) -> Writable:
    """As :func:`written`.

    Raises:
        PlanError: files of this name are not written.
    """
    container = written(name)
    if container is None:
        raise PlanError("is no name of a file that can be written", file=name)
    return container


def listed(containers: Iterable[Container], last: str) -> str:
    """The suffixes of formats as text: ``.safetensors, .bin or .pt`` with ``or`` as ``last``."""
    suffixes = [suffix for container in containers for suffix in container.suffixes]
    return f" {last} ".join(part for part in (", ".join(suffixes[:-1]), suffixes[-1]) if part)
