"""Rename all tensors from one spelling of their architecture to another."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar

from .. import catalog
from ..core.event import Event
from ..core.flow import Transform
from ..core.planning import Planning
from ..core.tensor import LazyTensor
from ..errors import PlanError
from ..voice import called
from .options import ConvertOptions

__all__ = ["Convert"]


@dataclass(frozen=True)
class Convert(ConvertOptions, Transform):
    """Spell a model as another program does, e.g. LightX2V's Wan as Diffusers'.

    The rules come from the family, and are proven to be a bijection on its names: converting there and back
    gives every name again.
    """

    respells: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.model is not None:
            catalog.family(self.model).spelled(self.to)
        catalog.check_spelling(self.to)

    @property
    def consumer(self) -> str:
        """Whose spelling it is."""
        return self.to

    def apply(self, tensors: Iterable[LazyTensor], planning: Planning) -> Iterator[LazyTensor]:
        """Rename. A name that no rule knows is an error, or goes on unchanged if unmatched is allowed."""
        tensors = list(tensors)
        names = [tensor.name for tensor in tensors]
        family = self._family(names)
        if family.spelling == self.to:
            planning.warn(f"convert: the names are spelled as {self.to} already, none changes")
        else:
            planning.note(f"convert {family.name}: {family.spelling} -> {self.to}")
        unknown = []
        for tensor in tensors:
            new = tensor.name if family.spelling == self.to else family.convert(tensor.name, self.to)
            if new is None:
                unknown.append(tensor.name)
                yield tensor.evolve(did=Event("convert", "no rule knows this name"))
            elif new == tensor.name:
                yield tensor
            else:
                yield tensor.evolve(name=new, did=Event("rename", f"{tensor.name} -> {new}"))
        if unknown:
            told = f"convert: no rule of {family.name} knows {', '.join(unknown[:5])}"
            told += f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
            if not planning.allow_unmatched:
                raise PlanError(told, hint=f"drop or rename them first, or pass {called('allow_unmatched')}")
            planning.warn(told)

    def _family(self, names: list[str]) -> catalog.Family:
        if self.model is not None:
            family = catalog.family(self.model)
            found = family.fit(names)
        else:
            found = catalog.detect(names)
            if found is None:
                raise PlanError(
                    f"convert to {self.to}: these tensors belong to no known family",
                    hint=f"name it with {called('model')}; `transcode families` lists them",
                )
            family = found
        if self.source is not None and (found is None or found.spelling != self.source):
            family = family.spelled(self.source)
        elif found is None:
            raise PlanError(
                f"convert to {self.to}: the tensors do not look like any spelling of {family.name}",
                hint="say which one it is",
            )
        else:
            family = found
        family.spelled(self.to)
        return family
