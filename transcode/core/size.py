"""Sizes as people write them."""

from __future__ import annotations

import re

from ..errors import RecipeError

__all__ = ["parse_size", "size_text"]

_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
          "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}  # fmt: skip


_WHOLE = re.compile(r"\+?[0-9]+(\.0*)?([eE]\+?[0-9]+)?", re.ASCII)
"""What may stand before no unit, or before ``B``: ``1.5`` bytes there are not."""


def parse_size(text: str | int) -> int:
    """Bytes of ``"5GB"``, ``"512MB"``, ``"64MiB"`` or a number; powers of ten unless spelled with an i.

    Raises:
        RecipeError: not a positive size.
    """
    value: int | float
    unit = ""
    if isinstance(text, int) and not isinstance(text, bool):
        value = text
    elif not isinstance(text, str):
        raise RecipeError(f"{text!r} is not a size", hint="write 5GB, 512MB, 64MiB or a number of bytes")
    else:
        digits = text.strip().rstrip("bBiIkKmMgGtT ")
        unit = text.strip()[len(digits) :].strip().lower()
        try:
            if "_" in digits:
                raise ValueError
            value = (int(digits) if digits.isdecimal() else float(digits)) * _UNITS[unit]
        except (ValueError, KeyError):
            raise RecipeError(f"{text!r} is not a size", hint="write 5GB, 512MB or 64MiB") from None
    if not 1 <= value < 2**63:
        said = repr(text) if isinstance(text, str) or abs(text) < 2**100 else "the number"
        raise RecipeError(f"{said} is not a positive size that a file can have")
    if isinstance(text, str) and unit in ("", "b") and _WHOLE.fullmatch(digits.strip()) is None:
        raise RecipeError(f"{text!r} is no whole number of bytes", hint="write 5GB, 512MB or 64MiB")
    return int(value)


def size_text(size: int) -> str:
    """The shortest text that :func:`parse_size` reads as that many bytes."""
    for unit in ("TB", "GB", "MB", "KB"):
        if size % _UNITS[unit.lower()] == 0:
            return f"{size // _UNITS[unit.lower()]}{unit}"
    return str(size)
