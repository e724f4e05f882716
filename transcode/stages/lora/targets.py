"""Which tensors of the model a LoRA means, whatever stands before its names and in whichever spelling."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property

from ... import catalog
from ...catalog.lora import LoraNames
from ...catalog.lora_modules import lora_modules
from ...catalog.lora_tables import lora_tables
from ...core.nearest import nearest
from ...errors import PlanError, RecipeError
from .homes import Home, Place, Stored
from .spellings import Facts, begins, of_family, speaks, spelled
from .unet import other_names

__all__ = ["KEYS", "Homes"]

KEYS = ("auto", "same", "convert")

_NUMBERS = re.compile(r"(?<![^._])\d+(?![^._])")

_TEXT_MODEL = "text_model_"
"""Before flat names of CLIP's text encoder: a prefix that is taken off names with dots too."""

_Forms = dict[str, dict[Home, None]]


class Homes:
    """The names of a model, findable by how LoRAs name its modules.

    Both sides are compared without what is known to stand before names (``diffusion_model.`` ...); a name
    that is the model's own as it stands wins. Names whose dots have become underscores are compared to the
    model's names treated likewise. Each tensor of the model is also known by the names that it, its parts, or
    what it is a part of have in the other spellings of the model's family. What an all-in-one checkpoint
    keeps of text encoders is known by their number in the pipeline.

    Args:
        shapes: of the model's tensors, by name.
        known: what is known of names in LoRA files.
        keys: ``"same"``: LoRA and model spell names alike; ``"convert"``: they do not; ``"auto"``: either.
        prefix: only tensors whose names begin with this are meant, and LoRAs name them without it.
        facts: gives keys of the model's config.json, for rules that speak of them.
    """

    def __init__(
        self,
        shapes: Mapping[str, tuple[int, ...]],
        known: LoraNames,
        keys: str,
        prefix: str | None,
        facts: Callable[[], Facts] = dict,
    ) -> None:
        self._known = known
        self._facts = facts
        self._unknown: dict[str, PlanError] = {}
        self._prefixes = re.compile(f"(?:{'|'.join(map(re.escape, known.prefixes))})+")
        self._text_prefixes = tuple(known.text_prefixes)
        self._names = [name for name in shapes if name.startswith(prefix or "")]
        if prefix and not self._names:
            raise PlanError(f"lora: no tensor's name begins with the prefix {prefix!r}", hint="correct it")
        self._exact: set[str] = set(self._names) if keys != "convert" else set()
        self._forms: _Forms = defaultdict(dict)
        self._long: _Forms = defaultdict(dict)
        self._texts: dict[int, _Forms] = defaultdict(lambda: defaultdict(dict))
        convert = _converter(self._names) if keys != "same" else None
        groups: dict[tuple[str, tuple[int, ...]], dict[str, Stored]] = defaultdict(dict)
        for name in self._names:
            bare = self._unwrapped(name[len(prefix or "") :])
            numbers, inner = self._text(bare)
            stripped = self._strip(bare)
            stored = Stored(name, shapes[name])
            if keys != "convert":
                self._forms[stripped][(Place(name),)] = None
            if convert is not None:
                for form in convert(name):
                    self._put(form, (Place(name),))
            if numbers:
                groups[bare[: len(bare) - len(inner)], numbers][self._strip(inner)] = stored
            else:
                groups[bare[: len(bare) - len(stripped)], ()][stripped] = stored
        converts = convert is not None
        for (_, numbers), group in groups.items():
            for number in numbers if keys != "convert" else ():
                for inner, stored in group.items():
                    self._texts[number][inner][(Place(stored.name),)] = None
            if keys != "same":
                for form, home in self._others(group):
                    converts = True
                    for number in numbers:
                        self._texts[number][self._strip(form)][home] = None
                    if not numbers:
                        self._put(form, home)
        if keys != "same":
            for form, home in self._others(self._apart(groups, shapes, len(prefix or ""))):
                converts = True
                self._put(form, home)
        if keys == "convert" and not converts:
            raise RecipeError(
                "lora: keys cannot be converted: the model is of no family with several spellings",
                hint="use keys: auto or same",
            )

    def _put(self, form: str, home: Home) -> None:
        """Make a tensor known by a name, which is compared without what may stand before it."""
        stripped = self._strip(form)
        self._forms[stripped][home] = None
        if stripped != form:  # flat names of LoRAs may have all of it
            self._long[form][home] = None

    def _apart(
        self, groups: Iterable[tuple[str, object]], shapes: Mapping[str, tuple[int, ...]], size: int
    ) -> dict[str, Stored]:
        """A model of a family some of whose own names begin as what may stand before names: its tensors."""
        bare = {self._unwrapped(name[size:]): name for name in self._names}
        family = catalog.detect(list(bare))
        if family is None or sum(key.startswith(family.prefix) for key, _ in groups) < 2:
            return {}
        before = len(family.prefix)
        return {
            form[before:]: Stored(name, shapes[name])
            for form, name in bare.items()
            if form.startswith(family.prefix)
        }

    def _others(self, group: Mapping[str, Stored]) -> Iterator[tuple[str, Home]]:
        """The names that tensors have in other spellings, but for what just renames them in their family."""
        rename = other_names(group.keys())
        if rename is not None:
            for name, stored in group.items():
                if (form := rename(name)) is not None:
                    yield form, (Place(stored.name),)
        yield from spelled(lora_tables(), group)
        if (family := catalog.detect(list(group))) is not None:
            yield from of_family(family, group, self._facts, self._unknown)

    def find(self, base: str, leaf: str) -> list[Home]:
        """What a LoRA may mean by a parameter of a module: nothing, one thing, or several."""
        for candidate in self._bases(self._unwrapped(base)):
            flat = self._flat(candidate, self._known.flat_prefixes)
            if flat is not None:
                flattened = (self._own_flattened, self._flattened, self._long_flattened)
                if homes := next(filter(None, (forms.get((flat, leaf)) for forms in flattened)), None):
                    return list(homes)
                continue
            name = f"{candidate}.{leaf}" if candidate else leaf
            if name in self._exact:
                return [(Place(name),)]
            if homes := self._forms.get(self._strip(name)):
                return list(homes)
        return []

    def find_text(self, base: str, leaf: str) -> list[Home] | None:
        """As :meth:`find` for a module of a text encoder; None when the module is of none, by its name.

        The model may be that text encoder itself.
        """
        base = self._unwrapped(base)
        known = self._known
        numbers, inner = self._text(base)
        flat = next((prefix for prefix in known.text_flat_prefixes if base.startswith(prefix)), None)
        if not numbers and flat is None:
            return None
        if flat is not None:
            numbers = (known.text_flat_prefixes[flat],)
            inner = base[len(flat) :].lstrip("_").removeprefix(_TEXT_MODEL)
        for candidate in self._bases(inner):
            for number in numbers:
                if self._texts:
                    forms, flattened = self._texts.get(number, {}), self._flattened_texts.get(number, {})
                else:
                    forms, flattened = self._forms, self._flattened
                homes = (
                    flattened.get((candidate, leaf))
                    if flat is not None
                    else forms.get(self._strip(f"{candidate}.{leaf}"))
                )
                if homes:
                    return list(homes)
        return []

    def unknown(self, base: str, leaf: str) -> PlanError | None:
        """Why it is not known where the rows of such a parameter lie; None where the model has none."""
        name = self._strip(f"{self._unwrapped(base)}.{leaf}")
        return next((why for run, why in self._unknown.items() if begins(self._strip(run), name)), None)

    @cached_property
    def has_text_encoder(self) -> bool:
        """Whether the model holds a text encoder."""
        wanted = set(self._known.text_components)
        return bool(self._texts) or any(not wanted.isdisjoint(name.split(".")) for name in self._names)

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
        clause = nearest(_flatten(wanted), back)
        for form, name in back.items():
            clause = clause.replace(repr(form), repr(name))
        return clause

    def meant_for(self, bases: Iterable[str]) -> str | None:
        """What names of modules that fit nothing look like: ``"FLUX.1 in the spelling of diffusers"``."""
        names = [f"{self._strip(self._unwrapped(base))}.weight" for base in bases]
        flat = [flattened for base in bases if (flattened := self._flat(base, self._known.flat_prefixes))]
        for table in lora_tables():
            for spelling in table.when:
                if speaks(table, spelling, names) or speaks(table, spelling, flat, "_"):
                    return f"{table.title} in the spelling {spelling!r}"
        dotted = [name.removesuffix(".weight") for name in names]
        for family, spellings in lora_modules().items():
            for spelling, modules in spellings.items():
                if (flat and all(modules.dotted(one) for one in flat)) or all(map(modules.holds, dotted)):
                    return f"{catalog.family(family).title} in the spelling {spelling!r}"
        return None

    def _bases(self, base: str) -> Iterator[str]:
        yield base
        for regex, replacement in self._known.retry:
            changed = regex.sub(replacement, base)
            if changed != base:
                yield changed
                base = changed

    def _unwrapped(self, name: str) -> str:
        """A name without the components that compilers and wrappers of modules put into it."""
        for wrapper in self._known.wrappers:
            if wrapper in name:
                name = re.sub(rf"(?<![^.]){wrapper}\.|(?<=_){wrapper}_", "", name)
        return name

    def _strip(self, name: str) -> str:
        """A name without what may stand before it."""
        prefix = self._prefixes.match(name)
        return name[prefix.end() :] if prefix else name

    def _text(self, name: str) -> tuple[tuple[int, ...], str]:
        """Which of a pipeline's text encoders a name is of, and the name within it."""
        if name.startswith(self._text_prefixes):
            for prefix, numbers in self._known.text_prefixes.items():
                if name.startswith(prefix):
                    return numbers, name[len(prefix) :]
        return (), name

    def _flat(self, base: str, prefixes: Iterable[str]) -> str | None:
        """What follows a prefix of flat names; None where there is no such prefix."""
        for prefix in prefixes:
            if base.startswith(prefix):
                return base[len(prefix) :].lstrip("_")
        return None

    @cached_property
    def _flattened(self) -> dict[tuple[str, str], dict[Home, None]]:
        return _flattened(self._forms)

    @cached_property
    def _long_flattened(self) -> dict[tuple[str, str], dict[Home, None]]:
        return _flattened(self._long)

    @cached_property
    def _own_flattened(self) -> dict[tuple[str, str], dict[Home, None]]:
        """As :attr:`_flattened`, of the model's own names as they stand: with what looks like a prefix."""
        return _flattened({name: {(Place(name),): None} for name in sorted(self._exact)})

    @cached_property
    def _flattened_texts(self) -> dict[int, dict[tuple[str, str], dict[Home, None]]]:
        return {number: _flattened(forms) for number, forms in self._texts.items()}


def _flattened(forms: _Forms) -> dict[tuple[str, str], dict[Home, None]]:
    flattened: dict[tuple[str, str], dict[Home, None]] = defaultdict(dict)
    for form, homes in forms.items():
        module, _, leaf = form.rpartition(".")
        flattened[_flatten(module), leaf].update(homes)
    return flattened


def _flatten(module: str) -> str:
    return module.replace(".", "_")


def _converter(names: list[str]) -> Callable[[str], list[str]] | None:
    """Gives a name of the model in the other spellings of its family; None where there are none."""
    family = catalog.detect(names)
    if family is None or not (others := family.converts_to()):
        return None

    def convert(name: str) -> list[str]:
        return [converted for other in others if (converted := family.convert(name, other)) is not None]

    return convert
