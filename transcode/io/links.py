"""Files whose bytes are also somebody else's."""

from __future__ import annotations

import os
from os import PathLike
from pathlib import Path

__all__ = ["identity", "leads_out", "same", "shared"]

_CACHES = ("models--", "datasets--", "spaces--")
_STORE = ".huggingface-shared-blobs"


def identity(path: Path) -> tuple[int, int] | str | None:
    """What all names of a file or folder have in common: links, hard links, mounts, other cases of letters.

    Device and inode; the path as the system resolves it where file systems number no files (some of Windows
    and of networks). None where there is nothing of that name.
    """
    try:
        facts = path.stat()
    except OSError:
        return None
    return (facts.st_dev, facts.st_ino) if facts.st_ino else os.path.normcase(os.path.realpath(path))


def same(first: Path, second: Path) -> bool:
    """Whether two paths lead to one existing file or folder."""
    one = identity(first)
    return one is not None and one == identity(second)


def shared(path: str | PathLike[str]) -> str | None:
    """Why an edit of this file would change other files too, or None.

    An ordinary symbolic link is no reason: it names one file, which is then edited, and the link stays.
    """
    real = Path(os.path.realpath(path))
    links = real.stat().st_nlink
    if links > 1:
        return f"{links} hard links share its bytes, and all of them would change"
    if _is_blob(real):
        return "its bytes are a blob of the hub cache, named by their checksum and shared by all snapshots"
    return None


def leads_out(path: Path, folder: Path) -> Path | None:
    """Where a link in a folder leads, if that is outside: a download could name any file of the machine so.

    The blobs of the hub's cache count as inside: files of its snapshots, and of its older local folders, are
    links to them (``models--*/snapshots/REVISION/x`` to ``models--*/blobs/DIGEST``).
    """
    if not path.is_symlink():
        return None
    real, home = Path(os.path.realpath(path)), Path(os.path.realpath(folder))
    if real.is_relative_to(home):
        return None
    snapshots = {above.parent for above in home.parents if above.name == "snapshots"}
    blobs = _is_blob(real) or (real.parent.name == "blobs" and real.parent.parent in snapshots)
    return None if blobs else real


def _is_blob(real: Path) -> bool:
    """Whether a file is a blob of one repository, or of the store that all repositories of a cache share
    (huggingface_hub, ``utils/_shared_blobs.py``: ``blobs/AB/ABCD...``, beside a file that marks the store).
    """
    if real.parent.name == "blobs" and real.parent.parent.name.startswith(_CACHES):
        return True
    store = real.parent.parent
    return store.name == "blobs" and real.parent.name == real.name[:2] and (store / _STORE).is_file()
