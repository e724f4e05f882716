"""Tables and sizes for people: plain text, as loading a terminal library takes longer than the command."""

from __future__ import annotations

import os
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest

from ..core.text import count, size
from .say import echo, one_line

__all__ = [
    "DEFAULT_WIDTH",
    "apart",
    "beside_names",
    "count",
    "cut",
    "ended",
    "heading",
    "lines",
    "paragraph",
    "print_table",
    "size",
    "span",
    "width",
]

DEFAULT_WIDTH = 100
"""Columns where nobody knows how many there are, as in a pipe: nothing is cut then."""

_WRAPPED = 80
"""Columns that texts are wrapped to, where nobody knows how many there are."""

_LEAST = 40
_NARROWEST = 12
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
    return f"{_fitting(text, room - room // 2)}{_DOTS}{_ending(text, room // 2)}"


def _ending(text: str, columns: int) -> str:
    return _fitting(text[::-1], columns)[::-1]


def _fitting(text: str, columns: int) -> str:
    taken = 0
    for at, char in enumerate(text):
        taken += span(char)
        if taken > columns:
            return text[:at]
    return text


def apart(texts: Sequence[str], columns: int) -> list[str]:
    """Texts in so many columns each. What is too long is cut so that different texts stay different, where
    that can be: the middle of most, and what all of those begin or end with which would look alike.
    """
    shown = {text: cut(text, columns) for text in dict.fromkeys(texts)}
    alike: dict[str, list[str]] = {}
    for text, short in shown.items():
        alike.setdefault(short, []).append(text)
    for group in (group for group in alike.values() if len(group) > 1):
        taken = set(shown.values()) - {shown[group[0]]}
        room = columns - len(_DOTS)
        for front in sorted(range(max(room, 0) + 1), key=lambda front: abs(front - room // 2)):
            cuts = [_fitting(text, front) + _DOTS + _ending(text, room - front) for text in group]
            if len(set(cuts)) == len(cuts) and not taken.intersection(cuts):
                shown.update(zip(group, cuts, strict=True))
                break
    return [shown[text] for text in texts]


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
    wrap: bool = False,
) -> None:
    """Print columns that fit the terminal.

    Args:
        header: titles; none are printed if all are empty.
        right: numbers of the columns that are aligned to the right.
        tight: columns that are cut where a line would be wider than the terminal, and to how many characters:
            the first of them first.
        indent: spaces before each line.
        wrap: what does not fit goes on in the next line, within its column, and nothing is cut.
    """
    cells = [[one_line(str(cell)) for cell in row] for row in rows]
    widths = [max(map(span, column)) for column in zip(header, *cells, strict=True)]
    columns = (width() or _WRAPPED) if wrap else width()
    if columns is not None:
        over = indent + sum(widths) + _GAP * (len(widths) - 1) - columns
        if wrap:
            _take_in(widths, over)
        else:
            _tighten(widths, over, [(i, max(span(header[i]), least)) for i, least in tight])
    fitted = [
        [list(lines(cell, "", size)) for cell in column] if wrap else _apart_or_wrapped(column, size)
        for column, size in zip(zip(*cells, strict=True), widths, strict=False)  # where there are rows
    ]
    if any(header):
        _print_row(
            [list(lines(title, "", size)) for title, size in zip(header, widths, strict=True)],
            widths,
            right,
            indent,
            bold=True,
        )
    for row in zip(*fitted, strict=True):
        _print_row(row, widths, right, indent)


def _apart_or_wrapped(texts: Sequence[str], columns: int) -> list[list[str]]:
    """Texts in so many columns each, cut into one line; those that nothing tells apart then, in several."""
    short = apart(texts, columns)
    meant: dict[str, set[str]] = {}
    for text, one in zip(texts, short, strict=True):
        meant.setdefault(one, set()).add(text)
    return [
        [one] if len(meant[one]) == 1 else list(lines(text, "", columns))
        for text, one in zip(texts, short, strict=True)
    ]


def _tighten(widths: list[int], over: int, tight: Iterable[tuple[int, int]]) -> None:
    """Take what is over from one column after the other, down to what is left to each."""
    for i, least in tight:
        if over > 0 and widths[i] > least:
            narrow = max(widths[i] - over, least)
            over -= widths[i] - narrow
            widths[i] = narrow


def _take_in(widths: list[int], over: int) -> None:
    """Take what is over from the widest columns, column by column."""
    while over > 0 and max(widths) > _NARROWEST:
        widths[widths.index(max(widths))] -= 1
        over -= 1


def _print_row(
    cells: Sequence[Sequence[str]],
    widths: Sequence[int],
    right: Sequence[int],
    indent: int,
    *,
    bold: bool = False,
) -> None:
    """Print a row, of whose cells each has one line or more."""
    for parts in zip_longest(*cells, fillvalue=""):
        padded = []
        for i, (part, columns) in enumerate(zip(parts, widths, strict=True)):
            space = " " * (columns - span(part))
            padded.append(space + part if i in right else part + space)
        echo(" " * indent + (" " * _GAP).join(padded).rstrip(), bold=bold)


def heading(text: str) -> None:
    """Print a line that stands above others, wrapped."""
    for line in lines(text, "", width() or _WRAPPED, hanging=_GAP):
        echo(line, bold=True)


def paragraph(label: str, text: str, *, indent: int = 2, labels: int = 12) -> None:
    """Print a label and, beside it, a text that is wrapped."""
    before = " " * indent + label.ljust(labels) + " " * _GAP
    for line in lines(text, before, width() or _WRAPPED):
        echo(line)
