"""Names of files that Windows takes for something else."""

from __future__ import annotations

import re

from . import system

__all__ = ["refused"]

# "Naming Files, Paths, and Namespaces" of Microsoft's documentation; superscript digits count as digits.
# Texts, not compiled expressions: elsewhere nothing asks for them.
_DEVICE = r"(?i)(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9\u00b9\u00b2\u00b3])(\..*)?"
_CHARACTERS = r'[<>:"|?*\\/\x00-\x1f]'


def refused(name: str) -> str | None:
    """Why a name in a folder is not that of a file here; None if it is. Only Windows refuses any.

    Args:
        name: without folders.
    """
    if not system.WINDOWS:
        return None
    if match := re.search(_CHARACTERS, name):
        return f"names with {match[0]!r} are not those of files on Windows"
    if name.endswith((".", " ")):
        return "Windows drops the dots and blanks at the end of names"
    if re.fullmatch(_DEVICE, name.rstrip(" ")) or re.fullmatch(_DEVICE, name.split(".")[0].rstrip(" ")):
        return f"{name.split('.')[0]} is a device on Windows"
    return None
