"""On which GPUs a plan runs, if any, and what each of its workers has of them."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from ..core.performance import Performance
from ..core.scheme import Scheme
from ..core.scratch import Scratch
from ..core.tensor import LazyTensor
from ..numerics import backend

__all__ = ["Devices", "choose"]

_PAYS = 4 << 30
"""Bytes of source values in searches for the best scale from which ``auto`` takes a GPU. Other kernels run at
the speed of memory on the CPU, where a GPU's work is hidden behind reading and writing; below, starting torch
and the GPU takes longer than the search.
"""


@dataclass(frozen=True)
class Devices:
    """The GPUs of a run, shared by its workers in turn; the processor where there are none."""

    names: tuple[str, ...]
    workers: int
    memory: int

    def surroundings(self, number: int) -> AbstractContextManager[Scratch]:
        """What worker ``number`` enters: it works for one GPU, with its share of its memory."""
        if not self.names:
            return backend.working(None)
        share = -(-self.workers // len(self.names))
        return backend.working(self.names[number % len(self.names)], self.memory // share)


def choose(performance: Performance, tensors: Iterable[LazyTensor]) -> Devices:
    """The devices that a user asked for, or that pay for these tensors.

    Raises:
        PlanError: there are none of that name.
    """
    if performance.device == "auto":
        names = tuple(backend.available()[:1]) if _searched(tensors) >= _PAYS else ()
    else:
        names = backend.devices(performance.device)
    return Devices(names, performance.threads, performance.device_memory)


def _searched(tensors: Iterable[LazyTensor]) -> int:
    """Bytes of source values for which a scheme tries several scales."""
    return sum(
        tensor.spec.nbytes
        for tensor in tensors
        if isinstance(tensor.scheme, Scheme) and "optimize" in tensor.scheme.config()
    )
