"""Give the parts of a tensor the names, dtypes and layouts of a consumer's convention."""

from __future__ import annotations

from ..catalog import Convention
from ..core.tensor import LazyTensor

__all__ = ["spell"]


def spell(tensor: LazyTensor, convention: Convention) -> tuple[LazyTensor, dict[str, str]]:
    """The tensor with its parts as the convention stores them, and the stored name of each part by role.

    Raises:
        RecipeError: the convention has no place for such a tensor.
    """
    if tensor.scheme is None:
        return tensor, {part.role: tensor.name for part in tensor.parts}
    scheme = tensor.scheme.name
    return tensor, {part.role: convention.spell(tensor.name, part.role, scheme) for part in tensor.parts}
