"""Tables whose columns are wrapped, so that they fit the terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence

from . import table
from .say import echo, one_line

__all__ = ["heading", "paragraph", "print_wrapped", "width"]

_GAP = 2
_NARROWEST = 12


def width() -> int:
    """Columns of the terminal; 80 where there is none."""
    return table.width() or 80


def print_wrapped(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print columns; what does not fit goes on in the next line, within its column."""
    cells = [[one_line(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(header, *cells, strict=True)]
    while sum(widths) + _GAP * (len(widths) - 1) > width() and max(widths) > _NARROWEST:
        widths[widths.index(max(widths))] -= 1
    for number, row in enumerate((list(header), *cells)):
        columns = [_wrapped(cell, size) for cell, size in zip(row, widths, strict=True)]
        for line in range(max(map(len, columns))):
            parts = (
                (column[line] if line < len(column) else "").ljust(size)
                for column, size in zip(columns, widths, strict=True)
            )
            echo((" " * _GAP).join(parts).rstrip(), bold=number == 0)


def heading(text: str) -> None:
    """Print a line that stands above others, wrapped."""
    for number, line in enumerate(_wrapped(one_line(text), width() - _GAP)):
        echo((" " * _GAP if number else "") + line, bold=True)


def paragraph(label: str, text: str, *, indent: int = 2, labels: int = 12) -> None:
    """Print a label and, beside it, a text that is wrapped."""
    before = " " * indent + label.ljust(labels) + " " * _GAP
    lines = _wrapped(one_line(text), width() - len(before))
    for number, line in enumerate(lines):
        echo((before if number == 0 else " " * len(before)) + line)


def _wrapped(text: str, size: int) -> list[str]:
    return textwrap.wrap(text, size, break_on_hyphens=False) or [""]
