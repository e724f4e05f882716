"""Templates that turn the name of a tensor into a stored name, and back."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import field

from ..core.records import dataclass
from ..errors import PlanError, RecipeError

__all__ = ["StoredNames", "Template"]

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


class StoredNames(Collection[str]):
    """The stored names of a file, looked up by the templates that may have made them: each is asked for by
    many conventions, and looked for once.
    """

    def __init__(self, names: Collection[str]) -> None:
        self._names = names if isinstance(names, Mapping) else dict.fromkeys(names)
        self._by_template: dict[str, list[str]] = {}
        self._like: dict[str, list[str]] = {}

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def like(self, template: Template) -> list[str]:
        """Those that the template may have made, behind any prefix if it has no placeholder."""
        if template.text not in self._like:
            after = template.after if template.placeholder is not None else template.text
            ending = [name for name in self._names if name.endswith(after)]
            if template.placeholder is None:
                ending = [name for name in ending if f".{name}".endswith(f".{after}")]
            else:
                ending = [name for name in ending if template.unspell(name) is not None]
            self._like[template.text] = ending
        return self._like[template.text]

    def unspell(self, template: Template) -> list[str]:
        """Names of the tensors that have a part of that spelling."""
        if template.text not in self._by_template:
            tensors = map(template.unspell, self.like(template))
            self._by_template[template.text] = [name for name in tensors if name is not None]
        return self._by_template[template.text]
