"""Changes of what the model holds otherwise than the LoRA names it: its transpose, or some of a stack."""

from __future__ import annotations

from ...core.permuted import permuted
from ...core.spec import Spec
from .delta import Delta, Difference, LowRank, Mix
from .homes import Place
from .picked import picked
from .places import Whole

__all__ = ["seen", "turned_over"]


def seen(place: Place, spec: Spec) -> Spec:
    """The tensor that a change is for, of the facts of the one that holds it or rows of it."""
    shape = spec.shape
    if place.turned:
        return Spec(spec.dtype, shape[::-1])
    if place.rows_of_stack:
        return Spec(spec.dtype, (place.rows or 0, *shape[2:]))
    if place.stack:
        return Spec(spec.dtype, (place.stack, (place.rows or 0) // place.stack, *shape[1:]))
    return spec if place.rows is None else Spec(spec.dtype, (place.rows, *shape[1:]))


def turned_over(delta: Delta | Mix) -> Delta | None:
    """The change of the transpose; None where there is none of its kind."""
    if isinstance(delta, LowRank):
        up, down = delta.up, delta.down
        if delta.mid is not None or delta.turned or len(up.spec.shape) != 2 or len(down.spec.shape) != 2:
            return None
        return LowRank(delta.file, picked(down, turned=True), picked(up, turned=True))
    if isinstance(delta, Difference | Whole) and len(delta.shape) == 2:
        turned = permuted(delta.values, delta.shape, (1, 0), delta.shape[::-1])
        return type(delta)(delta.file, turned)
    return None
