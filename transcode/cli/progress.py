"""Progress of a run, for people who wait."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..execution.execute import Progress
from .duration import duration
from .say import notice, one_line
from .table import size

__all__ = ["progress"]

_EVERY = 30.0
_TELLING = 1.0
"""Seconds after which the bytes that were dealt with tell how fast it goes."""

_COMPILING = "compiling kernels (first time on this machine)"
_STAGES = {"compile": _COMPILING, "convert": "converting", "sync": "flushing to disk"}


@contextmanager
def progress(*, quiet: bool) -> Iterator[Callable[[Progress], None] | None]:
    """Yields what a sink calls with its progress: a bar on a terminal, a line now and then elsewhere.

    That kernels are compiled is said in a line of its own in both cases, once.
    """
    if quiet:
        yield None
    elif sys.stderr.isatty():
        with _bar() as update:
            yield update
    else:
        yield _lines()


def _lines() -> Callable[[Progress], None]:
    last = time.monotonic()
    said: set[str] = set()

    def update(now: Progress) -> None:
        nonlocal last
        if now.stage == "compile":
            if now.stage not in said:
                said.add(now.stage)
                notice(_COMPILING)
        elif now.stage != "sync" and time.monotonic() - last >= _EVERY:
            last = time.monotonic()
            notice(f"{_title(now)}: {', '.join(_figures(now))}")

    return update


def _title(now: Progress) -> str:
    return one_line(_STAGES.get(now.stage, now.stage))


def _figures(now: Progress) -> list[str]:
    """How far it is, how fast it goes, and how long it takes still; what is not known is left out."""
    share = f"{100 * now.done // now.total} %" if now.total else ""
    if now.stage != "convert":
        return [share] if share and now.stage not in _STAGES else []
    figures = [f"{size(now.done)} of {size(now.total)}"]
    if share:
        figures.insert(0, share)
    if now.seconds >= _TELLING and now.done:
        rate = now.done / now.seconds
        figures.append(f"{size(rate)}/s")
        if now.done < now.total:
            figures.append(f"{duration(max((now.total - now.done) / rate, 1))} left")
    return figures


@contextmanager
def _bar() -> Iterator[Callable[[Progress], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, SpinnerColumn, TextColumn
    from rich.progress import Progress as Bars

    with Bars(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        TextColumn("{task.fields[figures]}", markup=False),
        console=Console(stderr=True),
        transient=True,
        refresh_per_second=8,
    ) as bars:
        task = bars.add_task("planning", total=None, figures="")
        said: set[str] = set()

        def update(now: Progress) -> None:
            if now.stage == "compile" and now.stage not in said:
                said.add(now.stage)
                bars.console.print(f"transcode: {_COMPILING}", markup=False, highlight=False)
            known = now.stage not in ("compile", "sync") and now.total > 0
            bars.update(
                task,
                description=_title(now),
                completed=now.done if known else 0,
                total=now.total if known else None,
                figures=", ".join(_figures(now)),
            )

        yield update
