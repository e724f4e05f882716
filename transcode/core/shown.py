"""How objects show in an interpreter and in a notebook: a few lines, whatever a model holds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import MISSING, fields
from itertools import islice
from typing import Any, NamedTuple

from ..errors import unsigned
from .text import printable

__all__ = ["ROWS", "Overview", "Shown", "Table", "as_call"]

ROWS = 20
"""Rows of a table that are shown."""

_LINE = 200
"""Characters of a line."""

_CELL = 120

_ITEMS = 8
"""Entries of a list or a table in an argument that are shown."""


class Table(NamedTuple):
    """Some rows of what there are more.

    Attributes:
        header: titles of the columns.
        rows: the first ones; those beyond :data:`ROWS` are not shown.
        total: how many there are.
        right: columns of numbers.
    """

    header: tuple[str, ...]
    rows: Iterable[Sequence[object]]
    total: int
    right: tuple[int, ...] = ()

    def html(self) -> str:
        """The table; all cells escaped."""
        from html import escape  # notebooks alone want it

        heads = "".join(f"<th>{escape(title)}</th>" for title in self.header)
        lines = [f"<table><thead><tr>{heads}</tr></thead><tbody>"]
        shown = 0
        for row in islice(self.rows, ROWS):
            cells = (
                f'<td style="text-align:{"right" if column in self.right else "left"}">'
                f"{escape(printable(cell, _CELL))}</td>"
                for column, cell in enumerate(row)
            )
            lines.append(f"<tr>{''.join(cells)}</tr>")
            shown += 1
        lines.append("</tbody></table>")
        if self.total > shown:
            lines.append(f"<p>and {self.total - shown} more</p>")
        return "\n".join(lines)


class Overview(NamedTuple):
    """What is worth telling of an object.

    Attributes:
        head: what it is, in one line.
        lines: more, a line each.
        tables: for notebooks, which have room.
    """

    head: str
    lines: Sequence[str] = ()
    tables: Sequence[Table] = ()

    def text(self) -> str:
        """For an interpreter."""
        head, *more = [printable(line, _LINE) for line in (self.head, *self.lines)]
        return f"<{head}>" if not more else "\n  ".join([f"<{head}", *more]) + ">"

    def html(self) -> str:
        """For a notebook."""
        from html import escape

        head, *more = [escape(printable(line, _LINE)) for line in (self.head, *self.lines)]
        paragraphs = "".join(f"<br>\n{line}" for line in more)
        return "\n".join([f"<p><b>{head}</b>{paragraphs}</p>", *(table.html() for table in self.tables)])


class Shown:
    """An object that shows as its overview. Dataclasses that are one say ``repr=False``."""

    __slots__ = ()

    def overview(self) -> Overview:
        """What is worth telling of it, in an amount that does not grow with what it holds."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return self.overview().text()

    def _repr_html_(self) -> str:
        return self.overview().html()


def as_call(name: str, one: Any, *, hidden: Iterable[str] = ()) -> str:
    """A dataclass as a call that makes it: ``quantize('int8', exclude=('head',))``; long arguments are cut.

    Args:
        name: of the function.
        one: its fields that differ from their defaults are the arguments.
        hidden: fields that are left out.
    """
    arguments: list[str] = []
    for field in fields(one):
        value = getattr(one, field.name)
        default = field.default if field.default_factory is MISSING else field.default_factory()
        if not field.repr or field.name in hidden or (default is not MISSING and value == default):
            continue
        if isinstance(value, tuple | list) and len(value) > _ITEMS:
            text = f"({', '.join(map(repr, value[:_ITEMS]))}, ... {len(value)} in all)"
        else:
            text = repr(value)
        text = printable(unsigned(text), _CELL)
        leads = default is MISSING or field.name == getattr(one, "alone", "")
        arguments.append(text if leads and not arguments else f"{field.name}={text}")
    return printable(f"{name}({', '.join(arguments)})", _LINE)
