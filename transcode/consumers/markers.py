"""Extra tensors by which a consumer tells how the others are quantized."""

from __future__ import annotations

from collections.abc import Iterable

from ..catalog import Convention
from ..catalog.convention import Marker
from ..core.dtypes import DTYPES
from ..core.event import Event
from ..core.expr import Constant
from ..core.planning import Planning
from ..core.spec import Spec
from ..core.tensor import LazyTensor, plain
from ..core.value import Known, interned

__all__ = ["markers", "with_markers"]


def with_markers(
    tensors: Iterable[LazyTensor], convention: Convention, planning: Planning
) -> list[LazyTensor]:
    """The tensors and, behind them, their markers: once, where the source brought the same along.

    Raises:
        As :func:`markers`.
    """
    tensors = list(tensors)
    own = markers(tensors, convention)
    if not own:
        return tensors
    ours = {marker.name: marker.spec for marker in own}
    kept = []
    for tensor in tensors:
        if tensor.plain and ours.get(tensor.name) == tensor.spec:
            planning.drop(tensor, Event("drop", f"{convention.name} marks the output with one of its own"))
        else:
            kept.append(tensor)
    return kept + own


def markers(tensors: Iterable[LazyTensor], convention: Convention) -> list[LazyTensor]:
    """What the convention adds to these tensors, each marker once, in the order of the tensors.

    Raises:
        RecipeError: the convention has no place for the scheme of a tensor.
        PlanError: a marker cannot be spelled for a tensor's name.
    """
    by_name: dict[str, LazyTensor] = {}
    markers_for = Known(lambda scheme: convention.scheme(scheme.name).markers_for(scheme))
    for tensor in tensors:
        if tensor.scheme is not None:
            for marker in markers_for(tensor.scheme):
                name = marker.name.spell(tensor.name)
                by_name.setdefault(name, _constant(name, marker, convention.name))
    return list(by_name.values())


def _constant(name: str, marker: Marker, convention: str) -> LazyTensor:
    spec = Spec(DTYPES[marker.dtype], marker.shape)
    added = interned(Event("add", f"a marker of {convention}"))
    return plain(name, spec, Constant(spec, marker.data), fate=(added,))
