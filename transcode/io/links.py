"""Files whose bytes are also somebody else's."""

from __future__ import annotations

import os
from os import PathLike
from pathlib import Path

__all__ = ["leads_out", "shared"]

_CACHES = ("models--", "datasets--", "spaces--")


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
    return real.parent.name == "blobs" and real.parent.parent.name.startswith(_CACHES)
