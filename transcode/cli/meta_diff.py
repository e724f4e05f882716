"""``transcode meta diff``."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from .folding import fold
from .meta_common import json_option, progress, show_changes, show_json, warn
from .options import command, debug_option
from .say import echo

if TYPE_CHECKING:
    from ..containers.compare import Change

__all__ = ["as_json_object", "diff"]


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
    from ..containers.compare import compare_data, compare_metadata, compare_tensors, look

    views = look(a), look(b)
    for view in views:
        for note in view.notes:
            warn(note)
    differences: dict[str, list[Change]] = {
        "metadata": compare_metadata(views[0].metadata, views[1].metadata)
    }
    if tensors or data:
        for view in views:
            if view.path.suffix == ".json" and not view.tensors:
                raise click.UsageError(f"{view.path} has no tensors to compare")
        differences["tensors"] = compare_tensors(*views)
    if data:
        with progress("comparing") as update:
            differences["data"] = compare_data(*views, update)
    different = any(differences.values())
    if as_json:
        show_json(
            {
                "same": not different,
                **{what: as_json_object(changes) for what, changes in differences.items()},
            }
        )
    else:
        for what, changes in differences.items():
            if changes:
                echo(f"{what}:")
                show_changes(changes if what == "metadata" else _folded(changes), indent="  ")
        if not different:
            echo(f"same {', '.join(differences)}")
    if different:
        ctx.exit(1)


def _folded(changes: list[Change]) -> list[Change]:
    """Tensors that differ alike, and by name in the numbers of blocks only, as one with how many they are."""
    rows = fold((change.key, (change.a, change.b, change.inside), change) for change in changes)
    return [
        row.items[0] if len(row.items) == 1 else replace(row.items[0], key=f"{row.name} ({len(row.items)})")
        for row in rows
    ]


def as_json_object(changes: list[Change]) -> dict[str, Any]:
    """Differences for scripts."""
    return {
        "only_a": {change.key: change.a for change in changes if change.b is None},
        "only_b": {change.key: change.b for change in changes if change.a is None},
        "changed": {
            change.key: {"a": change.a, "b": change.b, "inside": list(change.inside)}
            for change in changes
            if change.a is not None and change.b is not None
        },
    }
