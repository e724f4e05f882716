"""What a user names: a local file or folder, what the hub's cache has of a name, or a URL."""

from __future__ import annotations

import os
from os import PathLike
from pathlib import Path

from ..core.paths import unsigned
from ..errors import FormatError
from . import commit, hub
from .folder import File, Folder, LocalFolder
from .urls import instead, refuse_url, remote_url, written_out

__all__ = ["local", "locate", "note_of", "refuse_empty"]


def local(path: str | PathLike[str], *, stdin: str = "standard input cannot be read here") -> Path:
    """The local path that a user means: as given, or where a name on the hub lies in the hub's cache.

    Every path to read goes through here, so that all commands take the same names and refuse the same URLs.

    Args:
        stdin: why not ``-``.

    Raises:
        FormatError: empty, a URL, or a model of the hub that is not in the cache; see :func:`.hub.find`.
    """
    refuse_empty(path)
    refuse_url(path, stdin=stdin)
    snapshot = hub.find(path)
    return Path(path) if snapshot is None else snapshot.path


def refuse_empty(path: str | PathLike[str]) -> None:
    """Raise FormatError for an empty path, as of a variable that is not set: it is no current folder."""
    if not os.fspath(path):
        raise FormatError("no path is given: it is empty", hint="a dot is the current folder")


def note_of(url: str) -> str | None:
    """What a user should know of how a URL was read; None if nothing."""
    from .remote import folder

    return folder.note_of(url)


def locate(path: str | PathLike[str]) -> Folder | File:
    """The folder or file that a user named. What a run began to put in place there is finished first.

    Raises:
        FormatError: there is none, or it is not one that can be read here; see :func:`local`.
    """
    if (url := remote_url(path)) is not None:
        if hub.repository_of(url) is not None and not url.startswith(f"{hub.PREFIX}/"):
            raise FormatError("is an address of the hub", file=unsigned(written_out(url)), hint=instead(url))
        from .remote.folder import locate as locate_remote  # most paths are local

        return locate_remote(url)
    given, path = path, local(path, stdin="standard input is no source: tensors are read at their offsets")
    folder = path if path.is_dir() else path.parent
    commit.settle(folder)
    if path.is_dir():
        return LocalFolder(path)
    file = LocalFolder(folder).at(path.name)
    if not file.exists():
        target = file.folder.dangling(file.name)
        if target is not None:
            raise FormatError(
                f"is a link to {target}, which does not exist", file=path, hint="is the download complete?"
            )
        if hub.looks_like_id(os.fspath(given)) and (meant := hub.parse(os.fspath(given))) is not None:
            raise FormatError(
                f"no such file or folder, nor is it in the hub cache {hub.cache()}",
                file=path,
                hint=f"if it is a model of the hub: {meant.download}",
            )
        raise FormatError("no such file or folder", file=path)
    return file
