"""Progress of a run, for people who wait."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..execution.execute import Progress
from .say import notice
from .table import size

__all__ = ["progress"]

_EVERY = 30.0


@contextmanager
def progress(*, quiet: bool) -> Iterator[Callable[[Progress], None] | None]:
    """Yields what a sink calls with its progress: a bar on a terminal, a line now and then elsewhere."""
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
        if now.stage == "compile" and now.stage not in said:
            said.add(now.stage)
            notice("compiling kernels for this machine (the first time only)")
        elif time.monotonic() - last >= _EVERY:
            last = time.monotonic()
            rate = now.done / now.seconds if now.seconds else 0
            left = f", {(now.total - now.done) / rate:.0f} s left" if rate else ""
            notice(f"{now.stage}: {size(now.done)} of {size(now.total)}, {size(rate)}/s{left}")

    return update


@contextmanager
def _bar() -> Iterator[Callable[[Progress], None]]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        SpinnerColumn,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )
    from rich.progress import Progress as Bars

    texts = {
        "compile": "compiling kernels (first time only)",
        "convert": "converting",
        "sync": "flushing to disk",
    }
    with Bars(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        refresh_per_second=8,
    ) as bars:
        task = bars.add_task("planning", total=None)

        def update(now: Progress) -> None:
            known = now.stage != "compile"
            bars.update(
                task,
                description=texts.get(now.stage, now.stage),
                completed=now.done if known else 0,
                total=now.total if known else None,
            )

        yield update
