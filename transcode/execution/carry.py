"""Carry out a plan: on so many workers, with such devices, into files that appear whole or not at all."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.paths import Url, real
from ..core.performance import Performance
from ..errors import Interrupted, PlanError, TranscodeError
from ..numerics.notice import compiling
from ..plan.plan import Plan
from ..voice import called
from .beside import following, names, refuse_stale, refuse_unread
from .destination import check_destination
from .execute import Progress, Report
from .pace import Pace
from .shares import Shares
from .staging import GO_ON, Staging, refuse_other
from .working import remaining, verify, watching, work

if TYPE_CHECKING:
    from .consuming import Consumption
    from .sending import Sending

__all__ = ["carry_out", "check", "consume", "join"]


def check(
    plan: Plan, performance: Performance, *, force: bool, consumption: Consumption | None = None
) -> None:
    """Refuse a plan that cannot be carried out: inputs that changed, a destination that cannot be written.

    Args:
        force: what exists may be replaced.
        consumption: how the source is deleted meanwhile, if it is.

    Raises:
        FormatError: an input is not what it was when the plan was made.
        PlanError: see :func:`.execution.destination.check_destination`.
    """
    gone: frozenset[int] = frozenset()
    if consumption is not None:
        from .consuming import consumed

        gone = consumed(plan)
    verify([one for number, one in enumerate(plan.inputs) if number not in gone])
    refuse_unread(plan, performance)
    if isinstance(plan.destination, Url):
        from .sending import check_sending  # most destinations are here

        check_sending(plan, performance, force=force)
        return
    held = 0
    if performance.cluster is not None or performance.share is not None:
        from . import parts  # most runs are one

        if performance.cluster is not None:
            from . import cluster

            cluster.refuse_missing()
        parts.refuse_strange(plan, None if performance.share is None else performance.share[1])
        held = parts.held(plan)
    elif performance.resume:
        refuse_other(plan)
    needed = None if consumption is None else consumption.room()
    _check_destination(plan, performance, force=force, held=held, needed=needed)


def _check_destination(
    plan: Plan, performance: Performance, *, force: bool, held: int, needed: int | None = None
) -> None:
    check_destination(
        plan,
        force=force,
        inputs={real(one.path) for one in plan.inputs if one.path is not None},
        reserve=performance.reserve_disk or 0,
        beside=names(plan, performance),
        held=held,
        needed=needed,
    )
    refuse_stale(plan, performance)


def carry_out(
    plan: Plan, performance: Performance, on_progress: Callable[[Progress], None] | None = None
) -> Report:
    """Read, convert and write all tensors of a plan whose destination was checked; or one part of it, and the
    rest of what is to be done if that is the last.

    Raises:
        TranscodeError: see its leaves; nothing appears under the destination's name.
    """
    if performance.cluster is not None:
        from . import cluster

        began = time.monotonic()
        cluster.work_out(plan, performance, on_progress)
        report = _joined(plan, replace(performance, cluster=None), on_progress)
        return replace(report, seconds=time.monotonic() - began)
    if performance.share is None:
        _tell_of_parts(plan, on_progress)
        return _whole(plan, performance, on_progress)
    from .parting import part

    report, is_last = part(plan, performance, *performance.share, on_progress)
    return replace(_joined(plan, performance, on_progress), part=report.part) if is_last else report


def _tell_of_parts(plan: Plan, on_progress: Callable[[Progress], None] | None) -> None:
    """Say that parts of the destination lie there, which nothing here uses or takes away."""
    from . import parts  # of which most runs know nothing

    is_here = not isinstance(plan.destination, Url)
    if on_progress is not None and is_here and os.path.lexists(parts.place(plan.destination)):
        on_progress(Progress(0, 0, "parts", 0.0))


def join(
    destination: Path,
    performance: Performance,
    *,
    force: bool,
    on_progress: Callable[[Progress], None] | None = None,
) -> Report:
    """Make one output of the parts of a plan.

    Raises:
        TranscodeError: there are none, or some are missing; or as :func:`check` and :func:`carry_out`.
    """
    from . import joining, parts

    plan = joining.load(destination)
    verify(plan.inputs)
    _check_destination(plan, performance, force=force, held=parts.held(plan))
    return _joined(plan, performance, on_progress)


def _joined(plan: Plan, performance: Performance, on_progress: Callable[[Progress], None] | None) -> Report:
    from . import joining, parts

    joining.assemble(plan)
    report = _whole(plan, replace(performance, part=None, resume=True), on_progress)
    parts.remove(plan)
    return replace(report, resumed=0)


def consume(
    consumption: Consumption,
    performance: Performance,
    on_progress: Callable[[Progress], None] | None = None,
) -> Report:
    """Carry out a plan that was checked, and delete its source shard by shard; go on with what is left of it
    where such a run was interrupted.

    Raises:
        TranscodeError: see its leaves; what is done is kept, as some of the source may be gone.
    """
    return _whole(consumption.plan, replace(performance, resume=True), on_progress, consumption)


def _whole(
    plan: Plan,
    performance: Performance,
    on_progress: Callable[[Progress], None] | None = None,
    consumption: Consumption | None = None,
) -> Report:
    began = time.monotonic()

    def tell(stage: str, done: int) -> None:
        if on_progress is not None:
            on_progress(Progress(done, done, stage, 0.0))

    staging: Staging | Sending
    if isinstance(plan.destination, Url):
        from .sending import Sending

        staging = Sending(plan, hashed=performance.checksums)
    else:
        staging = Staging(
            plan,
            drop_cache=performance.drop_cache,
            resume=performance.resume,
            consuming=consumption is not None,
        )
    pace = Pace(performance.max_read_rate)
    watched = watching(plan, performance, on_progress)
    try:
        with (
            compiling(lambda: tell("compile", 0)),
            staging,
            following(plan, staging, performance, pace) as digests,
        ):
            if staging.ledger.noted and not staging.ledger.is_whole(Shares(plan).whole()):
                tell("resume", 0)
            elif staging.cleared:
                tell("anew", 0)
            elif not isinstance(staging, Staging) and staging.unfinished:
                tell("unfinished", 0)
            if consumption is None:
                report = work(plan, staging, performance, pace, watched)
            else:
                assert isinstance(staging, Staging), "a source is not consumed for what is sent"
                report = consumption.run(staging, performance, pace, watched)
            if digests is not None:
                tell("checksums", report.bytes_read)
                report = replace(report, checksums=digests.place(performance))
            elif not isinstance(staging, Staging):
                report = replace(report, checksums=staging.digests())
            tell("sync", report.bytes_read)
            verify(remaining(plan, staging.ledger))
            staging.commit()
    except KeyboardInterrupt:
        raise _interrupted(plan, staging, time.monotonic() - began) from None
    except TranscodeError as error:
        if staging.kept and not isinstance(error, PlanError):
            error.advise(GO_ON)
        raise
    return replace(report, seconds=time.monotonic() - began)


_LONG = 10.0
"""Seconds of a run after which it is worth to be told of going on."""


def _interrupted(plan: Plan, staging: Staging | Sending, seconds: float) -> Interrupted:
    if staging.committed:
        return Interrupted("interrupted when the output was complete", file=plan.destination)
    if staging.kept:
        return Interrupted("interrupted", file=plan.destination, hint=GO_ON)
    # Who waited for long may want to wait for less the next time.
    hint = f"with {called('resume')} what is done is kept" if seconds > _LONG else None
    return Interrupted("interrupted; nothing was written", file=plan.destination, hint=hint)
