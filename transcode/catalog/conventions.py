"""The conventions that there are: ``formats/conventions/*.yaml``, and the user's own."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ..voice import called
from .convention import Convention
from .families import spellings
from .folders import find, listing
from .proven import proven

__all__ = ["convention", "conventions", "every_convention", "is_marker", "load_convention"]


def conventions() -> list[str]:
    """Names of all conventions, sorted; parses nothing."""
    return list(listing("conventions"))


def convention(name: str) -> Convention:
    """A convention by its name.

    Raises:
        RecipeError: no such convention, or a mistake in its file.
    """
    return proven(load_convention, find("conventions", name, lambda: _spelling(name)))


def _spelling(name: str) -> str | None:
    """What to do where the name is that of a program or of a spelling alone; None where it is neither."""
    from .programs import program, programs  # asked where there is no such convention

    if meant := {known.casefold(): known for known in programs()}.get(name.casefold()):
        one = program(meant)
        written = dict.fromkeys(way.writes for way in one.ways if way.writes)
        if written:
            return f"for {one.title} pass {' or '.join(called('convention', whose) for whose in written)}"
    if name not in spellings():
        return None
    return (
        f"{name} is a spelling, to which names are converted: pass {called('to', name)};"
        f" conventions: {', '.join(conventions())}"
    )


def every_convention() -> list[Convention]:
    """All conventions, sorted by name. Looks at each file: ask once, not for each tensor.

    Raises:
        RecipeError: a mistake in a file.
    """
    return [convention(name) for name in conventions()]


def is_marker(stored: str, among: Iterable[Convention]) -> bool:
    """Whether a stored name is that of a marker of one of some conventions."""
    return any(one.is_marker(stored) for one in among)


def load_convention(path: Path) -> Convention:
    """Read the file of one convention.

    Raises:
        RecipeError: a mistake in it, with its line.
    """
    from .convention_file import read  # all codecs and schemes: most starts find the files parsed

    return read(path)
