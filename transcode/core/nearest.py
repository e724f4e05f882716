"""Which of some names may be meant by one that is none of them: for errors.

One comparison for all that people spell: tensors, schemes, families, conventions, keys of YAML, commands.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["alike", "guess", "nearest"]

_LONGEST = 500  # characters
_MOST_PAIRS = 8_000_000  # of characters that are compared; 2000 names of 60
_LEAST_BEGINNING = 3  # characters of a name that are taken for the beginning of another
_MOST_BEGUN = 4  # names with one beginning, none of which is likelier


def alike(name: str, names: Iterable[str], most: int = 2, least: float = 0.6) -> list[str]:
    """The most similar of some names, the best first; none where none is near. Case does not count.

    Args:
        name: what was said.
        names: what there is, any number of any length.
        most: how many at most.
        least: how similar they must be, from 0 to 1.
    """
    if len(name) > _LONGEST:
        return []
    wanted = name.casefold()
    # The comparison takes the product of two lengths, and a file may hold any number of names.
    near: dict[str, str] = {}
    begun: list[str] = []
    for other in names:
        folded = other.casefold()
        if 2 * abs(len(folded) - len(wanted)) <= len(wanted):
            near.setdefault(folded, other)
        elif len(wanted) >= _LEAST_BEGINNING and len(begun) < most and folded.startswith(wanted):
            begun.append(other)
    candidates = list(near)
    if sum(map(len, candidates)) * len(wanted) > _MOST_PAIRS:
        last = wanted.rpartition(".")[2]
        candidates = [other for other in candidates if other.rpartition(".")[2] == last]
        candidates = candidates[: 1 + _MOST_PAIRS // max(2 * len(wanted) ** 2, 1)]
    candidates = [other for other in candidates if not _another(wanted, other)]
    close = [near[other] for other in difflib.get_close_matches(wanted, candidates, most, least)]
    return (close + begun)[:most]


def _another(name: str, other: str) -> bool:
    """Whether one letter stands for another as a whole component: ``q`` is no slip for ``v``."""
    ours, theirs = name.split("."), other.split(".")
    if len(ours) != len(theirs):
        return False
    letters = [(one, two) for one, two in zip(ours, theirs, strict=True) if len(one) == len(two) == 1]
    return len(ours) > 1 and any(one != two and one.isalpha() and two.isalpha() for one, two in letters)


def nearest(name: str, names: Iterable[str]) -> str:
    """A clause that names the most similar of some names, or nothing: ``, did you mean 'a' or 'b'?``."""
    close = alike(name, names)
    return f", did you mean {' or '.join(map(repr, close))}?" if close else ""


def guess(word: str, known: Iterable[str]) -> str:
    """The same in brackets, for the end of a list of what there is: `` (did you mean a?)``."""
    known = list(known)
    begun = [other for other in known if len(word) >= _LEAST_BEGINNING and other.startswith(word)]
    close = sorted(begun, key=len)[:_MOST_BEGUN] if len(begun) > 1 else alike(word, known, 1)
    return f" (did you mean {' or '.join(close)}?)" if close else ""
