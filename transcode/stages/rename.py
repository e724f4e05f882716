"""Rename tensors by regular expressions or by an exact map."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from ..core.event import Event
from ..core.flow import Transform
from ..core.patterns import check_length
from ..core.planning import Planning
from ..core.records import dataclass
from ..core.repeats import Weight, weigh
from ..core.tensor import LazyTensor
from ..errors import RecipeError
from .options import RenameOptions

__all__ = ["Rename"]


@dataclass(frozen=True)
class Rename(RenameOptions, Transform):
    """Give tensors other names.

    Raises:
        RecipeError: a pattern or a replacement is not valid.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self._compiled()

    def _compiled(self) -> list[tuple[re.Pattern[str], str, Weight]]:
        compiled = []
        for pattern, replacement in self.rules:
            try:
                made = re.compile(pattern)
                # A template is parsed when it is first used, and then only if something matched.
                re.compile(f"(?:{pattern})|").sub(replacement, "")
            except (re.error, IndexError) as error:
                raise RecipeError(f"rename: {pattern!r} -> {replacement!r}: {error}") from None
            weight = weigh(pattern)
            if weight.why is not None:
                raise RecipeError(
                    f"rename: {pattern!r} {weight.why}, so it could take for ever", hint="use several rules"
                )
            compiled.append((made, replacement, weight))
        return compiled

    def apply(self, tensors: Iterable[LazyTensor], planning: Planning) -> Iterator[LazyTensor]:
        """Rename. Collisions are found when names are final, by the plan."""
        rules = self._compiled()
        exact = dict(self.names)
        used: set[str] = set()
        seen: list[str] = []
        renamed = 0
        for tensor in tensors:
            name = tensor.name
            seen.append(name)
            if name in exact:
                used.add(name)
                new = exact[name]
            else:
                new = name
                for pattern, replacement, weight in rules:
                    check_length(weight, new, pattern.pattern)
                    new, count = pattern.subn(replacement, new)
                    if count:
                        used.add(pattern.pattern)
            renamed += new != name
            yield tensor if new == name else tensor.evolve(name=new, did=Event("rename", f"{name} -> {new}"))
        rest = [rule for rule, _ in (*self.rules, *self.names) if rule not in used]
        planning.unmatched("rename", rest, seen)
        if not renamed and not rest:
            planning.warn("rename: every name that a rule matches stays as it is")
