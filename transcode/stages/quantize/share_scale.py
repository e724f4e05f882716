"""Which tensors share one global scale, and the looks at whole tensors that their encoding waits for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from ... import catalog
from ...consumers.fit import Decision
from ...core.dtypes import DType
from ...core.planning import Planning
from ...core.records import dataclass
from ...core.scheme import Scheme, parts_of
from ...core.tensor import LazyTensor
from ...errors import PlanError
from ...voice import called
from .choice import Choice
from .encode import Peak

__all__ = ["Sharing", "has_global_scale", "needed_looks", "sharing_scales"]


@dataclass(frozen=True)
class Sharing:
    """Who shares a global scale.

    Attributes:
        fused: groups as the user gave them; without any, the family's count, if the consumer wants them.
        choice: knows the family's groups.
        consumer: who reads the output; None where no convention is asked for.
    """

    fused: tuple[catalog.Fused, ...]
    choice: Choice
    consumer: catalog.Convention | None

    def key(self, tensor: LazyTensor, scheme: Scheme) -> str | None:
        """Equal for the tensors that share one; None for one that shares with nobody."""
        if self.fused:
            return next((key for group in self.fused if (key := group.key(tensor.name)) is not None), None)
        wanted = self.consumer is not None and self.consumer.scheme(scheme.name).shares_scales
        return self.choice.group_of(tensor) if wanted else None


def has_global_scale(tensor: LazyTensor, scheme: Scheme) -> bool:
    """Whether the scheme stores a scale of the whole tensor, which several may share."""
    return any(part.role == "global_scale" for part in parts_of(scheme, tensor.spec))


def sharing_scales(
    decided: Iterable[Decision], key: Callable[[LazyTensor, Scheme], str | None]
) -> dict[str, list[int]]:
    """Numbers of the tensors that are encoded under one global scale, by the key of their group."""
    groups: dict[str, list[int]] = {}
    for number, (tensor, action, _) in enumerate(decided):
        if action is None or isinstance(action, DType) or not has_global_scale(tensor, action):
            continue
        if (group := key(tensor, action)) is not None:
            groups.setdefault(group, []).append(number)
    return groups


def needed_looks(
    decided: Sequence[Decision], sharing: Sharing, planning: Planning
) -> dict[int, tuple[Peak, ...]]:
    """The looks that each tensor's encoding waits for, by number: its own, or those of all its group.

    Raises:
        PlanError: of a group as given no two tensors have a global scale, unless that is allowed.
    """
    own: dict[int, Peak] = {}
    groups: dict[object, list[int]] = {}
    shared: dict[str, set[int]] = {}
    for number, (tensor, action, _) in enumerate(decided):
        if action is None or isinstance(action, DType) or not action.observes:
            continue
        own[number] = Peak(tensor, action)
        key: object = number
        if has_global_scale(tensor, action):
            key = sharing.key(tensor, action) or number
            if isinstance(key, str):
                shared.setdefault(key, set()).add(number)
        groups.setdefault((key, action), []).append(number)
    idle = [
        ",".join(group.members)
        for group in sharing.fused
        if not any(
            len({number for number in members if group.key(decided[number][0].name) == key}) > 1
            for key, members in shared.items()
        )
    ]
    if idle:
        message = f"share_scale: no two tensors with a global scale are those of {' or of '.join(idle)}"
        if not planning.allow_unmatched:
            raise PlanError(message, hint=f"correct it, leave it out, or pass {called('allow_unmatched')}")
        planning.warn(message)
    return {
        number: tuple(own[member] for member in members) for members in groups.values() for number in members
    }
