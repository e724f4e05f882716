"""What is left of a plan, or of a share of it, is done: by so many workers, on such devices, so fast."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..core.performance import Performance
from ..core.source import Input
from ..errors import FormatError, TranscodeError
from ..io import system
from ..plan import devices
from ..plan.plan import Plan
from ..voice import called
from .destination import existing_parent
from .execute import execute
from .journal import Ledger
from .pace import Pace
from .report import Progress, Report
from .staged import Staged

if TYPE_CHECKING:
    from .rehearsal import Rehearsal
    from .sending import Sending

__all__ = ["remaining", "verify", "watching", "work"]

_INTERVAL = 10.0
"""Seconds between two times that what is done is made durable: what a crash costs a run that resumes."""

_QUICK, _REST, _LONGEST = 0.1, 20, 60.0
"""A sync that takes longer than these seconds is followed by a rest of so many times that, up to the last:
while they sync, some disks let nobody read.
"""


def work(
    plan: Plan,
    staged: Staged | Sending | Rehearsal,
    performance: Performance,
    pace: Pace,
    on_progress: Callable[[Progress], None] | None = None,
) -> Report:
    """Read, convert and write what the ledger of the files says is left.

    The report says of losses, bytes and seconds what this call did.

    Raises:
        TranscodeError: see its leaves.
    """
    used = devices.choose(devices.fitted(performance, plan.tensors), plan.tensors)
    _prepare(plan, used)
    try:
        with _keeping(staged):
            return execute(
                plan,
                staged,
                workers=used.performance.threads,
                tile_bytes=used.performance.tile_bytes(devices.room(plan.tensors)),
                surroundings=used.surroundings,
                on_progress=on_progress,
                ledger=staged.ledger,
                pace=pace,
                nice=performance.nice,
                order=staged.order,
                rehearses=staged.rehearses,
            )
    except TranscodeError as error:
        # Of a source that changes under way anything may come, a failed write of its map too.
        verify(remaining(plan, staged.ledger), error)
        raise


def remaining(plan: Plan, ledger: Ledger) -> list[Input]:
    """The inputs that must still be there."""
    return [one for number, one in enumerate(plan.inputs) if number not in ledger.consumed]


def watching(
    plan: Plan, performance: Performance, on_progress: Callable[[Progress], None] | None
) -> Callable[[Progress], None] | None:
    """Progress that stops a run where less of the disk is free than is to stay so."""
    reserve = performance.reserve_disk
    if reserve is None:
        return on_progress
    folder = existing_parent(plan.destination)

    def watched(now: Progress) -> None:
        if (free := system.free_space(folder)) < reserve:
            raise TranscodeError(
                f"the file system has {free} bytes left, {reserve} are to stay free",
                file=plan.destination,
                hint=f"free some space, or lower {called('reserve_disk')}",
            )
        if on_progress is not None:
            on_progress(now)

    return watched


@contextmanager
def _keeping(staged: Staged | Sending | Rehearsal) -> Iterator[None]:
    """Have what is done noted now and then, as long as a run goes on."""
    ended = threading.Event()

    def keep() -> None:
        pause = _INTERVAL
        while not ended.wait(pause):
            began = time.monotonic()
            staged.keep()
            pause = _pause(time.monotonic() - began)

    thread = threading.Thread(target=keep, name="journal", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _pause(took: float) -> float:
    """Seconds until what is done is made durable again, after that took so many."""
    return _INTERVAL if took < _QUICK else min(max(_INTERVAL, _REST * took), max(_INTERVAL, _LONGEST))


def _prepare(plan: Plan, used: devices.Devices) -> None:
    """Compile the kernels that the plan needs, once, before workers would all wait for it."""
    wanted = {(tensor.scheme, tensor.spec.dtype) for tensor in plan.tensors}
    kernels = [(scheme, dtype) for scheme, dtype in wanted if scheme is not None]
    if kernels:
        with used.surroundings(0):
            for scheme, dtype in kernels:
                scheme.prepare(dtype)


def verify(inputs: Sequence[Input], error: TranscodeError | None = None) -> None:
    """Refuse inputs that are not what they were, unless the error that led here tells of that very file."""
    for one in inputs:
        if not (isinstance(error, FormatError) and error.file == one.url):
            one.verify()
