"""What is known of the tensors of one architecture in one spelling, by their names alone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import field
from functools import cached_property

from ..core.event import Reason
from ..core.patterns import Pattern, glob_regex
from ..core.records import dataclass
from ..errors import RecipeError
from .indexes import any_index, tells_indexes

__all__ = ["Block", "Fused", "Policy", "kept_for"]

_NUMBER = "{i}"

_MOST_DECIDED = 1 << 16


def _check(glob: str) -> None:
    """Refuse a glob that makes no expression: only one with a bracket can."""
    if "[" in glob:
        Pattern(glob)


@dataclass(frozen=True)
class Block:
    """Where the repeated blocks of an architecture stand, e.g. ``blocks.{i}``.

    Attributes:
        path: whole components of a name, ``{i}`` where the number stands.
        every: number ``i`` belongs to block ``i * every`` (adapters that serve every fifth block).
        file: whether it is counted among the blocks of the model, which may get files of their own; else it
            only holds targets.
    """

    path: str
    every: int = 1
    file: bool = True
    _expression: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _check(self.path.replace(_NUMBER, ""))
        before, number, after = self.path.partition(_NUMBER)
        if not number or _NUMBER in after:
            raise RecipeError(f"{self.path!r} is not a block path", hint="write {i} once, for the number")
        expression = rf"(?<![^.]){glob_regex(before)}(\d{{1,9}}){glob_regex(after)}(?![^.])"
        object.__setattr__(self, "_expression", expression)

    @cached_property
    def regex(self) -> re.Pattern[str]:
        """Compiled when a name is asked for: of all families that are loaded, one is used."""
        return re.compile(self._expression)


@dataclass(frozen=True)
class Fused:
    """Modules that a consumer joins into one matrix, so that they must share one global scale.

    They are runs of whole components that stand in the same place of otherwise equal names.
    """

    members: tuple[str, ...]
    _expression: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if len(set(self.members)) < 2:
            raise RecipeError(f"a fused group needs two members or more, has {', '.join(self.members)!r}")
        for member in self.members:
            _check(member)
        # Longest first, so that no member hides another that begins alike.
        texts = sorted(map(glob_regex, self.members), key=len, reverse=True)
        object.__setattr__(self, "_expression", rf"(?<![^.])(?:{'|'.join(texts)})(?![^.])")

    @cached_property
    def regex(self) -> re.Pattern[str]:
        """Compiled when a name is asked for."""
        return re.compile(self._expression)

    def key(self, name: str) -> str | None:
        """Equal for the tensors that belong together, None for a name that is none of the group's."""
        match = self.regex.search(name)
        if match is None:
            return None
        return f"{name[: match.start()]}{{{'|'.join(self.members)}}}{name[match.end() :]}"

    def is_last(self, name: str) -> bool:
        """Whether a name is that of the last member, behind which no other is joined."""
        match = self.regex.search(name)
        return match is not None and Pattern(self.members[-1]).matches(match[0])


_ADAPTER = Reason("adapter", "adapter")
_NO_WEIGHT = Reason("not a weight", "not a weight")
_OUTSIDE = Reason("outside blocks", "outside blocks")
_NO_TARGET = Reason("not a target", "not a target")


def _never(label: str) -> Reason:
    return Reason("never", f"never: {label}", label)


def kept_for(convention: str | None) -> Reason:
    """Why a target stays of which the files of a convention have it in full."""
    return _never(f"kept by {convention}")


@dataclass(frozen=True)
class Policy:
    """What to quantize, what never, what belongs together.

    Attributes:
        blocks: where blocks stand.
        targets: modules that are quantized, searched behind the number of a block (in the whole name when
            ``everywhere``).
        also: targets that stand outside blocks, searched in the whole name.
        never: label -> patterns of what is never quantized, searched in the whole name.
        routers: patterns of gates of experts, searched in the whole name; they fit nothing that has more rows
            than columns, as the gate of a feed-forward has.
        adapters: exceptions that stay as they are, dtype included.
        fused: groups that share a global scale.
        weights: which names are weights at all.
        everywhere: whether targets may stand outside blocks too.
        dims: numbers of dimensions that are quantized; empty leaves that to the scheme.
        drops: what the published converters leave out because the consumer has no use for it; nothing is
            dropped unless it is asked for.
        extras: convention -> patterns of what is quantized besides when that convention is written.
        keeps: convention -> patterns of targets that stay when that convention is written, as those who make
            files for its consumer leave them.
    """

    blocks: tuple[Block, ...] = ()
    targets: tuple[Pattern, ...] = ()
    also: tuple[Pattern, ...] = ()
    never: Mapping[str, tuple[Pattern, ...]] = field(default_factory=dict)
    routers: tuple[Pattern, ...] = ()
    adapters: tuple[Pattern, ...] = ()
    fused: tuple[Fused, ...] = ()
    weights: tuple[Pattern, ...] = (Pattern(r"re:\.weight$"),)
    everywhere: bool = False
    dims: tuple[int, ...] = ()
    drops: tuple[Pattern, ...] = ()
    extras: Mapping[str, tuple[Pattern, ...]] = field(default_factory=dict)
    keeps: Mapping[str, tuple[Pattern, ...]] = field(default_factory=dict)

    def block_of(self, name: str) -> int | None:
        """Number of the block that a tensor belongs to, None outside blocks."""
        for block in self.blocks:
            match = block.regex.search(name) if block.file else None
            if match is not None:
                return int(match[1]) * block.every
        return None

    def _behind(self, name: str) -> str | None:
        """What follows the number of the block, None outside blocks."""
        for block in self.blocks:
            match = block.regex.search(name)
            if match is not None:
                return name[match.end() + 1 :]
        return None

    def is_adapter(self, name: str) -> bool:
        """Whether it stays as it is, dtype included."""
        return any(pattern.matches(name) for pattern in self.adapters)

    def is_target(
        self, name: str, shape: tuple[int, ...] | None = None, convention: str | None = None
    ) -> tuple[bool, Reason]:
        """Whether a tensor is to be quantized, and why.

        Args:
            name: name in this spelling.
            shape: its shape, where known; checked against ``dims``.
            convention: the one that is written; some quantize more than others.
        """
        key = (any_index(name) if self.counts_alike else name, shape, convention)
        known = self._decided.get(key)
        if known is None:
            if len(self._decided) >= _MOST_DECIDED:
                self._decided.clear()
            known = self._decided[key] = self._decide(name, shape, convention)
        return known

    @cached_property
    def _decided(self) -> dict[tuple[str, tuple[int, ...] | None, str | None], tuple[bool, Reason]]:
        return {}

    @cached_property
    def counts_alike(self) -> bool:
        """Whether no pattern tells indexes of two digits and more from each other."""
        several = (self.targets, self.also, self.routers, self.adapters, self.weights)
        groups = (*several, *self.never.values(), *self.extras.values(), *self.keeps.values())
        texts = [pattern.text for group in groups for pattern in group]
        texts += (block.path.replace(_NUMBER, "*") for block in self.blocks)
        return not any(map(tells_indexes, texts))

    def _decide(
        self, name: str, shape: tuple[int, ...] | None, convention: str | None
    ) -> tuple[bool, Reason]:
        if self.is_adapter(name):
            return False, _ADAPTER
        if not any(pattern.matches(name) for pattern in self.weights):
            return False, _NO_WEIGHT
        for pattern in self.extras.get(convention or "", ()):
            if pattern.matches(name):
                return True, Reason("target", f"target {pattern}, for {convention}", str(pattern))
        for label, patterns in self.never.items():
            if any(pattern.matches(name) for pattern in patterns):
                return False, _never(label)
        if (shape is None or len(shape) != 2 or shape[0] <= shape[1]) and any(
            pattern.matches(name) for pattern in self.routers
        ):
            return False, _never("router")
        chosen = next((pattern for pattern in self.also if pattern.matches(name)), None)
        if chosen is None:
            within = name if self.everywhere else self._behind(name)
            if within is None:
                return False, _OUTSIDE
            chosen = next((pattern for pattern in self.targets if pattern.matches(within)), None)
        if chosen is None:
            return False, _NO_TARGET
        if any(pattern.matches(name) for pattern in self.keeps.get(convention or "", ())):
            return False, kept_for(convention)
        if shape is not None and self.dims and len(shape) not in self.dims:
            return False, Reason("misfit", f"{len(shape)}-D", "dimensions")
        return True, Reason("target", f"target {chosen}", str(chosen))

    def group_of(self, name: str) -> str | None:
        """Key of the fused group a tensor belongs to: equal for all its members, None for the others."""
        return next((key for fused in self.fused if (key := fused.key(name)) is not None), None)

    def is_followed(self, name: str) -> bool:
        """Whether a consumer that joins fused groups puts another tensor behind this one."""
        if not self.fused:
            return False
        key = any_index(name) if self.joins_alike else name
        known = self._followed.get(key)
        if known is None:
            if len(self._followed) >= _MOST_DECIDED:
                self._followed.clear()
            group = next((fused for fused in self.fused if fused.key(name) is not None), None)
            known = self._followed[key] = group is not None and not group.is_last(name)
        return known

    @cached_property
    def _followed(self) -> dict[str, bool]:
        return {}

    @cached_property
    def joins_alike(self) -> bool:
        """Whether no member of a group tells indexes of two digits and more from each other."""
        return not any(tells_indexes(member) for fused in self.fused for member in fused.members)
