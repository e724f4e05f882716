"""Templates that turn the name of a tensor into a stored name, and back."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from ..errors import PlanError, RecipeError

__all__ = ["Template"]

_WEIGHT = ".weight"
_PLACEHOLDER = re.compile(r"\{(.*?)\}")


@dataclass(frozen=True)
class Template:
    """A stored name with at most one placeholder.

    ``{name}`` stands for the tensor's name, ``{stem}`` for the name without its trailing ``.weight``, which
    the tensor must then have.
    """

    text: str
    placeholder: str | None = field(init=False)
    before: str = field(init=False, repr=False)
    after: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        words = _PLACEHOLDER.findall(self.text)
        if len(words) > 1 or any(word not in ("name", "stem") for word in words):
            raise RecipeError(f"{self.text!r} is not a name template", hint="use {name} or {stem}, once")
        before, _, after = self.text.partition(f"{{{words[0]}}}") if words else (self.text, "", "")
        object.__setattr__(self, "placeholder", words[0] if words else None)
        object.__setattr__(self, "before", before)
        object.__setattr__(self, "after", after)

    def spell(self, name: str) -> str:
        """The stored name for a tensor.

        Raises:
            PlanError: the template needs a name that ends in ``.weight``.
        """
        if self.placeholder is None:
            return self.text
        if self.placeholder == "stem":
            if not name.endswith(_WEIGHT):
                raise PlanError(
                    f"cannot be spelled {self.text!r}, its name does not end in .weight", tensor=name,
                    hint="exclude it, or rename it",
                )  # fmt: skip
            name = name.removesuffix(_WEIGHT)
        return f"{self.before}{name}{self.after}"

    def unspell(self, stored: str) -> str | None:
        """The tensor whose spelling this stored name is, None when it is none's."""
        if self.placeholder is None or len(stored) < len(self.before) + len(self.after):
            return None
        if not (stored.startswith(self.before) and stored.endswith(self.after)):
            return None
        name = stored[len(self.before) : len(stored) - len(self.after)]
        return name + _WEIGHT if self.placeholder == "stem" else name

    def __str__(self) -> str:
        return self.text
