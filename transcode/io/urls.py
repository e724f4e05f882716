"""URLs, where a local path is asked for."""

from __future__ import annotations

import os
import re
from os import PathLike

from ..errors import FormatError

__all__ = ["instead", "refuse_url", "remote"]

# A path object has only one slash left of the two, and one letter is a drive of Windows.
_URL = re.compile(r"[a-z][a-z\d+.-]+:/", re.IGNORECASE)
_STORE = re.compile(
    r"(hf|s3|gs|gcs|az|abfss?|wasbs?|oss|cos|obs|r2|ms|modelscope|huggingface|file):", re.IGNORECASE
)


def refuse_url(path: str | PathLike[str]) -> None:
    """Refuse a source that is a URL, and no file or folder of that name either.

    Raises:
        FormatError: with what to do.
    """
    text = os.fspath(path)
    if os.path.lexists(text):
        return
    if text == "-":
        raise FormatError(
            "standard input is no source: tensors are read at their offsets",
            file=text,
            hint="name a file or a folder",
        )
    if remote(text):
        raise FormatError(
            "is a URL, and only local files and folders are read",
            file=text,
            hint=instead(text) or "download it first, and name the file or folder",
        )


def remote(text: str) -> bool:
    """Whether a text is a URL, or ``hf:org/name`` and the like, and not a path."""
    return _URL.match(text) is not None or _STORE.match(text) is not None


def instead(text: str) -> str | None:
    """What to do about a URL of a local file; None for all others."""
    if not text.lower().startswith("file:"):
        return None
    return f"write the path, /{text[5:].lstrip('/')}"
