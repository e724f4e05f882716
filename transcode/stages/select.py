"""Keep some tensors, or drop some."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ..core.event import Event
from ..core.flow import Transform
from ..core.patterns import Patterns
from ..core.planning import Planning
from ..core.records import dataclass
from ..core.tensor import LazyTensor
from .options import DropOptions, KeepOptions

__all__ = ["Drop", "Keep"]


class _Select(Transform):
    patterns: tuple[str, ...]

    def apply(self, tensors: Iterable[LazyTensor], planning: Planning) -> Iterator[LazyTensor]:
        patterns = Patterns(self.patterns)
        seen = []
        for tensor in tensors:
            seen.append(tensor.name)
            match = patterns.first(tensor.name)
            if (why := self._leaves(match)) is None:
                yield tensor
            else:
                planning.drop(tensor, why)
        planning.unmatched(self.kind, patterns.unused(), seen)

    def _leaves(self, match: str | None) -> Event | None:
        raise NotImplementedError


@dataclass(frozen=True)
class Keep(KeepOptions, _Select):
    """Let only tensors go on that some pattern matches."""

    def apply(self, tensors: Iterable[LazyTensor], planning: Planning) -> Iterator[LazyTensor]:
        dropped = len(planning.dropped)
        yield from super().apply(tensors, planning)
        if len(planning.dropped) == dropped:
            planning.warn(f"keep: {', '.join(self.patterns)}: every tensor matches, none is left out")

    def _leaves(self, match: str | None) -> Event | None:
        return Event("drop", "matches no pattern of keep") if match is None else None


@dataclass(frozen=True)
class Drop(DropOptions, _Select):
    """Take away the tensors that some pattern matches."""

    def _leaves(self, match: str | None) -> Event | None:
        return None if match is None else Event("drop", match)
