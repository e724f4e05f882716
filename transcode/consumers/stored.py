"""What of a source is quantized, before it is known how. Of most sources nothing is: that takes one look."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from .. import catalog
from ..catalog import Convention
from ..core.dtypes import CODED
from ..core.planning import Planning
from ..core.records import dataclass
from ..core.spec import Spec, tallied
from ..core.tensor import LazyTensor

if TYPE_CHECKING:
    from .group import Coded, Names

__all__ = ["Stored", "plain_fp8", "stored_quantized"]

_FOREIGN = CODED | {"I16", "U16"}
"""Dtypes of codes of any kind, those that are not decoded among them."""


@dataclass(frozen=True)
class Stored:
    """What a file holds quantized, before it is known how.

    Attributes:
        tensors: stored name of the codes -> name of the tensor.
        parts: stored names of all codes, scales and companions.
        conventions: those whose names some of the parts have.
        foreign: stored name of codes that are not decoded -> what it is called, and the endings that tell it.
        names: those in which it was looked for; None where none could be one of codes.
    """

    tensors: Mapping[str, str]
    parts: frozenset[str]
    conventions: frozenset[str]
    foreign: Mapping[str, tuple[str, tuple[str, ...]]]
    names: Names | None = None

    def __bool__(self) -> bool:
        return bool(self.tensors or self.foreign)

    def described(self, planning: Planning) -> str:
        """In words: by whom it is made, as far as names or the source itself tell."""
        from .evidence import claims

        titles = sorted({title for title, _ in self.foreign.values()})
        for claim in claims(planning.metadata, planning.side_files, self.parts):
            titles += [claim.title] if claim.title else sorted(claim.conventions)
        return " or ".join(dict.fromkeys(titles)) or " or ".join(sorted(self.conventions))


_NOTHING = Stored({}, frozenset(), frozenset(), {})


def stored_quantized(tensors: Iterable[LazyTensor]) -> Stored:
    """What is quantized among tensors as they were read; reads names, dtypes and shapes."""
    plain = [tensor for tensor in tensors if tensor.scheme is None]
    if not any(spec.dtype.name in _FOREIGN for spec, _ in tallied(tensor.spec for tensor in plain)):
        return _NOTHING
    table = {tensor.name: tensor for tensor in plain}
    specs: dict[str, Spec] = {name: tensor.spec for name, tensor in table.items()}
    from ..catalog.foreign import foreign
    from .group import Names, coded

    names = Names(specs, lambda name: table[name].numpy().tobytes())
    conventions = {convention.name: convention for convention in catalog.every_convention()}
    known = coded(names, conventions.values())
    alien: dict[str, tuple[str, tuple[str, ...]]] = {}
    parts = {part for one in known.values() for part in one.parts}
    dtypes = {name: spec.dtype.name for name, spec in specs.items()}
    for module, (title, endings) in foreign().recognise(dtypes).items():
        one = known.get(module + endings[0])
        if one is not None and any(_is_of(conventions[convention], one) for convention in one.conventions):
            continue  # a convention has these names
        alien[module + endings[0]] = (title, endings)
        parts |= {module + ending for ending in endings}
        parts |= {name for name in dtypes if name.startswith(f"{module}.weight.")}
    return Stored(
        {codes: one.name for codes, one in known.items()},
        frozenset(parts),
        frozenset(convention for one in known.values() for convention in one.conventions),
        alien,
        names,
    )


def _is_of(convention: Convention, one: Coded) -> bool:
    """Whether a layer is of that convention, by more than names that another maker uses too."""
    return not convention.told_by or any(
        template.spell(one.name) in one.parts for template in convention.told_by
    )


def plain_fp8(tensors: Iterable[LazyTensor], stored: Stored) -> list[LazyTensor]:
    """Tensors of FP8 that no scale belongs to."""
    bare = [
        tensor
        for tensor in tensors
        if tensor.spec.dtype.name in ("F8_E4M3", "F8_E5M2")
        and tensor.plain
        and tensor.name not in stored.parts
    ]
    if not bare:
        return bare
    conventions = catalog.every_convention()
    return [tensor for tensor in bare if not catalog.is_marker(tensor.name, conventions)]
