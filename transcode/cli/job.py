"""What commands convert that have a source and a layout of their own, told of as recipes are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..core.option import options_of
from ..core.records import dataclass
from ..plan.options import OutputOptions
from .options import apply, flags_of

if TYPE_CHECKING:
    from ..containers.checkpoint import Source
    from ..core.flow import Flow
    from ..core.performance import Performance
    from ..execution.write import Write

__all__ = ["Job", "carry_out", "new_job", "placing_options"]

placing_options = apply(
    flags_of(OutputOptions, without=options_of(OutputOptions).keys() - {"metadata", "force"})
)


@dataclass(frozen=True)
class Job:
    """A flow and its end, which are told of as those of a recipe are."""

    openers: Sequence[Callable[[], Source]]
    sink: Write
    performance: Performance
    steps: tuple[Any, ...] = ()

    def flow(self) -> Flow:
        """Open the sources and join the stages."""
        from ..containers.joined import join_sources
        from ..core.flow import Flow

        first, *more = [opener() for opener in self.openers]
        return Flow(join_sources([first, *more]) if more else first, self.steps)

    def write(self) -> Write:
        """The sink."""
        return replace(self.sink, performance=self.performance)


def new_job(
    openers: Sequence[Callable[[], Source]],
    dst: str,
    layout: str,
    values: dict[str, Any],
    *,
    steps: tuple[Any, ...] = (),
    **more: Any,
) -> Job:
    """That of a command with :data:`placing_options` and those of performance.

    Args:
        openers: of the sources, which are joined.
        dst, layout, more: see :class:`.execution.write.Write`.
        values: of the flags.
        steps: stages between.
    """
    from ..execution.write import Write
    from . import build

    metadata, force = tuple(values["metadata"]), values["force"]
    sink = Write(dst=dst, layout=layout, metadata=metadata, force=force, **more)
    return Job(openers, sink, build.performance(values), steps)


def carry_out(job: Job, values: dict[str, Any]) -> None:
    """Plan, run and report it, as ``run`` does."""
    from . import run

    run.carry_out(job, values)
