"""Extra tensors by which a consumer tells how the others are quantized."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from ..catalog import Convention
from ..catalog.template import Template
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
    added_for = Known(lambda scheme: tuple(_added(scheme, convention)))
    for tensor in tensors:
        if tensor.scheme is not None:
            for template, constant in added_for(tensor.scheme):
                name = template.spell(tensor.name)
                by_name.setdefault(name, plain(name, constant.spec, constant, fate=(_fate(convention.name),)))
    return list(by_name.values())


def _added(scheme: Any, convention: Convention) -> Iterator[tuple[Template, Constant]]:
    """Markers of a tensor in a scheme, and what says how it was made."""
    for marker in convention.scheme(scheme.name).markers_for(scheme):
        yield marker.name, _constant(marker.dtype, marker.shape, marker.data)
    for setting in convention.settings:
        if (content := setting.of(scheme)) is not None:
            yield setting.name, _constant(*content)


def _constant(dtype: str, shape: tuple[int, ...], data: bytes) -> Constant:
    return Constant(Spec(DTYPES[dtype], shape), data)


def _fate(convention: str) -> Event:
    return interned(Event("add", f"a marker of {convention}"))
