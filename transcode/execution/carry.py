"""Carry out a plan: on so many workers, with such devices, into files that appear whole or not at all."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from ..core.paths import Url, real
from ..core.performance import Performance
from ..core.source import Input
from ..errors import FormatError, Interrupted, PlanError, TranscodeError
from ..io import system
from ..numerics.notice import compiling
from ..plan import devices
from ..plan.plan import Plan
from ..voice import called
from .beside import following, names, refuse_stale
from .destination import check_destination, existing_parent
from .execute import Progress, Report, execute
from .pace import Pace
from .sending import Sending, check_sending
from .staging import Staging, refuse_other

__all__ = ["carry_out", "check"]


_INTERVAL = 3.0
"""Seconds between two times that what is done is made durable: what a crash costs a run that resumes."""


def check(plan: Plan, performance: Performance, *, force: bool) -> None:
    """Refuse a plan that cannot be carried out: inputs that changed, a destination that cannot be written.

    Raises:
        FormatError: an input is not what it was when the plan was made.
        PlanError: see :func:`.execution.destination.check_destination`.
    """
    _verify(plan.inputs)
    if isinstance(plan.destination, Url):
        check_sending(plan, performance, force=force)
        return
    if performance.resume:
        refuse_other(plan)
    check_destination(
        plan,
        force=force,
        inputs={real(one.path) for one in plan.inputs if one.path is not None},
        reserve=performance.reserve_disk or 0,
        beside=names(plan, performance),
    )
    refuse_stale(plan, performance)


def carry_out(
    plan: Plan, performance: Performance, on_progress: Callable[[Progress], None] | None = None
) -> Report:
    """Read, convert and write all tensors of a plan whose destination was checked.

    Raises:
        TranscodeError: see its leaves; nothing appears under the destination's name.
    """
    began = time.monotonic()

    def tell(stage: str, done: int) -> None:
        if on_progress is not None:
            on_progress(Progress(done, done, stage, 0.0))

    staging: Staging | Sending = (
        Sending(plan)
        if isinstance(plan.destination, Url)
        else Staging(plan, drop_cache=performance.drop_cache, resume=performance.resume)
    )
    pace = Pace(performance.max_read_rate)
    watched = _watching(plan, performance, on_progress)
    try:
        with (
            compiling(lambda: tell("compile", 0)),
            staging,
            following(plan, staging, performance, pace) as digests,
        ):
            if staging.ledger.noted:
                tell("resume", 0)
            elif staging.cleared:
                tell("anew", 0)
            used = devices.choose(devices.fitted(performance, plan.tensors), plan.tensors)
            _prepare(plan, used)
            try:
                with _keeping(staging):
                    report = execute(
                        plan,
                        staging,
                        workers=used.performance.threads,
                        tile_bytes=used.performance.tile_bytes(devices.room(plan.tensors)),
                        surroundings=used.surroundings,
                        on_progress=watched,
                        ledger=staging.ledger,
                        pace=pace,
                        nice=performance.nice,
                        order=staging.order,
                    )
            except TranscodeError as error:
                # Of a source that changes under way anything may come, a failed write of its map too.
                _verify(plan.inputs, error)
                raise
            if digests is not None:
                tell("checksums", report.bytes_read)
                report = replace(report, checksums=digests.place(performance))
            tell("sync", report.bytes_read)
            _verify(plan.inputs)
            staging.commit()
    except KeyboardInterrupt:
        raise _interrupted(plan, staging, time.monotonic() - began) from None
    except TranscodeError as error:
        if staging.kept and not isinstance(error, PlanError):
            error.advise(_GO_ON)
        raise
    return replace(report, seconds=time.monotonic() - began)


def _watching(
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


_LONG = 10.0
"""Seconds of a run after which it is worth to be told of going on."""

_GO_ON = "what is done is kept: the same command goes on there"


def _interrupted(plan: Plan, staging: Staging | Sending, seconds: float) -> Interrupted:
    if staging.committed:
        return Interrupted("interrupted when the output was complete", file=plan.destination)
    if staging.kept:
        return Interrupted("interrupted", file=plan.destination, hint=_GO_ON)
    # Who waited for long may want to wait for less the next time.
    hint = f"with {called('resume')} what is done is kept" if seconds > _LONG else None
    return Interrupted("interrupted; nothing was written", file=plan.destination, hint=hint)


@contextmanager
def _keeping(staging: Staging | Sending) -> Iterator[None]:
    """Have what is done noted now and then, as long as a run goes on."""
    ended = threading.Event()

    def keep() -> None:
        while not ended.wait(_INTERVAL):
            staging.keep()

    thread = threading.Thread(target=keep, name="journal", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _prepare(plan: Plan, used: devices.Devices) -> None:
    """Compile the kernels that the plan needs, once, before workers would all wait for it."""
    wanted = {(tensor.scheme, tensor.spec.dtype) for tensor in plan.tensors}
    kernels = [(scheme, dtype) for scheme, dtype in wanted if scheme is not None]
    if kernels:
        with used.surroundings(0):
            for scheme, dtype in kernels:
                scheme.prepare(dtype)


def _verify(inputs: Sequence[Input], error: TranscodeError | None = None) -> None:
    """Refuse inputs that are not what they were, unless the error that led here tells of that very file."""
    for one in inputs:
        if not (isinstance(error, FormatError) and error.file == one.url):
            one.verify()
