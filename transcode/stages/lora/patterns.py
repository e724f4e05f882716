"""Regular expressions that come with a file: PEFT's patterns of module names, matched in bounded time."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Generic, TypeVar

from ...core.repeats import Weight, weigh
from ...errors import FormatError

__all__ = ["Patterns"]

T = TypeVar("T")

_MOST_REPEATS = 3
_SECONDS = 10.0


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
        self._weights: dict[str, Weight] = {}
        self._regexes = {pattern: self._compiled(pattern) for pattern in values}
        self._left = _SECONDS
        self._found: dict[str, list[str]] = {}

    def get(self, name: str) -> T | None:
        """What is said of a module; None if nothing is."""
        matching = self._matching(name)
        return self._values[matching[0]] if matching else None

    def unmatched(self, names: Iterable[str]) -> list[str]:
        """The patterns that fit none of these names."""
        used = {pattern for name in names for pattern in self._matching(name)}
        return [pattern for pattern in self._values if pattern not in used]

    def _matching(self, name: str) -> list[str]:
        if name not in self._found:
            for pattern, weight in self._weights.items():
                if not weight.bears(len(name)):
                    raise self._error(f"takes too long on a name of {len(name)} characters", pattern)
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
        weight = self._weights[pattern] = weigh(pattern)
        if (why := _unsafe(weight)) is not None:
            raise self._error(why, pattern)
        return regex

    def _error(self, why: str, pattern: str) -> FormatError:
        return FormatError(
            f"{self._option} {pattern!r} {why}", file=self._file,
            hint="write the names of the modules instead",
        )  # fmt: skip


def _unsafe(weight: Weight) -> str | None:
    """Why a valid expression could take more than polynomial time of a low degree; None if it cannot."""
    if weight.why is not None:
        return weight.why
    if weight.refers:
        return "refers back to a group"
    return f"repeats more than {_MOST_REPEATS} times" if weight.repeats > _MOST_REPEATS else None
