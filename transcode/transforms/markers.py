"""Extra tensors by which a consumer tells how the others are quantized."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from ..catalog import Convention
from ..catalog.convention import Marker
from ..core.dtypes import DTYPES
from ..core.scratch import Scratch
from ..core.spec import Spec
from ..core.tensor import LazyTensor, Piece, plain

__all__ = ["markers"]


def markers(tensors: Iterable[LazyTensor], convention: Convention) -> list[LazyTensor]:
    """What the convention adds to these tensors, each marker once, in the order of the tensors.

    Raises:
        RecipeError: the convention has no place for the scheme of a tensor.
        PlanError: a marker cannot be spelled for a tensor's name.
    """
    made: dict[str, LazyTensor] = {}
    for tensor in tensors:
        if tensor.scheme is not None:
            for marker in convention.scheme(tensor.scheme.name).markers_for(tensor.scheme):
                name = marker.name.spell(tensor.name)
                made.setdefault(name, _constant(name, marker, convention.name))
    return list(made.values())


def _constant(name: str, marker: Marker, convention: str) -> LazyTensor:
    spec = Spec(DTYPES[marker.dtype], marker.shape)

    def read(start: int, stop: int, scratch: Scratch) -> Iterator[Piece]:
        begin, end = spec.row_offset(start), spec.row_offset(stop)
        yield Piece("values", begin, np.frombuffer(marker.data[begin:end], spec.dtype.carrier))

    return plain(name, spec, read, fate=(f"add: a marker of {convention}",))
