"""``transcode join``."""

from __future__ import annotations

from typing import Any

import click

from ..core.performance import Performance
from .flags import command, debug_option
from .options import apply, flags_of

__all__ = ["join"]

_IDLE = ("measure", "resume", "part", "cluster", "device", "device_memory", "reserve_disk")
"""What does nothing where nothing is left to be computed."""


@command(epilog="\b\nExample:\n  transcode join Wan2.1-T2V-14B-int8\n")
@click.argument("dst", metavar="DST", type=click.Path())
@click.option("--force", is_flag=True, help="Replace what exists.")
@apply(flags_of(Performance, without=_IDLE))
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.option("-q", "--quiet", is_flag=True, help="Print errors and warnings only.")
@click.option("-v", "--verbose", is_flag=True, help="Tell of every tensor.")
@debug_option
def join(dst: str, **values: Any) -> None:
    """Join the parts of a run into DST, as `transcode run SRC DST --part K/N` made them.

    The last part does it by itself; this is for where it died while it did. It checks that all parts are
    there and the source is what it was, and tells which part is to be run again if one is missing.
    """
    from pathlib import Path

    from ..execution.carry import join as join_parts
    from .build import performance
    from .interrupt import insisting
    from .progress import progress
    from .show import show_done

    with progress(quiet=values["quiet"] or values["as_json"]) as update:
        report = join_parts(
            Path(dst), performance(values), force=values["force"], on_progress=insisting(update)
        )
    show_done(report, values)
