"""Patterns that select tensors by name, by whole components and never by substring."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

from ..errors import RecipeError

__all__ = ["Pattern", "compile_regex", "glob_regex"]

_REGEX = "re:"


@dataclass(frozen=True)
class Pattern:
    """Selects names: a glob over whole components, or a regular expression.

    ``re:EXPR`` is a regular expression that is searched in the whole name. Anything else is a glob that
    must fit a run of whole dot-separated components: ``head`` fits ``head.head.weight`` but not ``heads.0``,
    and ``blocks.0`` fits ``blocks.0.ffn.weight``, neither ``blocks.01`` nor ``vace_blocks.0``. ``*`` stands
    for any characters, dots included; ``?`` and ``[...]`` (``[!...]`` negates) for one character but a dot.

    Two patterns are equal when their texts are.

    Raises:
        RecipeError: the pattern is empty, or not a valid expression.
    """

    text: str

    def __post_init__(self) -> None:
        if not self.text.removeprefix(_REGEX).strip("."):
            raise RecipeError(f"{self.text!r} is an empty pattern", hint="use * to select every tensor")
        if self.text.startswith(_REGEX) or "[" in self.text:
            _ = self.regex  # mistakes are found now; no other pattern can hold one

    @cached_property
    def regex(self) -> re.Pattern[str]:
        """What fits. Compiled on demand: families hold hundreds of patterns, of which a run needs few."""
        if self.text.startswith(_REGEX):
            expression = self.text.removeprefix(_REGEX)
        else:
            expression = rf"(?<![^.]){glob_regex(self.text)}(?![^.])"
        return compile_regex(expression, shown=self.text)

    def matches(self, name: str) -> bool:
        """Whether the pattern selects that name."""
        return self.regex.search(name) is not None

    def __str__(self) -> str:
        return self.text


def compile_regex(expression: str, *, shown: str | None = None) -> re.Pattern[str]:
    """Compile a regular expression that a user wrote.

    Raises:
        RecipeError: it is not valid; the message quotes ``shown`` (else the expression) and the position.
    """
    try:
        return re.compile(expression, re.DOTALL)
    except (re.error, OverflowError, RecursionError) as error:
        raise RecipeError(f"{shown or expression!r} is not a valid pattern: {error}") from None


def glob_regex(glob: str) -> str:
    """The regular expression, without anchors, that fits what a glob fits.

    Raises:
        RecipeError: a ``[`` without its ``]``.
    """
    out: list[str] = []
    at = 0
    while at < len(glob):
        char = glob[at]
        at += 1
        if char == "*":
            if out[-1:] != [".*"]:
                out.append(".*")
        elif char == "?":
            out.append("[^.]")
        elif char == "[":
            # As in shells, a bracket right behind the opening (or its negation) is a member, not the end.
            first = at + (glob[at : at + 1] == "!")
            end = glob.find("]", first + 1)
            if end < 0:
                raise RecipeError(
                    f"{glob!r} is not a valid pattern: '[' is never closed", hint="close it with ]"
                )
            members = re.sub(r"([\[\]\\^&~|])", r"\\\1", glob[first:end])
            out.append(f"[^.{members}]" if first > at else f"(?!\\.)[{members}]")
            at = end + 1
        else:
            out.append(re.escape(char))
    return "".join(out)
