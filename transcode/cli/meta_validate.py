"""``transcode meta validate``."""

from __future__ import annotations

from typing import Any

import click

from .flags import command, debug_option
from .meta_common import json_option, show_changes, show_json
from .say import echo

__all__ = ["validate"]


@command()
@click.argument("files", metavar="FILE...", nargs=-1, required=True)
@click.option(
    "--profile", "name", metavar="NAME", help="nunchaku, transformers, diffusers, comfyui, modelspec."
)
@click.option("-v", "--verbose", is_flag=True, help="Show the metadata too.")
@click.option(
    "--compare", "other", metavar="OTHER", help="Show how the metadata differs from another file's."
)
@json_option
@debug_option
@click.pass_context
def validate(
    ctx: click.Context,
    files: tuple[str, ...],
    name: str | None,
    verbose: bool,
    other: str | None,
    as_json: bool,
) -> None:
    """Check header, metadata and what it says of the tensors. Exit code 1 if a file is not valid."""
    from ..containers.compare import compare_metadata, look
    from ..meta import validate as check
    from ..meta.checks import changes_json

    compared = None if other is None else look(other)
    results = [check(file, profile=name) for file in files]
    valid = all(result.valid for result in results)
    reports = []
    for result in results:
        reports.append(report := result.to_json())
        if verbose and result.view is not None:
            report["metadata"] = dict(result.view.metadata)
        if compared is not None and result.view is not None:
            report["differences"] = compare_metadata(result.view.metadata, compared.metadata)
    if as_json:
        for report in reports:
            if "differences" in report:
                report["differences"] = changes_json(report["differences"])
        show_json({"valid": valid, "profile": name, "files": reports})
    else:
        for report in reports:
            _print(report, other)
    if not valid:
        ctx.exit(1)


def _print(report: dict[str, Any], other: str | None) -> None:
    echo(f"{report['file']}: {'valid' if report['valid'] else 'NOT valid'}")
    for what in ("errors", "warnings"):
        for text in report[what]:
            echo(f"  {what[:-1]}: {text}")
    for key, value in report.get("metadata", {}).items():
        echo(f"  {key}: {value}")
    if "differences" in report:
        changes = report["differences"]
        echo(f"  compared with {other}: {'different' if changes else 'the same'}")
        show_changes(changes, indent="    ")
