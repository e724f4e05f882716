"""Names of files that Windows takes for something else."""

from __future__ import annotations

import re

from . import system

__all__ = ["refused"]

# "Naming Files, Paths, and Namespaces" of Microsoft's documentation; superscript digits count as digits.
_DEVICE = re.compile(
    r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9\u00b9\u00b2\u00b3])(\..*)?", re.IGNORECASE
)
_CHARACTERS = re.compile(r'[<>:"|?*\\/\x00-\x1f]')


def refused(name: str) -> str | None:
    """Why a name in a folder is not that of a file here; None if it is. Only Windows refuses any.

    Args:
        name: without folders.
    """
    if not system.WINDOWS:
        return None
    if match := _CHARACTERS.search(name):
        return f"names with {match[0]!r} are not those of files on Windows"
    if name.endswith((".", " ")):
        return "Windows drops the dots and blanks at the end of names"
    if _DEVICE.fullmatch(name.rstrip(" ")) or _DEVICE.fullmatch(name.split(".")[0].rstrip(" ")):
        return f"{name.split('.')[0]} is a device on Windows"
    return None
