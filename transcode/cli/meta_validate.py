"""``transcode meta validate``."""

from __future__ import annotations

from typing import Any

import click

from ..errors import FormatError, TranscodeError
from .meta_common import json_option, show_changes, show_json
from .meta_diff import as_json_object
from .options import command, debug_option
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
    from ..catalog.profiles import profile
    from ..containers.compare import look

    wanted = None if name is None else profile(name)
    compared = None if other is None else look(other)
    reports = [_report(file, wanted, verbose, compared) for file in files]
    valid = all(report["valid"] for report in reports)
    if as_json:
        for report in reports:
            if "differences" in report:
                report["differences"] = as_json_object(report["differences"])
        show_json({"valid": valid, "profile": name, "files": reports})
    else:
        for report in reports:
            _print(report, other)
    if not valid:
        ctx.exit(1)


def _report(file: str, profile: Any, verbose: bool, compared: Any) -> dict[str, Any]:
    from ..consumers.validation import Finding
    from ..consumers.validation import validate as check
    from ..containers.compare import compare_metadata, look

    report: dict[str, Any] = {"file": file, "valid": False, "errors": [], "warnings": []}
    try:
        view = look(file)
    except FormatError as error:
        if _absent(file):
            raise
        report["errors"] = [str(TranscodeError(error.what, tensor=error.tensor, hint=error.hint))]
        return report
    findings = check(view.metadata, {name: stored.spec for name, stored in view.tensors.items()}, profile)
    findings += [Finding("warning", "", note) for note in view.notes]
    report["errors"] = [str(finding) for finding in findings if finding.level == "error"]
    report["warnings"] = [str(finding) for finding in findings if finding.level == "warning"]
    report["valid"] = not report["errors"]
    report["tensors"] = len(view.tensors)
    if verbose:
        report["metadata"] = dict(view.metadata)
    if compared is not None:
        report["differences"] = compare_metadata(view.metadata, compared.metadata)
    return report


def _absent(file: str) -> bool:
    import os

    return not os.path.exists(file)


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
