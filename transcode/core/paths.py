"""The user's home, which need not exist, and paths as the system resolves them."""

from __future__ import annotations

import os
from os import PathLike
from pathlib import Path

from ..errors import RecipeError

__all__ = ["expanded", "home", "real"]


def home() -> Path | None:
    """The user's home; None where neither ``$HOME`` nor the system's list of users knows one (containers)."""
    try:
        return Path.home()
    except RuntimeError:
        return None


def expanded(path: str | PathLike[str]) -> Path:
    """The path with ``~`` written out.

    Raises:
        RecipeError: there is no such home.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise RecipeError(
            "there is no home folder for ~", file=path, hint="set HOME, or write the path out"
        ) from None


def real(path: str | PathLike[str]) -> Path:
    """The path with links followed as far as they lead; those of a loop stay.

    ``Path.resolve`` raises RuntimeError for a loop before Python 3.13.
    """
    return Path(os.path.realpath(path))
