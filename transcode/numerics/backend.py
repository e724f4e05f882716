"""Which device runs the kernels of a thread: the processor, or a GPU. The only place that chooses.

A scheme calls a kernel with numpy arrays; :func:`dispatched` hands the call to the GPU that the calling
thread works for, if there is one. Neither the scheme nor what lies above it can tell the difference: the
bytes are the same. torch is imported when a GPU is asked for, never before.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TypeVar

from ..core.context import Context
from ..errors import PlanError
from ..voice import called

if TYPE_CHECKING:
    from .gpu.worker import Worker

__all__ = ["available", "devices", "dispatched", "working"]

F = TypeVar("F", bound=Callable[..., Any])

_here = threading.local()


def dispatched(function: F) -> F:
    """A kernel that runs on the GPU of the calling thread where it has one, see :func:`working`."""
    name = function.__name__

    @wraps(function, updated=())
    def call(*arguments: Any) -> Any:
        worker: Worker | None = getattr(_here, "worker", None)
        if worker is None:
            return function(*arguments)
        from .gpu import table

        return table.call(worker, name, arguments)

    return call  # type: ignore[return-value]


@contextmanager
def working(device: str | None, memory: int = 0) -> Iterator[Context]:
    """Let this thread's kernels run on a device in this block; yields the scratch for its tiles.

    Args:
        device: as :func:`devices` names it, or None for the processor.
        memory: bytes of the GPU's memory that this thread may use.
    """
    if device is None:
        yield Context()
        return
    from .gpu.worker import Worker

    with Worker(device, memory) as worker:
        _here.worker = worker
        try:
            yield Context(worker.pinned)
        finally:
            del _here.worker


def devices(wanted: str) -> tuple[str, ...]:
    """The GPUs that ``cuda``, or ``cuda:0,cuda:1``, names: none for ``cpu``.

    ``cuda`` is the first; builds of torch for ROCm call their GPUs so too.

    Raises:
        PlanError: torch is missing, sees no GPU, or not that one; or the GPU does not work.
    """
    if wanted == "cpu":
        return ()
    if find_spec("torch") is None:
        raise PlanError(
            f"device {wanted}: torch is not installed",
            hint=f"pip install 'tensor-transcode[torch]', or use {called('device', 'cpu')}",
        )
    from .gpu import devices as gpus

    names = tuple("cuda:0" if name == "cuda" else name for name in wanted.split(","))
    count = gpus.count()
    if count == 0:
        raise PlanError(
            f"device {wanted}: torch {gpus.version()} sees no GPU",
            hint="check the driver, CUDA_VISIBLE_DEVICES and the build of torch, or use"
            f" {called('device', 'cpu')}",
        )
    for name in names:
        if int(name.partition(":")[2]) >= count:
            last = f" to cuda:{count - 1}" if count > 1 else ""
            raise PlanError(f"device {name}: torch sees {_gpus(count)}", hint=f"choose cuda:0{last}")
        problem = gpus.problem(name)
        if problem is not None:
            raise PlanError(f"device {name}: {problem}", hint="free it, or use another device")
    return names


def available() -> Sequence[str]:
    """The GPUs that work, the one with the most free memory first; none where torch is missing."""
    if find_spec("torch") is None:
        return ()
    from .gpu import devices as gpus

    return gpus.free()


def _gpus(count: int) -> str:
    return "one GPU" if count == 1 else f"{count} GPUs"
