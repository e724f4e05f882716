"""The end of a flow: a request, planned and carried out."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from ..core.flow import Flow
from ..core.records import dataclass
from ..core.shown import as_call
from ..plan.plan import Plan
from ..plan.request import Request
from ..plan.twins import resolve_all
from . import display
from .carry import carry_out, check
from .execute import Progress, Report

__all__ = ["Write"]


@dataclass(frozen=True, repr=False)
class Write(Request):
    """Write the flow to safetensors: see :class:`.plan.request.Request`, whose fields these are.

    Args:
        on_progress: called now and then while the flow is planned and carried out.
        progress: show how far the run is; None: in notebooks, unless ``on_progress`` is there to do it.
    """

    on_progress: Callable[[Progress], None] | None = None
    progress: bool | None = None

    def __repr__(self) -> str:
        return as_call("write", self)

    def plan(self, flow: Flow) -> Plan:
        """Resolve the flow; nothing is written. See :class:`.plan.plan.Plan`.

        Raises:
            PlanError: anything that can be known to fail.
        """
        return resolve_all(self, flow, self._scan)

    def check(self, plan: Plan) -> None:
        """Refuse a destination that cannot be written: what a dry run reports and a run insists on."""
        check(plan, self.performance, force=self.force)

    def run(self, flow: Flow) -> Report:
        """Plan, refuse what can be refused, write.

        Raises:
            TranscodeError: see its leaves; nothing appears under the destination's name.
        """
        began = time.monotonic()
        with display.watching(self.progress, self.on_progress) as on_progress:
            plan = self.with_progress(on_progress).plan(flow)
            self.check(plan)
            report = carry_out(plan, self.performance, on_progress)
        return replace(report, seconds=time.monotonic() - began)

    def with_progress(self, on_progress: Callable[[Progress], None] | None) -> Write:
        """The same, reporting its progress."""
        return replace(self, on_progress=on_progress)

    def _scan(self, stage: str, fraction: float) -> None:
        if self.on_progress is not None:
            self.on_progress(Progress(int(fraction * 1000), 1000, stage, 0.0))
