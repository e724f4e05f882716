"""The formats whose metadata is edited in place, by first bytes of files and of records of edits."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from os import PathLike

from ...io.system import open_file
from .form import Form

__all__ = ["asked", "form_of", "recorded"]


def form_of(head: bytes) -> Form:
    """The format of a file that begins so."""
    return _gguf() if head.startswith(b"GGUF") else _safetensors()


def recorded(record: bytes) -> Form | None:
    """The format of a record that begins so; None where it is none."""
    return next((form for form in (_safetensors(), _gguf()) if record.startswith(form.magic)), None)


def asked(path: str | PathLike[str]) -> Mapping[str, str]:
    """Metadata that loaders of a file ask for where there is any. Raises OSError."""
    with open_file(path) as file:
        return form_of(file.read(8)).asks


@cache
def _safetensors() -> Form:
    from ..safetensors.form import SafetensorsForm

    return SafetensorsForm()


@cache
def _gguf() -> Form:
    from ..gguf.form import GgufForm

    return GgufForm()
