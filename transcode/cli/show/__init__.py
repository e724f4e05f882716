"""Plans and reports for people."""

from __future__ import annotations

from typing import Any

from ...execution.execute import Report
from ...plan.plan import Plan
from ..say import echo_json
from .plan import show_plan
from .remarks import warn
from .report import show_report

__all__ = ["show_done", "show_json", "show_plan", "show_planned", "show_report", "show_warnings"]


def show_json(value: object) -> None:
    """Print JSON for scripts."""
    echo_json(value)


def show_warnings(plan: Plan, *, verbose: bool = False) -> None:
    """Print warnings on standard error; what is alike shares a line unless verbose."""
    warn(plan.log.warnings, verbose=verbose)


def show_planned(plan: Plan, values: dict[str, Any]) -> None:
    """Tell what would be done, as the report options ask."""
    if values["as_json"]:
        show_json(plan.to_json())
    elif not values["quiet"]:
        show_plan(plan, verbose=values["verbose"])
    show_warnings(plan, verbose=values["verbose"])


def show_done(report: Report, values: dict[str, Any]) -> None:
    """Tell what was done, as the report options ask."""
    show_warnings(report.plan, verbose=values["verbose"])
    if values["as_json"]:
        show_json(report.to_json())
    elif not values["quiet"]:
        show_report(report, verbose=values["verbose"])
