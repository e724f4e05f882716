"""A plan carried out on the machines of a Ray cluster, which share the folders of source and output.

The plan is cut into many parts, as for ``--part``; each is a task. The plan is sent once, and each process
of the cluster holds it once. What a lost process, or a lost machine, had done of a part is in the part's
journal, so another one goes on there; when all parts have their mark, they are joined here.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

from ..core.performance import Performance
from ..errors import Interrupted, PlanError, TranscodeError
from ..plan.plan import Plan
from . import parts
from .parting import part
from .report import Progress
from .shares import Shares, nbytes
from .staging import GO_ON

__all__ = ["refuse_missing", "work_out"]

_UNIT = 512 << 20
"""Bytes of a part: some seconds of work, so that a lost one costs little and progress is told often."""
_LEAST = 8 << 20
_EACH = 4
"""Parts for each process, where there is little to do: so all of them end at about the same time."""
_THREADS = 4
"""Threads of a process where nobody says: more processes would each hold the plan."""
_OVERHEAD = 400 * 10**6
"""Bytes of a process beside its tiles: the interpreter, numpy, the plan."""
_PATIENCE = 90.0
"""Seconds for Ray's client to be served; it gives up by itself after 30, if it gives up."""
_CONNECTS = 3
_LOST = "Initialization failure from server"
"""What Ray's client says where the process that was started for it has died."""
_ATTEMPTS = 5
"""Processes that may be lost at one part, before it is taken for the part's fault."""


def refuse_missing() -> None:
    """Refuse to go on without Ray.

    Raises:
        PlanError: with its install line.
    """
    if find_spec("ray") is None:
        raise PlanError("cluster: Ray is not installed", hint="pip install 'tensor-transcode[ray]'")


def work_out(
    plan: Plan, performance: Performance, on_progress: Callable[[Progress], None] | None = None
) -> int:
    """Have every part of a plan done; they are left to be joined.

    Returns:
        How often a part was done by another process, as one was lost.

    Raises:
        TranscodeError: of whatever part came to one first; the others are ended.
    """
    import ray

    began, is_ours = time.monotonic(), parts.count_of(plan) is None
    try:
        with _connected(ray, performance.cluster or "") as cpus:
            return _Driver(ray, plan, performance, cpus, began, on_progress).run()
    except KeyboardInterrupt:
        if performance.resume or not is_ours:
            raise Interrupted("interrupted", file=plan.destination, hint=GO_ON) from None
        parts.remove(plan)
        raise Interrupted("interrupted; nothing was written", file=plan.destination) from None
    except BaseException:
        if is_ours and not performance.resume:
            parts.remove(plan)
        raise


@contextmanager
def _connected(ray: Any, cluster: str) -> Iterator[int]:
    """Be connected with a cluster, and know how many processors it has."""
    ours = not ray.is_initialized()
    if ours:
        try:
            _connect(ray, cluster if cluster.startswith("ray://") else None)
        except ImportError:
            raise PlanError(
                f"cluster: for {cluster} Ray needs its client", hint="pip install 'tensor-transcode[ray]'"
            ) from None
        except (ConnectionError, RuntimeError, ValueError) as error:
            line = str(error).partition("\n")[0]
            raise PlanError(
                f"cluster: {cluster} cannot be reached: {line.rstrip(':')}",
                hint="is it running? ray status; does it want a token? RAY_AUTH_MODE=token",
            ) from None
    try:
        yield int(ray.cluster_resources().get("CPU", 1))
    finally:
        if ours:
            ray.shutdown()


def _connect(ray: Any, address: str | None) -> None:
    """Connect this process with a cluster; None for the one of this machine.

    The server of Ray's client starts a process for each client, by a fork beside the threads of gRPC. Now and
    then that process dies of it (Ray 2.60: by SIGSEGV), and another attempt gets another one.

    Raises:
        ConnectionError: also where Ray's client does not come back.
    """
    if address is None:  # what it starts ends with the thread that did
        _attempt(ray, address)
        return
    for left in reversed(range(_CONNECTS)):
        errors: list[BaseException] = []
        thread = threading.Thread(target=_noting, args=(errors, ray, address), name="ray", daemon=True)
        thread.start()
        thread.join(_PATIENCE)
        if thread.is_alive():
            raise ConnectionError(f"no answer in {_PATIENCE:.0f} s, see ray_client_server.err of its head")
        if not errors:
            return
        if left == 0 or not str(errors[0]).startswith(_LOST):
            raise errors[0]


def _attempt(ray: Any, address: str | None) -> None:
    ray.init(address=address, log_to_driver=False, logging_level="ERROR")


def _noting(errors: list[BaseException], ray: Any, address: str) -> None:
    try:
        _attempt(ray, address)
    except BaseException as error:
        errors.append(error)


class _Driver:
    """Hands out parts, a few more than processors are free, and counts what comes back."""

    def __init__(
        self,
        ray: Any,
        plan: Plan,
        performance: Performance,
        cpus: int,
        began: float,
        on_progress: Callable[[Progress], None] | None,
    ) -> None:
        self._ray = ray
        self._plan = plan
        self._threads = min(performance.workers or _THREADS, cpus)
        self._performance = replace(
            performance, cluster=None, resume=False, workers=self._threads, checksums=False, attest=False
        )
        self._slots = max(cpus // self._threads, 1)
        shares = Shares(plan)
        self._total = nbytes(shares.whole())
        most = max(self._total // _LEAST, 1)
        fresh = max(self._total // _UNIT, min(_EACH * self._slots, most), 1)
        self.count = parts.count_of(plan) or fresh
        self._sizes = {number: nbytes(shares.part(number, self.count)) for number in range(1, self.count + 1)}
        self._began = began
        self._on_progress = on_progress
        self._lost = 0

    def run(self) -> int:
        """Do all parts; see :func:`work_out`."""
        ray = self._ray
        task = ray.remote(
            num_cpus=self._threads,
            memory=self._performance.memory + _OVERHEAD,
            max_retries=0,  # whether a process is lost for good is decided here
        )(_do)
        held = [ray.put(self._plan)]
        waiting = list(reversed(self._sizes))
        attempts = dict.fromkeys(self._sizes, 0)
        running: dict[Any, int] = {}
        try:
            while waiting or running:
                while waiting and len(running) < self._slots + 2:
                    number = waiting.pop()
                    attempts[number] += 1
                    running[task.remote(held, number, self.count, self._performance, os.getcwd())] = number
                ready, _ = ray.wait(list(running), num_returns=1, timeout=0.2)
                for reference in ready:
                    number = running.pop(reference)
                    if not self._is_done(reference, number, attempts[number]):
                        waiting.append(number)
                self._tell(waiting, running)
        finally:
            for reference in running:
                ray.cancel(reference, force=True)
            # A part must not be written to any more when this returns.
            if running:
                ray.wait(list(running), num_returns=len(running), timeout=30)
        return self._lost

    def _is_done(self, reference: Any, number: int, attempts: int) -> bool:
        """Whether a task has done its part; False where its process was lost, and another is to do it."""
        lost = self._ray.exceptions
        try:
            error = self._ray.get(reference)
        except (lost.WorkerCrashedError, lost.NodeDiedError, lost.OutOfMemoryError) as gone:
            self._lost += 1
            if attempts >= _ATTEMPTS:
                raise TranscodeError(
                    f"part {number} of {self.count}: {attempts} processes were lost at it"
                    f" ({type(gone).__name__})",
                    file=self._plan.destination,
                    hint="have they too little memory?",
                ) from None
            return False
        if error is not None:
            raise error
        return True

    def _tell(self, waiting: list[int], running: dict[Any, int]) -> None:
        if self._on_progress is not None:
            left = sum(self._sizes[number] for number in (*waiting, *running.values()))
            seconds = time.monotonic() - self._began
            self._on_progress(Progress(self._total - left, self._total, "convert", seconds))


_PLANS: dict[str, Plan] = {}
"""The plan that this process of a cluster holds, by what names it there."""


def _do(
    held: list[Any], number: int, count: int, performance: Performance, folder: str
) -> TranscodeError | None:
    """In a process of the cluster: do one part. Returns what prevented it.

    Args:
        folder: that relative paths of the plan begin in.
    """
    import ray

    with suppress(OSError):  # where that is no shared folder, paths are absolute, or their errors say it
        os.chdir(folder)
    name = held[0].hex()
    if name not in _PLANS:
        _PLANS.clear()
        _PLANS[name] = ray.get(held[0])
    try:
        part(_PLANS[name], performance, number, count)
    except TranscodeError as error:
        return error
    return None
