"""Where the files of ``formats/`` are found: the user's own folder, the installed package, the checkout."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from ..core.nearest import guess
from ..core.paths import expanded, home
from ..errors import RecipeError

__all__ = ["find", "folders", "is_shipped", "listing"]

_KINDS = (
    "conventions", "families", "foreign", "ggml", "lora", "models", "nunchaku", "profiles", "programs",
)  # fmt: skip
"""The folders that are read, see formats/README.md."""

_PACKAGE = Path(__file__).resolve().parent.parent
_SHIPPED = (_PACKAGE / "_formats", _PACKAGE.parent / "formats")
"""Data inside the installed package, and of the checkout."""


def folders() -> list[Path]:
    """The folders that are searched, first match first.

    ``$TRANSCODE_FORMATS`` if set, else ``transcode/formats`` in the user's configuration folder
    (``$XDG_CONFIG_HOME``, ``~/.config``, on Windows ``%APPDATA%``); then the data inside the installed
    package; then ``formats/`` of the checkout.

    Raises:
        RecipeError: ``$TRANSCODE_FORMATS`` is not a folder; or the user's holds YAML that nobody reads.
    """
    own = _own()
    if own is not None and own.is_dir():
        _refuse_unread(own)
    places = [own, *_SHIPPED]
    return [folder for folder in places if folder is not None and folder.is_dir()]


def listing(kind: str) -> dict[str, Path]:
    """All names of one kind (``"families"``, ``"conventions"``, ``"profiles"``) with their files, sorted."""
    paths: dict[str, Path] = {}
    for folder in folders():
        for path in (folder / kind).glob("*.yaml"):
            paths.setdefault(path.stem, path)
    return dict(sorted(paths.items()))


def is_shipped(path: Path) -> bool:
    """Whether a file, or a folder of them, is one that comes with the package."""
    return not {path.parent, path.parent.parent}.isdisjoint(_SHIPPED)


def find(kind: str, name: str, elsewhere: Callable[[], str | None] = lambda: None) -> Path:
    """The file of one name.

    Args:
        elsewhere: what the name is instead, and what to do, in words; asked where there is no such file.

    Raises:
        RecipeError: there is none; the message lists what there is.
    """
    for folder in folders():
        path = folder / kind / f"{name}.yaml"
        if Path(name).name == name and path.is_file():
            return path
    known = listing(kind)
    noun = {
        "families": "family",
        "conventions": "convention",
        "profiles": "profile",
        "programs": "program",
        "models": "model",
    }.get(kind, kind)
    hint = elsewhere() or f"known: {', '.join(known) or 'none'}{guess(name, known)}"
    raise RecipeError(f"unknown {noun} {name!r}", hint=hint)


def _refuse_unread(folder: Path) -> None:
    """Stop at YAML under a name by which it is not looked up: it would have no effect, and nobody be told."""
    for path in sorted((*folder.glob("*.y*ml"), *folder.glob("*/*.y*ml"))):
        kind = path.parent.name
        if path.parent == folder or kind not in _KINDS:
            where = "" if path.parent == folder else guess(kind, _KINDS)
            raise RecipeError(
                f"{path}: is in none of the folders that are read",
                hint=f"put it into one of {', '.join(_KINDS)}{where}",
            )
        if path.suffix == ".yml":
            raise RecipeError(f"{path}: is not read", hint=f"call it {path.stem}.yaml")
        if not path.is_file():
            raise RecipeError(f"{path}: is not a file", hint="put the text there, or take it away")


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
