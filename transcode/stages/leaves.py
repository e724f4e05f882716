"""What a tensor is made of in the source, its rows joined, cut or stacked, its elements in another order."""

from __future__ import annotations

from collections.abc import Iterator

from ..core.permuted import Permuted, Reshaped
from ..core.rows import Rows
from ..core.tensor import LazyTensor

__all__ = ["before", "leaves"]


def leaves(tensor: LazyTensor) -> Iterator[LazyTensor]:
    """What a tensor is made of, in the order in which it stands there: tensors that are made of no other."""
    value = tensor.value
    if isinstance(value, Rows):
        for one in dict.fromkeys(run.tensor for run in value.runs):
            yield from leaves(one)
    elif isinstance(value, Permuted | Reshaped):
        yield from leaves(value.tensor)
    elif (inner := before(tensor)) is not None:
        yield from leaves(inner)
    else:
        yield tensor


def before(tensor: LazyTensor) -> LazyTensor | None:
    """What was cast, padded, shifted, encoded or merged with what a LoRA adds: each element where it was."""
    inner = [one for one in tensor.value.inputs() if isinstance(one, LazyTensor)]
    return inner[0] if len(inner) == 1 else None
