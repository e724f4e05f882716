"""What one LoRA file holds: its changes, each with the parameter that it names."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from ...containers.checkpoint import Source
from ...core.records import dataclass
from .delta import Added, LowRank
from .places import Tokens, Whole
from .stacked import Stacked

__all__ = ["Change", "Contents", "count"]


@dataclass(frozen=True)
class Change:
    """What a file adds to one parameter.

    Attributes:
        key: a key that it comes from.
        base: the module, as the file names it.
        leaf: last component of the parameter's name.
        others: other names that the parameter may have.
        added: what is added.
        description: what it is, for the report.
        optional: models without the parameter are right too.
    """

    key: str
    base: str
    leaf: str
    added: Added
    description: str
    optional: bool = False
    others: tuple[str, ...] = ()

    def of(self, added: Added) -> Change:
        """The same change, better known."""
        return replace(self, added=added)


@dataclass(frozen=True)
class Contents:
    """What a file holds.

    Attributes:
        source: the file.
        path: as it was given.
        changes: by key.
        unknown: keys that no rule understands.
        unmatched: patterns of its options that are for none of its modules.
        whole: it holds nothing but whole tensors, and nothing says that it is a LoRA.
        notes: what a user should know of it.
        warnings: what a user should look at.
    """

    source: Source
    path: Path
    changes: tuple[Change, ...]
    unknown: tuple[str, ...]
    unmatched: tuple[str, ...]
    whole: bool
    notes: tuple[str, ...]
    warnings: tuple[str, ...]


def count(changes: Iterable[Change]) -> str:
    """``"400 pairs of rank 64, 80 differences"``."""
    ranks: dict[int, int] = defaultdict(int)
    others: dict[str, int] = defaultdict(int)
    whole = 0
    for change in changes:
        if isinstance(change.added.delta, LowRank | Stacked):
            ranks[change.added.delta.rank] += 1
        elif isinstance(change.added.delta, Whole | Tokens):
            whole += 1
        else:
            others[change.added.delta.described()] += 1
    counts = [
        f"{number} {'pair' if number == 1 else 'pairs'} of rank {rank}"
        for rank, number in sorted(ranks.items())
    ]
    for kind, number in sorted(others.items()):
        counts.append(f"{number} {kind}{'s' if kind == 'difference' and number > 1 else ''}")
    if whole:
        counts.append(f"{whole} trained whole")
    return ", ".join(counts) or "nothing"
