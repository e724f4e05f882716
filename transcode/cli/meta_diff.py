"""``transcode meta diff``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from .flags import command, debug_option
from .meta_common import json_option, progress, show_changes, show_json, warn
from .say import echo

if TYPE_CHECKING:
    from ..containers.compare import Change

__all__ = ["diff"]


@command()
@click.argument("a")
@click.argument("b")
@click.option("--tensors", is_flag=True, help="Compare names, dtypes and shapes of tensors too.")
@click.option("--data", is_flag=True, help="Compare the bytes of tensors too, streaming; includes --tensors.")
@json_option
@debug_option
@click.pass_context
def diff(ctx: click.Context, a: str, b: str, tensors: bool, data: bool, as_json: bool) -> None:
    """Compare two files, folders, or a file and a JSON file. Exit code 0 if they are the same, 1 if not.

    JSON in values is compared by structure. How a folder is cut into shards makes no difference.
    """
    from ..meta import diff as compare

    with progress("comparing") as update:
        difference = compare(a, b, tensors=tensors, data=data, on_progress=update)
    for note in difference.notes:
        warn(note)
    if as_json:
        show_json(difference.to_json())
    else:
        for what, changes in difference.changes.items():
            if changes:
                echo(f"{what}:")
                show_changes(changes if what == "metadata" else _folded(changes), indent="  ")
        if difference.same:
            echo(f"same {', '.join(difference.changes)}")
    if not difference.same:
        ctx.exit(1)


def _folded(changes: Sequence[Change]) -> list[Change]:
    """Tensors that differ alike, and by name in the numbers of blocks only, as one with how many they are."""
    from .folding import braced, fold
    from .table import DEFAULT_WIDTH, width

    rows = fold((change.key, (change.a, change.b, change.inside), change) for change in changes)
    rows = braced(rows, (width() or DEFAULT_WIDTH) // 2)
    return [
        row.items[0] if len(row.items) == 1 else replace(row.items[0], key=f"{row.name} ({len(row.items)})")
        for row in rows
    ]
