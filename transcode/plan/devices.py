"""On how many workers and which GPUs a plan runs, and what each worker has of them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace

from ..core.context import Context
from ..core.performance import MIN_TILE, Performance
from ..core.records import dataclass
from ..core.tensor import LazyTensor
from ..errors import PlanError, TranscodeError
from ..numerics import backend
from ..voice import called

__all__ = ["Devices", "choose", "fitted", "known", "room"]

_WORKERS = 4
"""Threads that keep GPUs busy, two at least for each: more only wait for each other, over smaller tiles."""

_LIGHT = 8
"""Threads for work that is light on the processor: the kernel writes into a file for one of them at a time,
so more only wait for each other, over smaller tiles. From 4 on the time is the same, measured with 16."""

_ENCODED = 3
"""The most room of what is read, encoded and spelled, and nothing else."""

_START = 6.0
"""Seconds to import torch and start a GPU."""
_DETOUR = 0.4
"""Seconds to bring one GB to a GPU and its codes back."""


@dataclass(frozen=True)
class Devices:
    """The GPUs of a run, shared by its workers in turn; the processor where there are none.

    Attributes:
        names: of the GPUs.
        performance: as the user wanted it, with the number of workers that suits the work: no more than can
            be of use, and where none was named no more than GPUs need.
    """

    names: tuple[str, ...]
    performance: Performance

    def surroundings(self, number: int) -> AbstractContextManager[Context]:
        """What worker ``number`` enters: it works for one GPU, with its share of that GPU's memory."""
        if not self.names:
            return backend.working(None)
        share = -(-self.performance.threads // len(self.names))
        return backend.working(self.names[number % len(self.names)], self.performance.device_memory // share)


def known(device: str, remarks: list[str]) -> str:
    """The device; or the CPU, which makes the same bytes, and a remark where there is none of that name."""
    try:
        chosen = Performance(device=device).device
        if chosen != "auto":
            backend.devices(chosen)
        return chosen
    except TranscodeError as error:
        remarks.append(f"{error.what}: runs on the CPU, which gives the same bytes")
        return "cpu"


def fitted(performance: Performance, tensors: Sequence[LazyTensor]) -> Performance:
    """The performance options, with no more workers than have the memory for the widest rows."""
    most, memory = performance.threads, performance.memory
    for tensor in tensors:
        if tensor.least * tensor.cost <= MIN_TILE:
            continue  # nearly all: nothing of them is cut
        least = tensor.cut(MIN_TILE).least
        if least <= MIN_TILE:
            continue
        most = min(most, memory // (2 * least))
        if most < 1:
            raise PlanError(
                f"{tensor.grain} rows of it need {2 * least} bytes at a time, more than {memory} in all",
                tensor=tensor.name,
                hint=f"raise {called('memory')}",
            )
    return performance if most == performance.threads else replace(performance, workers=most)


def choose(performance: Performance, tensors: Sequence[LazyTensor]) -> Devices:
    """The devices that a user asked for, or that pay for these tensors.

    Raises:
        PlanError: there are none of that name.
    """
    if performance.device == "auto":
        names = tuple(backend.available()[:1]) if _pays(performance, tensors) else ()
    else:
        names = backend.devices(performance.device)
    if names:
        useful = max(_WORKERS if performance.workers is None else _LIGHT, 2 * len(names))
    else:
        useful = _useful(performance, tensors)
    if performance.workers is None or performance.workers > useful:
        performance = replace(performance, workers=min(performance.threads, useful))
    return Devices(names, performance)


def room(tensors: Sequence[LazyTensor]) -> float:
    """The memory that a tile of any of them takes, over the bytes of its values."""
    return max((tensor.value.room() for tensor in tensors), default=1)


def _useful(performance: Performance, tensors: Sequence[LazyTensor]) -> int:
    """How many threads the work can use: with more it takes longer, or as long."""
    schemes = {id(tensor.scheme): tensor.scheme for tensor in tensors}.values()
    light = room(tensors) <= _ENCODED and all(scheme is None or scheme.light for scheme in schemes)
    return _LIGHT if light else max(replace(performance, workers=None).threads, _LIGHT)


def _pays(performance: Performance, tensors: Sequence[LazyTensor]) -> bool:
    """Whether searches take longer on the processors than the start of a GPU and the detour over it."""
    search = size = 0.0
    for tensor in tensors:
        if tensor.scheme is not None:
            search += tensor.scheme.search_seconds * tensor.spec.nbytes / 1e9
            size += tensor.spec.nbytes / 1e9
    return search / performance.threads > _START + _DETOUR * size
