"""Plans and reports for people."""

from __future__ import annotations

from ...plan.plan import Plan
from ..say import echo_json
from .plan import show_plan
from .remarks import warn
from .report import show_report

__all__ = ["show_json", "show_plan", "show_report", "show_warnings"]


def show_json(value: object) -> None:
    """Print JSON for scripts."""
    echo_json(value)


def show_warnings(plan: Plan, *, verbose: bool = False) -> None:
    """Print warnings on standard error; what is alike shares a line unless verbose."""
    warn(plan.log.warnings, verbose=verbose)
