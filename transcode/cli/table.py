"""Tables and sizes for people: plain text, as loading a terminal library takes longer than the command."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..core.text import count, size
from .say import echo, one_line

__all__ = ["count", "print_table", "size"]


def print_table(
    header: Sequence[str], rows: Iterable[Sequence[object]], *, right: Sequence[int] = ()
) -> None:
    """Print columns; those numbered in ``right`` are aligned to the right."""
    cells = [[one_line(str(cell)) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in [list(header), *cells]) for i in range(len(header))]

    def line(row: Sequence[str]) -> str:
        return "  ".join(
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()

    head = line(header)
    echo(head, bold=True)
    for row in cells:
        echo(line(row))
