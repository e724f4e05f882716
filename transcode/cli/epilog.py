"""What stands behind the options in help texts: prose is wrapped, command lines go on with a backslash."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator

import click

__all__ = ["write"]

_AS_IT_IS = "\b\n"
_DEEPER = 4
_ON = " \\"
_WORD = re.compile(r"(?:'[^']*'|\"[^\"]*\"|\S)+")


def write(epilog: str, formatter: click.HelpFormatter) -> None:
    """Write paragraphs; the lines of those that begin with ``\\b`` stay lines."""
    formatter.write_paragraph()
    with formatter.indentation():
        for number, paragraph in enumerate(re.split(r"\n\n+", inspect.cleandoc(epilog))):
            if number:
                formatter.write_paragraph()
            if not paragraph.startswith(_AS_IT_IS):
                formatter.write_text(paragraph)
                continue
            for line in paragraph.removeprefix(_AS_IT_IS).splitlines():
                for part in _fitting(line, formatter.width - formatter.current_indent):
                    formatter.write(f"{' ' * formatter.current_indent}{part}\n")


def _fitting(line: str, columns: int) -> Iterator[str]:
    """A line in so many columns: a command that is longer goes on in the next line, between two words."""
    indent = len(line) - len(line.lstrip())
    if len(line) <= columns:
        yield line
        return
    part = " " * indent
    for words in _together(_WORD.findall(line)):
        whole = " ".join(words)
        fits = len(part) + 1 + len(whole) + len(_ON) <= columns
        for word in [whole] if fits or _DEEPER + indent + len(whole) + len(_ON) <= columns else words:
            if part.strip() and len(part) + 1 + len(word) + len(_ON) > columns:
                yield part + _ON
                part = " " * (indent + _DEEPER)
            part = f"{part} {word}" if part.strip() else part + word
    yield part


def _together(words: list[str]) -> Iterator[list[str]]:
    """Words of a command line: each option with its values, each command of several with its name."""
    group: list[str] = []
    for word in words:
        if group and (word.startswith("-") or word in ("|", "&&")):
            yield group
            group = []
        group.append(word)
    yield group
