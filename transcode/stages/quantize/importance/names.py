"""Which entry of a file of weights is meant for a tensor: by its name, or one of its other spellings."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import NamedTuple

from .... import catalog
from ....catalog.ggml_names import llama_names

__all__ = ["Entries", "Found"]


class Found(NamedTuple):
    """An entry, and the row of it that is meant; None for all."""

    name: str
    row: int | None = None


class Entries:
    """The entries of a file, looked up by what their tensors may be called.

    Args:
        names: of the entries.
        tensors: names of the model's.
    """

    def __init__(self, names: Collection[str], tensors: Collection[str]) -> None:
        self._names = {_bare(name): name for name in names}
        self._llama = llama_names()
        self._known = {known: name for name in names if (known := self._llama(name)) is not None}
        self._family = catalog.detect(tensors)
        other = catalog.detect([f"{_bare(name)}.weight" for name in names])
        self._other = other if self._family and other and other.name == self._family.name else None
        self._found: dict[tuple[str, ...], Found | None] = {}

    def find(self, *names: str) -> Found | None:
        """The entry for a tensor that is called so, or None; the first of its names that has one counts."""
        if names not in self._found:
            self._found[names] = self._find(names)
        return self._found[names]

    def _find(self, names: Collection[str]) -> Found | None:
        for name in dict.fromkeys(names):
            for spelt in self._spelt(name):
                if (entry := self._names.get(_bare(spelt))) is not None:
                    return Found(entry)
            known = self._llama(name)
            if known is None:
                continue
            for module in self._llama.alike(known.module):
                same = known._replace(module=module)
                if (entry := self._known.get(same)) is not None:
                    return Found(entry)
                if known.expert is not None and (entry := self._known.get(same._replace(expert=None))):
                    return Found(entry, known.expert)
        return None

    def _spelt(self, name: str) -> Iterator[str]:
        """A name, without and with what stands before names here and there, and in the file's spelling."""
        yield name
        if self._family is None:
            return
        inner = name.removeprefix(self._family.prefix)
        yield inner
        if self._other is not None:
            yield self._other.prefix + inner
            if self._other.spelling != self._family.spelling:
                converted = self._family.convert(name, self._other.spelling)
                if converted is not None:
                    yield converted
                    yield self._other.prefix + converted.removeprefix(self._family.prefix)


def _bare(name: str) -> str:
    return name.removesuffix(".weight")
