"""Patterns that select tensors by name, by whole components and never by substring."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cached_property

from ..errors import RecipeError
from .records import dataclass
from .repeats import Weight, weigh

__all__ = ["Pattern", "Patterns", "check_length", "compile_regex", "glob_regex", "whole_glob"]

_REGEX = "re:"


@dataclass(frozen=True)
class Pattern:
    """Selects names: a glob over whole components, or a regular expression.

    ``re:EXPR`` is a regular expression that is searched in the whole name. Anything else is a glob that
    must fit a run of whole dot-separated components: ``head`` fits ``head.head.weight`` but not ``heads.0``,
    and ``blocks.0`` fits ``blocks.0.ffn.weight``, neither ``blocks.01`` nor ``vace_blocks.0``. ``*`` stands
    for any characters, dots included; ``?`` and ``[...]`` (``[!...]`` negates) for one character but a dot.

    A glob takes time in proportion to the name. Expressions come with recipes of strangers, too: those that
    could take exponential time are refused, and others on names too long for them (:mod:`.repeats`).

    Two patterns are equal when their texts are.

    Raises:
        RecipeError: the pattern is empty, or not a valid expression, or not a safe one.
    """

    text: str

    def __post_init__(self) -> None:
        if not self.text.removeprefix(_REGEX).strip("."):
            raise RecipeError(f"{self.text!r} is an empty pattern", hint="use * to select every tensor")
        if self.text.startswith(_REGEX) or "[" in self.text:
            _ = self.regex  # mistakes are found now; no other pattern can hold one

    def __getstate__(self) -> dict[str, str]:
        return {"text": self.text}  # what is compiled is compiled anew, where it is wanted

    @cached_property
    def regex(self) -> re.Pattern[str]:
        """What fits. Compiled on demand: families hold hundreds of patterns, of which a run needs few."""
        if self.text.startswith(_REGEX):
            return compile_regex(self.text.removeprefix(_REGEX), shown=self.text)
        # Where the first piece fits first, the most is left for the others: it is not looked for again.
        start = r"\A.*?(?<![^.])" if "*" in self.text else r"(?<![^.])"
        return _compiled(whole_glob(self.text, start), self.text)

    @cached_property
    def _weight(self) -> Weight | None:
        return weigh(self.text.removeprefix(_REGEX)) if self.text.startswith(_REGEX) else None

    def matches(self, name: str) -> bool:
        """Whether the pattern selects that name.

        Raises:
            RecipeError: it is an expression that could take too long on a name of that length.
        """
        if self._weight is not None:
            check_length(self._weight, name, self.text)
        return self.regex.search(name) is not None

    def among(self, names: Sequence[str]) -> list[str]:
        """Those of some names that the pattern selects, in less time than asking for each.

        Raises:
            RecipeError: it is an expression that could take too long on one of them.
        """
        if self._weight is not None and names:
            check_length(self._weight, max(names, key=len), self.text)
        search = self.regex.search
        return [name for name in names if search(name) is not None]

    def __str__(self) -> str:
        return self.text


class Patterns:
    """Several patterns of which the first that matches counts, and which of them ever matched."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._patterns = [Pattern(text) for text in texts]
        self._used: set[str] = set()

    def first(self, name: str) -> str | None:
        """The text of the first pattern that matches. All that match count as used."""
        if not self._patterns:
            return None
        matching = [str(pattern) for pattern in self._patterns if pattern.matches(name)]
        self._used.update(matching)
        return matching[0] if matching else None

    def unused(self) -> list[str]:
        """Patterns that matched nothing so far."""
        return [str(pattern) for pattern in self._patterns if str(pattern) not in self._used]


def compile_regex(expression: str, *, shown: str | None = None) -> re.Pattern[str]:
    """Compile a regular expression that a user wrote.

    Raises:
        RecipeError: it is not valid; the message quotes ``shown`` (else the expression) and the position. Or
            it could take exponential time.
    """
    compiled = _compiled(expression, shown or expression)
    if (why := weigh(expression).why) is not None:
        raise RecipeError(
            f"{shown or expression!r} {why}, so it could take for ever",
            hint="use a glob, or several patterns",
        )
    return compiled


def _compiled(expression: str, shown: str) -> re.Pattern[str]:
    try:
        return re.compile(expression, re.DOTALL)
    except (re.error, OverflowError, RecursionError) as error:
        raise RecipeError(f"{shown!r} is not a valid pattern: {error}") from None


def check_length(weight: Weight, name: str, shown: str) -> None:
    """Refuse a name on which an expression of some weight, told as ``shown``, could take too long.

    Raises:
        RecipeError: it is such a name.
    """
    if not weight.bears(len(name)):
        raise RecipeError(
            f"{shown!r} could take too long on a name of {len(name)} characters that begins {name[:40]!r}:"
            f" {weight.repeats} repeats and {weight.choices} choices share it out among them",
            hint="use a glob, or fewer of them",
        )


def whole_glob(glob: str, start: str = "") -> str:
    """The regular expression that fits what a glob fits up to the end of a component.

    It takes time in proportion to the text: of what stands between two ``*`` every piece has a length of its
    own, so where it fits first the most is left for the next, and nothing is gained by looking on.

    Args:
        start: what stands before the glob; where that may fit in several places, the first is taken.

    Raises:
        RecipeError: a ``[`` without its ``]``.
    """
    first, *rest = _pieces(glob)
    if not rest:
        return rf"{start}{first}(?![^.])"
    between = "".join(f"(?>.*?{piece})" for piece in rest[:-1])
    last = rf".*?{rest[-1]}(?![^.])" if rest[-1] else ""
    return f"(?>{start}{first}){between}{last}"


def glob_regex(glob: str) -> str:
    """The regular expression, without anchors, that fits what a glob fits.

    Raises:
        RecipeError: a ``[`` without its ``]``.
    """
    return ".*".join(_pieces(glob))


def _pieces(glob: str) -> list[str]:
    """What stands between the ``*`` of a glob, as regular expressions of one length each."""
    out = [""]
    at = 0
    while at < len(glob):
        char = glob[at]
        at += 1
        if char == "*":
            if len(out) == 1 or out[-1]:
                out.append("")
        elif char == "?":
            out[-1] += "[^.]"
        elif char == "[":
            # As in shells, a bracket right behind the opening (or its negation) is a member, not the end.
            first = at + (glob[at : at + 1] == "!")
            end = glob.find("]", first + 1)
            if end < 0:
                raise RecipeError(
                    f"{glob!r} is not a valid pattern: '[' is never closed", hint="close it with ]"
                )
            members = re.sub(r"([\[\]\\^&~|])", r"\\\1", glob[first:end])
            out[-1] += f"[^.{members}]" if first > at else f"(?!\\.)[{members}]"
            at = end + 1
        else:
            out[-1] += re.escape(char)
    return out
