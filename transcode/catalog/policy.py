"""What is known of the tensors of one architecture in one spelling, by their names alone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from ..core.patterns import Pattern, glob_regex
from ..errors import RecipeError

__all__ = ["Block", "Fused", "Policy"]

_NUMBER = "{i}"


@dataclass(frozen=True)
class Block:
    """Where the repeated blocks of an architecture stand, e.g. ``blocks.{i}``.

    Attributes:
        path: whole components of a name, ``{i}`` where the number stands.
        every: number ``i`` belongs to block ``i * every`` (adapters that serve every fifth block).
    """

    path: str
    every: int = 1
    regex: re.Pattern[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        before, number, after = self.path.partition(_NUMBER)
        if not number or _NUMBER in after:
            raise RecipeError(f"{self.path!r} is not a block path", hint="write {i} once, for the number")
        expression = rf"(?<![^.]){glob_regex(before)}(\d+){glob_regex(after)}(?![^.])"
        object.__setattr__(self, "regex", re.compile(expression))


@dataclass(frozen=True)
class Fused:
    """Modules that a consumer joins into one matrix, so that they must share one global scale.

    They are runs of whole components that stand in the same place of otherwise equal names.
    """

    members: tuple[str, ...]
    regex: re.Pattern[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if len(set(self.members)) < 2:
            raise RecipeError(f"a fused group needs two members or more, has {', '.join(self.members)!r}")
        # Longest first, so that no member hides another that begins alike.
        texts = sorted(map(glob_regex, self.members), key=len, reverse=True)
        object.__setattr__(self, "regex", re.compile(rf"(?<![^.])(?:{'|'.join(texts)})(?![^.])"))


@dataclass(frozen=True)
class Policy:
    """What to quantize, what never, what belongs together.

    Attributes:
        blocks: where blocks stand.
        targets: modules that are quantized, searched behind the number of a block (in the whole name when
            ``everywhere``).
        never: label -> patterns of what is never quantized, searched in the whole name.
        adapters: exceptions that stay as they are, dtype included.
        fused: groups that share a global scale.
        weights: which names are weights at all.
        everywhere: whether targets may stand outside blocks too.
        dims: numbers of dimensions that are quantized; empty leaves that to the scheme.
        extras: convention -> patterns of what is quantized besides when that convention is written.
    """

    blocks: tuple[Block, ...] = ()
    targets: tuple[Pattern, ...] = ()
    never: Mapping[str, tuple[Pattern, ...]] = field(default_factory=dict)
    adapters: tuple[Pattern, ...] = ()
    fused: tuple[Fused, ...] = ()
    weights: tuple[Pattern, ...] = (Pattern(r"re:\.weight$"),)
    everywhere: bool = False
    dims: tuple[int, ...] = ()
    extras: Mapping[str, tuple[Pattern, ...]] = field(default_factory=dict)

    def block_of(self, name: str) -> int | None:
        """Number of the block that a tensor belongs to, None outside blocks."""
        found = self._block(name)
        return None if found is None else found[0]

    def _block(self, name: str) -> tuple[int, str] | None:
        for block in self.blocks:
            match = block.regex.search(name)
            if match is not None:
                return int(match[1]) * block.every, name[match.end() + 1 :]
        return None

    def is_adapter(self, name: str) -> bool:
        """Whether it stays as it is, dtype included."""
        return any(pattern.matches(name) for pattern in self.adapters)

    def is_target(
        self, name: str, shape: tuple[int, ...] | None = None, convention: str | None = None
    ) -> tuple[bool, str]:
        """Whether a tensor is to be quantized, and why.

        Args:
            name: name in this spelling.
            shape: its shape, where known; checked against ``dims``.
            convention: the one that is written; some quantize more than others.
        """
        if self.is_adapter(name):
            return False, "adapter"
        if not any(pattern.matches(name) for pattern in self.weights):
            return False, "not a weight"
        for pattern in self.extras.get(convention or "", ()):
            if pattern.matches(name):
                return True, f"target {pattern}, for {convention}"
        for label, patterns in self.never.items():
            if any(pattern.matches(name) for pattern in patterns):
                return False, f"never: {label}"
        if self.everywhere:
            within = name
        else:
            found = self._block(name)
            if found is None:
                return False, "outside blocks"
            within = found[1]
        for pattern in self.targets:
            if pattern.matches(within):
                if shape is not None and self.dims and len(shape) not in self.dims:
                    allowed = " or ".join(f"{count}-D" for count in self.dims)
                    return False, f"{len(shape)}-D, not {allowed}"
                return True, f"target {pattern}"
        return False, "not a target"

    def group_of(self, name: str) -> str | None:
        """Key of the fused group a tensor belongs to: equal for all its members, None for the others."""
        for fused in self.fused:
            match = fused.regex.search(name)
            if match is not None:
                return f"{name[: match.start()]}{{{'|'.join(fused.members)}}}{name[match.end() :]}"
        return None
