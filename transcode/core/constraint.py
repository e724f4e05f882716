"""The legal values of an option, of a codec or of a scheme."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field
from typing import Any

from .records import dataclass

__all__ = ["Constraint"]


@dataclass(frozen=True)
class Constraint:
    """The legal values of one option.

    Attributes:
        said: what they are, for people: ``"8 or 128"``.
        cases: some of them; all where there are few.
        holds: whether a value, as JSON or YAML would have it, is one.
        closed: whether ``cases`` are all.
    """

    said: str
    cases: tuple[Any, ...]
    holds: Callable[[Any], bool] = field(repr=False)
    closed: bool = False

    @classmethod
    def among(cls, *values: Any) -> Constraint:
        """Just these values."""
        said = " or ".join(str(value) for value in values)
        # 1 == True: the type is compared too.
        held = lambda value: any(type(value) is type(one) and value == one for one in values)  # noqa: E731
        return cls(said, values, held, closed=True)

    @property
    def advice(self) -> str:
        """What to do instead, where a value is none of them."""
        if not self.closed:
            return f"give {self.said}"
        words = (str(one).lower() if isinstance(one, bool) else str(one) for one in self.cases)
        return f"choose from {', '.join(words)}"
