"""``transcode run --consume-source``: told loudly, and asked for where somebody is there to answer."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from ..core.performance import Performance
    from ..plan.plan import Plan

__all__ = ["carry_out"]


def carry_out(plan: Plan, performance: Performance, values: dict[str, Any]) -> None:
    """Run a plan and delete its source, or show what that would be."""
    from ..execution import carry
    from ..execution.consuming import Consumption
    from .interrupt import insisting
    from .progress import progress
    from .say import notice
    from .show import show_done, show_planned

    consumption = Consumption(plan, performance)
    carry.check(plan, performance, force=values["force"], consumption=consumption)
    notice(f"warning: {consumption}")
    if values["dry_run"]:
        show_planned(plan, values)
        return
    if sys.stdin.isatty() and sys.stderr.isatty():
        click.confirm("Delete them?", abort=True, err=True)
    with progress(quiet=values["quiet"] or values["as_json"]) as update:
        report = carry.consume(consumption, performance, insisting(update))
    show_done(report, values)
