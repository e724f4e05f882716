"""Remarks for people: those of one kind in one line, with how many there are and some examples."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from ...core.event import Remark
from ..say import notice

__all__ = ["alike", "line", "warn"]

_NUMBER = re.compile(r"(?<![^.])\d+(?![^.])")
_WARNINGS = 10
_EXAMPLES = 3


def warn(warnings: Iterable[Remark], *, verbose: bool) -> None:
    """Print warnings on standard error; what is alike shares a line unless verbose."""
    groups = alike(warnings, verbose=verbose)
    shown = groups if verbose else groups[:_WARNINGS]
    for group in shown:
        notice(f"warning: {line(group)}")
    if rest := sum(map(len, groups[len(shown) :])):
        notice(f"warning: ... and {rest} more; -v shows them")


def alike(remarks: Iterable[Remark], *, verbose: bool) -> list[list[Remark]]:
    """Remarks, those of one kind together that differ only in the tensor, and in numbers of names.

    One that is said again is said once.
    """
    groups: dict[object, list[Remark]] = {}
    for remark in dict.fromkeys(remarks):
        alone = verbose or remark.kind is None or remark.tensor is None
        key = remark if alone else (remark.kind, _NUMBER.sub("*", remark.rest))
        groups.setdefault(key, []).append(remark)
    return list(groups.values())


def line(group: Sequence[Remark]) -> str:
    """Remarks that are alike in one line: the text of the first, how many there are, and some tensors."""
    if len(group) == 1:
        return str(group[0])
    names = [str(remark.tensor) for remark in group[:_EXAMPLES]]
    rest = len(group) - len(names)
    return f"{len(group)} times: {group[0].rest} ({', '.join(names)}{f' and {rest} more' if rest else ''})"
