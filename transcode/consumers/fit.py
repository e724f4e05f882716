"""Whether a scheme and its consumer can take a tensor, and what must stay with those that they cannot."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from math import lcm

from .. import catalog
from ..core.dtypes import DType
from ..core.event import Reason
from ..core.planning import Planning
from ..core.scheme import Scheme
from ..core.tensor import LazyTensor

__all__ = ["Action", "Decision", "alike", "misfit", "multiple", "odd_axis"]

Action = Scheme | DType | None
"""What happens to a tensor: a scheme encodes it, a dtype is cast to, None leaves it."""

Decision = tuple[LazyTensor, Action, Reason]
"""A tensor, what happens to it, and why."""


def misfit(
    tensor: LazyTensor, scheme: Scheme, consumer: catalog.Convention | None, *, followed: bool
) -> str | None:
    """Why the scheme, or the consumer, cannot take a tensor of this name and shape; None if they can.

    Args:
        followed: whether the consumer joins it with other tensors, of which one stands behind it.
    """
    if refusal := scheme.refuses(tensor.spec):
        return refusal
    if consumer is None:
        return _odd(tensor, scheme.multiple, "which the scheme needs")
    if consumer.dims and len(tensor.spec.shape) not in consumer.dims:
        return f"{consumer.name} takes no {len(tensor.spec.shape)}-D tensor quantized"
    for limit in consumer.scheme(scheme.name).limits_for(scheme):
        if not limit.experts and catalog.experts_of(tensor.name) is not None:
            return f"it is of an expert, and {limit.why}"
        if odd := _odd(tensor, (limit.rows, int(limit.columns)), limit.why):
            return odd
        if followed and (
            odd := _odd(tensor, (limit.fused_rows, 1), f"where tensors are joined: {limit.why}")
        ):
            return odd
    return _odd(tensor, scheme.multiple, "which the scheme needs")


def multiple(scheme: Scheme, consumer: catalog.Convention | None) -> tuple[int, int]:
    """Rows and columns that a tensor must have a multiple of, joined or not."""
    limits = () if consumer is None else consumer.scheme(scheme.name).limits_for(scheme)
    rows, columns = scheme.multiple
    return lcm(rows, *(one.rows for one in limits)), lcm(columns, *(int(one.columns) for one in limits))


def odd_axis(tensor: LazyTensor, scheme: Scheme, consumer: catalog.Convention | None) -> str | None:
    """Which of ``rows`` and ``columns`` is no multiple of what scheme, else consumer, needs, if any."""
    for steps in (scheme.multiple, multiple(scheme, consumer)):
        for axis, count, step in zip(("rows", "columns"), tensor.spec.shape[-2:], steps, strict=False):
            if count % step:
                return axis
    return None


def _odd(tensor: LazyTensor, steps: tuple[int, int], why: str) -> str | None:
    for what, count, step in zip(("rows", "columns"), tensor.spec.shape[-2:], steps, strict=True):
        if count % step:
            return f"{count} {what} are not a multiple of {step}, {why}"
    return None


def alike(
    decided: list[Decision],
    spared: Mapping[int, str],
    group_of: Callable[[LazyTensor], str | None],
    consumer: catalog.Convention | None,
    planning: Planning,
) -> list[Decision]:
    """Keep what a consumer joins with a tensor that had to be kept: it reads all of them alike, or none.

    Where it was the user who chose otherwise for some of them, there is a warning.

    Args:
        spared: number of each tensor that was chosen and could not be quantized -> why.
        group_of: key of the fused group of a tensor.
    """
    if consumer is None or not consumer.joins:
        return decided
    groups: dict[str, list[int]] = {}
    for number, (tensor, _, _) in enumerate(decided):
        key = catalog.experts_of(tensor.name) or group_of(tensor)
        if key is not None and tensor.plain and len(tensor.spec.shape) > 1:
            groups.setdefault(key, []).append(number)
    settled = list(decided)
    for members in groups.values():
        lost = next((number for number in members if number in spared), None)
        quantized = [number for number in members if _encoded(decided[number][1])]
        if lost is not None:
            for number in quantized:
                why = Reason(
                    "joined", f"{decided[lost][0].name}, which it is joined with, is not: {spared[lost]}"
                )
                name = decided[number][0].name
                planning.warn(f"{name}: not quantized: {why}", tensor=name, kind="joined")
                settled[number] = (decided[number][0], None, why)
        elif quantized and len({repr(decided[number][1]) for number in members}) > 1:
            planning.warn(
                f"{consumer.name}: loaders that join {_listed(decided[n][0].name for n in members)} refuse"
                " them unless all are quantized alike",
                tensor=decided[members[0]][0].name,
                kind="not alike",
            )
    return settled


def _encoded(action: Action) -> bool:
    # Not isinstance(action, Scheme): for a protocol that looks at all members, every time.
    return action is not None and not isinstance(action, DType)


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
