"""Regular expressions that come with a file: PEFT's patterns of module names, matched in bounded time."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Generic, TypeVar

from ..errors import FormatError

__all__ = ["Patterns"]

T = TypeVar("T")

_LONGEST = 1000
_MOST_REPEATS = 3
_SECONDS = 10.0

_TOKEN = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\(\?[^)]*?[:=!>)]|\{\d*(?:,\d*)?\}|.", re.DOTALL)


class Patterns(Generic[T]):
    """What an option says of modules, by patterns, as ``peft.utils.other.get_pattern_key`` reads them.

    A pattern must fit the end of a module's name, from the beginning or behind a dot; of several that fit,
    the first counts. Expressions come from strangers and could take for ever: those that repeat what repeats
    or branches, repeat more than three times without a bound, or refer back, are refused, so that matching
    takes polynomial time; and all of it together may take ten seconds.

    Args:
        file: where they are from.
        option: its name there.
        values: pattern -> what it says.
        whole: a pattern must fit the whole name.

    Raises:
        FormatError: a pattern is not valid, or not safe.
    """

    def __init__(self, file: Path, option: str, values: dict[str, T], whole: bool = False) -> None:
        self._file = file
        self._option = option
        self._whole = whole
        self._values = values
        self._regexes = {pattern: self._compiled(pattern) for pattern in values}
        self._left = _SECONDS
        self._found: dict[str, list[str]] = {}

    def get(self, name: str) -> T | None:
        """What is said of a module; None if nothing is."""
        found = self._matching(name)
        return self._values[found[0]] if found else None

    def unmatched(self, names: Iterable[str]) -> list[str]:
        """The patterns that fit none of these names."""
        used = {pattern for name in names for pattern in self._matching(name)}
        return [pattern for pattern in self._values if pattern not in used]

    def _matching(self, name: str) -> list[str]:
        if name not in self._found:
            begun = time.perf_counter()
            # Names that differ in an ending that the file gave them are matched alike, once.
            self._found[name] = [pattern for pattern, regex in self._regexes.items() if regex.match(name)]
            self._left -= time.perf_counter() - begun
            if self._left < 0:
                raise self._error(f"takes more than {_SECONDS:g} seconds to match", next(iter(self._values)))
        return self._found[name]

    def _compiled(self, pattern: str) -> re.Pattern[str]:
        try:
            regex = re.compile(rf"({pattern})\Z" if self._whole else rf"(.*\.)?({pattern})$")
        except (re.error, OverflowError, RecursionError) as error:
            raise FormatError(
                f"{self._option} {pattern!r} is not valid: {error}", file=self._file, hint="repair it"
            ) from None
        if (why := _unsafe(pattern)) is not None:
            raise self._error(why, pattern)
        return regex

    def _error(self, why: str, pattern: str) -> FormatError:
        return FormatError(
            f"{self._option} {pattern!r} {why}", file=self._file,
            hint="write the names of the modules instead",
        )  # fmt: skip


def _unsafe(pattern: str) -> str | None:
    """Why a valid expression could take more than polynomial time of a low degree; None if it cannot."""
    if len(pattern) > _LONGEST:
        return f"is longer than {_LONGEST} characters"
    repeats = 0
    groups = [False]  # for each open group: whether it repeats or branches inside
    closed: bool | None = None  # whether the group that has just been closed does
    for match in _TOKEN.finditer(pattern):
        token = match[0]
        if re.fullmatch(r"\\\d", token) or token.startswith("(?P="):
            return "refers back to a group"
        if token.startswith("(") and not token.endswith(")"):
            groups.append(False)
            closed = None
        elif token == ")":
            closed = groups.pop() if len(groups) > 1 else False
            groups[-1] = groups[-1] or closed
        elif token == "|":
            groups[-1] = True
            closed = None
        elif token in ("*", "+") or re.fullmatch(r"\{\d*,\d*\}|\{\d+\}", token):
            if closed:
                return "repeats what repeats or branches"
            groups[-1] = True
            repeats += 1
            closed = None
        else:
            closed = None if token != "?" else closed
    return f"repeats more than {_MOST_REPEATS} times" if repeats > _MOST_REPEATS else None
