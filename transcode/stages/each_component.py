"""Each model of an all-in-one file in the spelling in which another program has it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from .. import catalog
from ..catalog.components import OTHER, Components
from ..consumers.components import SPELLINGS, meant, serves, spellings_of
from ..core import small_json
from ..core.planning import Planning
from ..core.tensor import LazyTensor
from ..errors import PlanError
from ..voice import called
from .mixed import refuse_mixed

__all__ = ["each_component"]

_Convert = Callable[..., Iterator[LazyTensor]]


def each_component(
    tensors: Sequence[LazyTensor], held: Components, to: str, planning: Planning, convert: _Convert
) -> Iterator[LazyTensor]:
    """The tensors of a file that holds several models, each converted by the rules of its own family.

    Names keep the prefix of their model. What is spelled so already, is of no known family or has no such
    spelling stays as it is; where the file's own metadata says how a model was spelled before
    (:data:`.consumers.components.SPELLINGS`), ``original`` is that.

    Args:
        convert: :func:`.convert._converted`.

    Raises:
        PlanError: no model of the file has that spelling; one has names of two; or see
            :class:`.convert.Convert`.
    """
    before = spellings_of(planning.metadata) if to == "original" else {}
    spelled: dict[str, str] = {}
    known = False
    for component in held.all:
        own = [tensor for tensor in tensors if held.of(tensor.name) is component]
        family = None if component.name == OTHER else catalog.detect([tensor.name for tensor in own])
        if family is None:
            if component.name != OTHER:
                planning.note(f"convert: {component.folder} is of no known family, its names stay")
            yield from own
            continue
        stays = to == "original" and serves(component.folder)
        wanted = before.get(component.prefix) or (family.spelling if stays else meant(to, family))
        known = known or wanted is not None
        if wanted is None or wanted == family.spelling:
            if wanted is not None and not stays:
                refuse_mixed(own, family, planning)
            yield from own
            continue
        spelled[component.prefix] = family.spelling
        yield from convert(own, family, wanted, planning, within=True)
    if not known:
        raise PlanError(
            f"convert to {to}: no model of this file has such a spelling",
            hint=f"take one out with {called('component')}, see `transcode families`",
        )
    if not spelled:
        planning.warn(f"convert: the names are spelled as {to} already, none changes")
    planning.replaced[SPELLINGS] = small_json.spell(spelled) if spelled and to != "original" else None
