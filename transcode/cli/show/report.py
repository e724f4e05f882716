"""What a run did, for people: as its plan, with time and speed."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf

from ...core.quality import Loss
from ...core.text import duration
from ...execution.execute import Report, by_scheme
from ...plan.fates import sections
from ..say import echo
from ..table import print_table, size
from .fates import fates
from .plan import show_deeds, show_files, show_notes, show_plan

__all__ = ["show_report"]

_WORST = 10
_SOON = 1.0
_LITTLE = 100_000_000
"""Seconds and bytes; of less the time is that of beginning and ending, and no speed."""
_CHANGED = 8


def show_report(report: Report, *, verbose: bool) -> None:
    """Print what a run did."""
    plan = report.plan
    if report.part is not None and report.part.left:
        echo(f"{report.part}; in {duration(report.seconds)}{_rate(report)}")
        return
    if verbose:
        show_plan(plan, verbose=True)
    else:
        show_notes(plan, verbose=False)
        show_deeds(sections(fates(plan)))
        show_files(plan, verbose=False)
    if losses := report.losses():
        _show_losses(losses, verbose=verbose)
    if report.recoded:
        echo(report.kept_blocks)
        changed = report.changed_blocks
        for line in changed if verbose else changed[:_CHANGED]:
            echo(line)
        if not verbose and len(changed) > _CHANGED:
            echo(f"  and some of {len(changed) - _CHANGED} other tensors (-v lists them)")
    if not verbose:
        echo(f"total  {plan.totals}", bold=True)
    convention = plan.summary.get("convention")
    whose = f", for {convention}" if convention not in (None, "plain") else ""
    place = f"{plan.destination}{'/' if plan.folder else ''}"
    echo(f"done   {duration(report.seconds)}{_rate(report)} -> {place}{whose}")


def _rate(report: Report) -> str:
    """Bytes read and written in a second, where the time is long enough to tell."""
    if report.seconds < _SOON or report.bytes_read < _LITTLE:
        return ""
    read, written = (size(nbytes / report.seconds) for nbytes in (report.bytes_read, report.bytes_written))
    return f", {read}/s read, {written}/s written"


def _show_losses(losses: Mapping[str, tuple[str, Loss]], *, verbose: bool) -> None:
    """What quantizing lost: for each scheme, and of the tensors that lost most."""
    searched = any(loss.plain is not None for _, loss in losses.values())
    figures = ("SQNR dB", "largest error", *(("search won dB",) if searched else ()))

    def row(loss: Loss) -> tuple[str, ...]:
        figures = ("exact" if loss.decibels is None else f"{loss.decibels:.2f}", f"{loss.largest:.3g}")
        return (*figures, "" if loss.gain is None else f"{loss.gain:+.2f}") if searched else figures

    right = (1, 2, 3, 4)
    echo()
    print_table(
        ("scheme", "tensors", *figures),
        [(scheme, number, *row(loss)) for scheme, (number, loss) in by_scheme(losses).items()],
        right=right,
    )
    echo()
    worst = sorted(losses.items(), key=lambda item: (item[1][1].decibels or inf, item[0]))
    shown = worst if verbose else worst[:_WORST]
    title = "tensor" if len(shown) == len(worst) else f"tensor ({_WORST} of {len(worst)} that lost most)"
    rows = [(name, scheme, *row(loss)) for name, (scheme, loss) in shown]
    print_table((title, "scheme", *figures), rows, right=right[1:])
    echo()
