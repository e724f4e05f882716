"""Files whose bytes are also somebody else's."""

from __future__ import annotations

import os
from os import PathLike
from pathlib import Path

__all__ = ["shared"]

_CACHES = ("models--", "datasets--", "spaces--")


def shared(path: str | PathLike[str]) -> str | None:
    """Why an edit of this file would change other files too, or None.

    An ordinary symbolic link is no reason: it names one file, which is then edited, and the link stays.
    """
    real = Path(os.path.realpath(path))
    links = real.stat().st_nlink
    if links > 1:
        return f"{links} hard links share its bytes, and all of them would change"
    blobs = real.parent
    if blobs.name == "blobs" and blobs.parent.name.startswith(_CACHES):
        return "its bytes are a blob of the hub cache, named by their checksum and shared by all snapshots"
    return None
