"""Which tensor of the model a LoRA means, whatever stands before its name and in whichever spelling."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property

from .. import catalog
from ..catalog.lora import LoraNames
from ..core.flow import nearest
from ..errors import PlanError, RecipeError

__all__ = ["KEYS", "Homes"]

KEYS = ("auto", "same", "convert")

_NUMBERS = re.compile(r"(?<![^._])\d+(?![^._])")


class Homes:
    """The names of a model, findable by how LoRAs name its modules.

    Both sides are compared without what is known to stand before names (``diffusion_model.`` ...); a name
    that is the model's own as it stands wins. Names whose dots have become underscores are compared to the
    model's names treated likewise. Each name of the model is also known by those that it has in the other
    spellings of the model's family.

    Args:
        names: of the model's tensors.
        known: what is known of names in LoRA files.
        keys: ``"same"``: LoRA and model spell names alike; ``"convert"``: they do not; ``"auto"``: either.
        prefix: only tensors whose names begin with this are meant, and LoRAs name them without it.
    """

    def __init__(self, names: Iterable[str], known: LoraNames, keys: str, prefix: str | None) -> None:
        self._known = known
        self._names = [name for name in names if name.startswith(prefix or "")]
        if prefix and not self._names:
            raise PlanError(f"lora: no tensor's name begins with the prefix {prefix!r}", hint="correct it")
        self._exact: set[str] = set(self._names)
        self._forms: dict[str, dict[str, None]] = defaultdict(dict)
        convert = _converter(self._names) if keys != "same" else None
        if keys == "convert":
            if convert is None:
                raise RecipeError(
                    "lora: keys cannot be converted: the model is of no family with several spellings",
                    hint="use keys: auto or same",
                )
            self._exact = set()
        for name in self._names:
            bare = name[len(prefix or "") :]
            forms = [bare] if keys != "convert" else []
            if convert is not None:
                forms += convert(name)
            for form in forms:
                self._forms[self._strip(form)][name] = None

    def find(self, base: str, leaf: str) -> list[str]:
        """Tensors that a LoRA may mean by a parameter of a module: none, one, or several."""
        for candidate in self._bases(base):
            if found := self._find(candidate, leaf, self._known.flat_prefixes, ()):
                return found
        return []

    def find_text(self, base: str, leaf: str) -> list[str] | None:
        """As :meth:`find` for a module of a text encoder; None when the module is of none, by its name.

        The model may be that text encoder itself.
        """
        known = self._known
        if not base.startswith((*known.text_prefixes, *known.text_flat_prefixes)):
            return None
        for candidate in self._bases(base):
            if found := self._find(candidate, leaf, known.text_flat_prefixes, known.text_prefixes):
                return found
        return []

    @cached_property
    def has_text_encoder(self) -> bool:
        """Whether the model holds a text encoder."""
        wanted = set(self._known.text_components)
        return any(not wanted.isdisjoint(name.split(".")) for name in self._names)

    def nearest(self, base: str, leaf: str) -> str:
        """A clause that names the most similar tensors, or nothing."""
        flat = self._flat(base, (*self._known.flat_prefixes, *self._known.text_flat_prefixes))
        wanted = f"{base if flat is None else flat}.{leaf}"
        # The same blocks first: of thousands of names that differ in a number, those are meant.
        numbers = _NUMBERS.findall(wanted)
        alike = [name for name in self._names if _NUMBERS.findall(name) == numbers] or self._names
        if flat is None:
            return nearest(self._strip(wanted), alike[:2000]) or nearest(wanted, alike[:2000])
        # Underscores for dots would make every name unlike.
        back = {_flatten(name): name for name in alike[:2000]}
        found = nearest(_flatten(wanted), back)
        for form, name in back.items():
            found = found.replace(repr(form), repr(name))
        return found

    def _find(
        self, base: str, leaf: str, flat_prefixes: tuple[str, ...], prefixes: tuple[str, ...]
    ) -> list[str]:
        flat = self._flat(base, flat_prefixes)
        if flat is not None:
            return list(self._flattened.get((flat, leaf), ()))
        name = f"{base}.{leaf}"
        if name in self._exact:
            return [name]
        found = self._forms.get(self._strip(name)) or self._forms.get(self._strip(name, prefixes))
        return list(found or ())

    def _bases(self, base: str) -> Iterator[str]:
        yield base
        for regex, replacement in self._known.retry:
            changed = regex.sub(replacement, base)
            if changed != base:
                yield changed
                base = changed

    def _strip(self, name: str, more: tuple[str, ...] = ()) -> str:
        """A name without what may stand before it."""
        prefixes = (*self._known.prefixes, *more)
        while (found := next((prefix for prefix in prefixes if name.startswith(prefix)), None)) is not None:
            name = name[len(found) :]
        return name

    def _flat(self, base: str, prefixes: tuple[str, ...]) -> str | None:
        """What follows a prefix of flat names; None where there is no such prefix."""
        return next((base[len(prefix) :] for prefix in prefixes if base.startswith(prefix)), None)

    @cached_property
    def _flattened(self) -> dict[tuple[str, str], dict[str, None]]:
        found: dict[tuple[str, str], dict[str, None]] = defaultdict(dict)
        for form, names in self._forms.items():
            module, _, leaf = form.rpartition(".")
            found[_flatten(module), leaf].update(names)
        return found


def _flatten(module: str) -> str:
    return module.replace(".", "_")


def _converter(names: list[str]) -> Callable[[str], list[str]] | None:
    """Gives a name of the model in the other spellings of its family; None where there are none."""
    family = catalog.detect(names)
    if family is None or not (others := family.converts_to()):
        return None

    def convert(name: str) -> list[str]:
        return [found for other in others if (found := family.convert(name, other)) is not None]

    return convert
