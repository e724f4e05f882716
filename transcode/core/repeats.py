"""How long an expression may take on a name: what of it repeats, and in how many ways it can fit.

A backtracking matcher tries all ways in which the parts of an expression can share a text out among them.
What repeats something that itself fits in several ways has exponentially many. Else ``k`` repeats can share
out ``n`` characters, from any beginning, in at most ``binomial(n + k + 1, k + 1)`` ways, and each option or
alternative multiplies them. A repeat of one character does not count where what follows is one that it
cannot be: ``\\d+\\.`` fits in one way.
"""

from __future__ import annotations

import re
from math import comb
from typing import NamedTuple

__all__ = ["LONGEST", "Weight", "weigh"]

LONGEST = 1000
"""Characters of an expression."""

_MOST = 10**9
"""Ways in which an expression may try to fit a name; some seconds."""

_TOKEN = re.compile(
    r"\(\?P=\w+\)|\(\?\(\w+\)|\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\(\?[^)]*?[:=!>)]|\{\d*(?:,\d*)?\}|.", re.DOTALL
)
_REPEAT = re.compile(r"[*+]|\{\d*,\d*\}|\{\d+\}")
_VERBOSE = re.compile(r"\(\?[aiLmsu]*x")  # spaces then stand for nothing
_REFERENCE = re.compile(r"\\[1-9]|\(\?P=\w+\)")


class Weight(NamedTuple):
    """What makes a valid expression slow.

    Attributes:
        why: what could take exponential time; None if nothing can.
        repeats: how many repeats share a text out among them.
        choices: in how many ways options and alternatives can be taken.
        refers: whether it refers back to a group.
    """

    why: str | None
    repeats: int
    choices: int
    refers: bool

    def bears(self, length: int) -> bool:
        """Whether a name of that length, or a shorter one, is matched in bounded time."""
        return self.choices * comb(length + self.repeats + 1, self.repeats + 1) <= _MOST


def weigh(expression: str) -> Weight:
    """The weight of a valid expression."""
    if len(expression) > LONGEST:
        return Weight(f"is longer than {LONGEST} characters", 0, 1, False)
    if _VERBOSE.search(expression):
        return Weight("is verbose", 0, 1, False)
    tokens = [match[0] for match in _TOKEN.finditer(expression)]
    why: str | None = None
    repeats, choices, refers = 0, 1, False
    groups = [False]  # for each open group: whether it can fit a text in several ways
    branches = [1]
    closed: bool | None = None  # whether the group that has just been closed does
    for number, token in enumerate(tokens):
        before = tokens[number - 1] if number else ""
        if _REFERENCE.fullmatch(token):
            refers, repeats, closed = True, repeats + 1, None
        elif token.startswith("(?(") or (
            token.startswith("(") and not (token.startswith("(?") and token.endswith(")"))
        ):
            groups.append(False)
            branches.append(1)
            closed = None
        elif token == ")":
            closed = groups.pop() if len(groups) > 1 else False
            choices *= branches.pop() if len(branches) > 1 else 1
            groups[-1] = groups[-1] or closed
        elif token == "|":
            groups[-1] = True
            branches[-1] += 1
            closed = None
        elif token == "+" and (before == "?" or _REPEAT.fullmatch(before)):
            pass  # possessive: the same ways, or fewer
        elif _REPEAT.fullmatch(token):
            if closed:
                why = why or "repeats what repeats or branches"
            several = not _one_way(before, token, tokens[number + 1 :])
            groups[-1] = groups[-1] or several  # not by ``[^.]+\.``, which fits in one
            repeats += several
            closed = None
        elif token == "?" and not (before == "?" or _REPEAT.fullmatch(before)):
            groups[-1] = True
            choices *= 2
        elif token != "?":
            closed = None
    return Weight(why, repeats, choices * branches[0], refers)


def _one_way(atom: str, repeat: str, after: list[str]) -> bool:
    """Whether a repeat can end in one place alone: by its number, or as what follows is not of its kind."""
    if atom.startswith(("(", ")")):
        return False
    if re.fullmatch(r"\{\d+\}", repeat):
        return True
    if after and after[0] in "?+":  # reluctant, or possessive: the same ways, or fewer
        after = after[1:]
    if not after or (len(after) > 1 and (after[1] in "?*" or _REPEAT.fullmatch(after[1]))):
        return False
    char = re.fullmatch(r"\\(\W)|([^\\^$.|?*+()\[\]{}])", after[0])
    return char is not None and re.fullmatch(atom, char[1] or char[2], re.DOTALL) is None
