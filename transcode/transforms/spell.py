"""Give the parts of a tensor the names, dtypes and layouts of a consumer's convention."""

from __future__ import annotations

from ..catalog import Convention
from ..core.planning import Planning
from ..core.tensor import LazyTensor

__all__ = ["spell"]


def spell(
    tensor: LazyTensor, convention: Convention, planning: Planning
) -> tuple[LazyTensor, dict[str, str]]:
    """The tensor with its parts as the convention stores them, and the stored name of each part by role.

    Raises:
        RecipeError: the convention has no place for such a tensor.
    """
    if tensor.scheme is None:
        return tensor, {part.role: tensor.name for part in tensor.parts}
    scheme = tensor.scheme.name
    for option, values in convention.scheme(scheme).reads.items():
        value = getattr(tensor.scheme, option, None)
        if value not in values:
            planning.warn(
                f"{convention.name} is not known to read {scheme} with {option}={value}, but with"
                f" {' or '.join(map(str, values))}"
            )
    return tensor, {part.role: convention.spell(tensor.name, part.role, scheme) for part in tensor.parts}
