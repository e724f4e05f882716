"""Tables and sizes for people: plain text, as loading a terminal library takes longer than the command."""

from __future__ import annotations

import os
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Sequence

from ..core.text import count, size
from .say import echo, one_line

__all__ = [
    "DEFAULT_WIDTH",
    "beside_names",
    "count",
    "cut",
    "ended",
    "lines",
    "print_table",
    "size",
    "span",
    "width",
]

DEFAULT_WIDTH = 100
"""Columns where nobody knows how many there are, as in a pipe: nothing is cut then."""

_LEAST = 40
_DOTS = "..."
_GAP = 2
_MORE = 2
"""Digits by which numbers grow where rows are put together."""


def width() -> int | None:
    """Columns of the terminal, or those that ``COLUMNS`` names; None where there is neither, as in a pipe."""
    said = os.environ.get("COLUMNS", "")
    if said.isascii() and said.isdigit() and int(said) > 0:
        return max(int(said), _LEAST)
    try:
        columns = os.get_terminal_size(sys.stdout.fileno()).columns if sys.stdout.isatty() else 0
    except (OSError, ValueError, AttributeError):
        columns = 0
    return max(columns, _LEAST) if columns else None


def span(text: str) -> int:
    """The columns that a text takes: wide characters two, combining ones none."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1
        for char in text
    )


def cut(text: str, columns: int) -> str:
    """A text in so many columns: what is too long lacks its middle, as names differ at both ends."""
    if span(text) <= columns:
        return text
    room = max(columns - len(_DOTS), 0)
    back = _fitting(text[::-1], room // 2)[::-1]
    return f"{_fitting(text, room - room // 2)}{_DOTS}{back}"


def _fitting(text: str, columns: int) -> str:
    taken = 0
    for at, char in enumerate(text):
        taken += span(char)
        if taken > columns:
            return text[:at]
    return text


def ended(text: str, columns: int) -> str:
    """A text in so many columns: what is too long lacks its end."""
    text = one_line(text)
    return text if span(text) <= columns else _fitting(text, columns - len(_DOTS)) + _DOTS


def beside_names(rows: Iterable[Sequence[str]], *, most: int) -> int:
    """The columns that a table needs beside its first, where no other takes more than ``most``."""
    widths: list[int] = []
    for row in rows:
        others = [min(span(one_line(cell)), most) + _GAP for cell in row[1:]]
        widths = list(map(max, widths, others)) if widths else others
    return sum(widths) + _MORE


def lines(text: str, first: str, columns: int | None, *, hanging: int | None = None) -> Iterator[str]:
    """A text behind ``first`` on as many lines as it takes, broken between words, or in longer words.

    Args:
        columns: of a line; None never breaks.
        hanging: spaces before all lines but the first; as many as ``first`` is long, unless said.
    """
    text, first = one_line(text), one_line(first)
    if columns is None:
        yield first + text
        return
    spaces = " " * (len(first) if hanging is None else hanging)
    line, empty = first, True
    for word in text.split(" "):
        if not empty and span(line) + 1 + span(word) > columns:
            yield line.rstrip()
            line, empty = spaces, True
        line += word if empty else f" {word}"
        empty = False
        while span(line) > columns:
            head = _fitting(line, columns)
            yield head
            line = spaces + line[len(head) :]
    yield line.rstrip()


def print_table(
    header: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    right: Sequence[int] = (),
    tight: Sequence[tuple[int, int]] = ((0, 10),),
    indent: int = 0,
) -> None:
    """Print columns that fit the terminal.

    Args:
        header: titles; none are printed if all are empty.
        right: numbers of the columns that are aligned to the right.
        tight: columns that are cut where a line would be wider than the terminal, and to how many characters:
            the first of them first.
        indent: spaces before each line.
    """
    cells = [[one_line(str(cell)) for cell in row] for row in rows]
    widths = [max(span(row[i]) for row in [list(header), *cells]) for i in range(len(header))]
    if (columns := width()) is not None:
        over = indent + sum(widths) + _GAP * (len(widths) - 1) - columns
        for i, least in tight:
            least = max(span(header[i]), least)
            if over > 0 and widths[i] > least:
                narrow = max(widths[i] - over, least)
                over -= widths[i] - narrow
                widths[i] = narrow

    def line(row: Sequence[str]) -> str:
        parts = []
        for i, (cell, columns) in enumerate(zip(row, widths, strict=True)):
            cell = cut(cell, columns)
            space = " " * (columns - span(cell))
            parts.append(space + cell if i in right else cell + space)
        return " " * indent + (" " * _GAP).join(parts).rstrip()

    if any(header):
        echo(line(header), bold=True)
    for row in cells:
        echo(line(row))
