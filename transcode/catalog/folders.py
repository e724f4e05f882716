"""Where the files of ``formats/`` are found: the user's own folder, the installed package, the checkout."""

from __future__ import annotations

import os
from collections.abc import Collection
from difflib import get_close_matches
from pathlib import Path

from ..core.paths import expanded, home
from ..errors import RecipeError

__all__ = ["find", "folders", "guess", "listing"]

_PACKAGE = Path(__file__).resolve().parent.parent


def folders() -> list[Path]:
    """The folders that are searched, first match first.

    ``$TRANSCODE_FORMATS`` if set, else ``transcode/formats`` in the user's configuration folder
    (``$XDG_CONFIG_HOME``, ``~/.config``, on Windows ``%APPDATA%``); then the data inside the installed
    package; then ``formats/`` of the checkout.

    Raises:
        RecipeError: ``$TRANSCODE_FORMATS`` is not a folder.
    """
    places = [_own(), _PACKAGE / "_formats", _PACKAGE.parent / "formats"]
    return [folder for folder in places if folder is not None and folder.is_dir()]


def listing(kind: str) -> dict[str, Path]:
    """All names of one kind (``"families"``, ``"conventions"``, ``"profiles"``) with their files, sorted."""
    paths: dict[str, Path] = {}
    for folder in folders():
        for path in (folder / kind).glob("*.yaml"):
            paths.setdefault(path.stem, path)
    return dict(sorted(paths.items()))


def find(kind: str, name: str) -> Path:
    """The file of one name.

    Raises:
        RecipeError: there is none; the message lists what there is.
    """
    for folder in folders():
        path = folder / kind / f"{name}.yaml"
        if Path(name).name == name and path.is_file():
            return path
    known = listing(kind)
    noun = {"families": "family", "conventions": "convention", "profiles": "profile"}.get(kind, kind)
    hint = f"known: {', '.join(known) or 'none'}{guess(name, known)}"
    raise RecipeError(f"unknown {noun} {name!r}", hint=hint)


def guess(word: str, known: Collection[str]) -> str:
    """Which of some words may be meant by one that is none of them, in brackets; empty if none is near."""
    close = get_close_matches(word, known, n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def _own() -> Path | None:
    chosen = os.environ.get("TRANSCODE_FORMATS")
    if chosen:
        folder = expanded(chosen)
        if not folder.is_dir():
            raise RecipeError(
                f"$TRANSCODE_FORMATS is {chosen!r}, which is not a folder", hint="correct or unset it"
            )
        return folder
    base = os.environ.get("XDG_CONFIG_HOME") or (os.environ.get("APPDATA") if os.name == "nt" else None)
    if base:
        return Path(base) / "transcode" / "formats"
    at = home()
    return None if at is None else at / ".config" / "transcode" / "formats"
