"""Take one model out of a file that holds several."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ..catalog.components import component_table
from ..consumers.components import layers_below
from ..consumers.evidence import LAYERS
from ..core.event import Event
from ..core.flow import Transform
from ..core.planning import Planning
from ..core.records import dataclass
from ..core.tensor import LazyTensor
from ..errors import RecipeError
from .options import ComponentOptions

__all__ = ["Component"]


@dataclass(frozen=True)
class Component(ComponentOptions, Transform):
    """Let only the tensors of one component go on, without the prefix that all of its names have.

    Raises:
        RecipeError: the name is empty.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.name:
            raise RecipeError("component: no name is given", hint="name it, or leave it out")

    def apply(self, tensors: Iterable[LazyTensor], planning: Planning) -> Iterator[LazyTensor]:
        """Select and rename.

        Raises:
            PlanError: the file has no such component.
        """
        tensors = list(tensors)
        held = component_table().held(tensor.name for tensor in tensors)
        component = held.find(self.name, self.kind)
        planning.note(f"component {component.folder}: {component.tensors} of {len(tensors)} tensors")
        if (text := planning.metadata.get(LAYERS)) is not None:
            planning.replaced[LAYERS] = layers_below(text, component.prefix)
        for tensor in tensors:
            owner = held.of(tensor.name)
            if owner is not component:
                planning.drop(tensor, Event("drop", f"of {owner.folder if owner else 'no component'}"))
            elif component.prefix:
                name = tensor.name.removeprefix(component.prefix)
                yield tensor.evolve(name=name, did=Event("rename", f"{tensor.name} -> {name}"))
            else:
                yield tensor
