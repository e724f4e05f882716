"""One part of a plan is done, beside others that do the rest."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from ..core.performance import Performance
from ..errors import Interrupted, PlanError, TranscodeError
from ..numerics.notice import compiling
from ..plan.plan import Plan
from .pace import Pace
from .parts import Part
from .report import PartDone, Progress, Report
from .shares import nbytes
from .staging import GO_ON
from .working import verify, watching, work

__all__ = ["part"]


def part(
    plan: Plan,
    performance: Performance,
    number: int,
    count: int,
    on_progress: Callable[[Progress], None] | None = None,
) -> tuple[Report, bool]:
    """Do what is left of a part, and leave the mark that it is done.

    Returns:
        What was done, and whether it is for this process to join all parts.

    Raises:
        TranscodeError: see its leaves; what is done is kept.
    """
    began = time.monotonic()

    def tell(stage: str) -> None:
        if on_progress is not None:
            on_progress(Progress(0, 0, stage, 0.0))

    pace = Pace(performance.max_read_rate)
    report = Report(plan, 0.0, 0, 0)
    try:
        with (
            compiling(lambda: tell("compile")),
            Part(plan, number, count, drop_cache=performance.drop_cache) as files,
        ):
            if not files.done:
                if files.ledger.noted:
                    tell("resume")
                report = work(plan, files, performance, pace, watching(plan, performance, on_progress))
                report = replace(report, bytes_read=nbytes(files.share), bytes_written=files.written)
                tell("sync")
                verify(plan.inputs)
                files.mark()
            left = files.left()
            is_last = not left and files.joins()
    except KeyboardInterrupt:
        raise Interrupted("interrupted", file=plan.destination, hint=GO_ON) from None
    except TranscodeError as error:
        if not isinstance(error, PlanError):
            error.advise(GO_ON)
        raise
    done = PartDone(number, count, left)
    return replace(report, seconds=time.monotonic() - began, part=done), is_last
