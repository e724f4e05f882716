"""Progress of a run, for people who wait."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..execution.execute import Progress
from ..execution.figures import ONCE, figures, title
from .say import notice, one_line

__all__ = ["progress"]

_EVERY = 30.0


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
        if now.stage in ONCE:
            if now.stage not in said:
                said.add(now.stage)
                notice(ONCE[now.stage])
        elif now.stage not in ("sync", "checksums") and time.monotonic() - last >= _EVERY:
            last = time.monotonic()
            notice(f"{title(now)}: {', '.join(figures(now))}")

    return update


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
            if now.stage in ONCE and now.stage not in said:
                said.add(now.stage)
                bars.console.print(f"transcode: {ONCE[now.stage]}", markup=False, highlight=False)
            if now.stage in ONCE and now.stage != "compile":
                return
            known = now.stage not in ("compile", "sync", "checksums") and now.total > 0
            bars.update(
                task,
                description=one_line(title(now)),
                completed=now.done if known else 0,
                total=now.total if known else None,
                figures=", ".join(figures(now)),
            )

        yield update
