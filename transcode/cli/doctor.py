"""``transcode doctor``."""

from __future__ import annotations

import dataclasses

import click

from .flags import command, completes, debug_option
from .say import echo

__all__ = ["doctor"]

_SHOWN = {"yes": "yes", "convert": "with a conversion", "no": "no", "unknown": "cannot tell"}


@command(
    epilog="\b\nExamples:\n  transcode doctor model.safetensors\n  transcode doctor DIR --for vllm --json\n"
)
@click.argument("path", type=click.Path())
@click.option(
    "--for",
    "name",
    metavar="PROGRAM",
    shell_complete=completes("programs"),
    help="Only of this program; exit code 1 unless it loads PATH as it is.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@debug_option
@click.pass_context
def doctor(context: click.Context, path: str, name: str | None, as_json: bool) -> int:
    """Say which programs can load the checkpoint PATH, which cannot, why, and what to do.

    Reads headers, and holds config.json against the tensors; no weight is read. The rules are those of the
    conventions, see `transcode conventions`, and those of each program's loaders.
    """
    from ..catalog.programs import program
    from ..consumers.doctor import YES, diagnose
    from .show import show_json
    from .table import heading, paragraph, print_table

    if name is not None:
        name = program(name.lower().replace(".", "_")).name  # llama.cpp, ComfyUI: as the table prints them
    diagnosis = diagnose(path)
    verdicts = [one for one in diagnosis.verdicts if name in (None, one.program)]
    if as_json:
        show_json(
            {
                "path": str(diagnosis.path),
                "what": list(diagnosis.what),
                "remarks": list(diagnosis.remarks),
                "verdicts": [dataclasses.asdict(one) for one in verdicts],
            }
        )
    else:
        heading(f"{diagnosis.path}: {'; '.join(diagnosis.what)}")
        for remark in diagnosis.remarks:
            paragraph("note", remark, labels=4)
        echo()
        print_table(
            ("program", "loads it", "why"),
            [(one.title, _SHOWN[one.answer], "; ".join(one.why) or "-") for one in verdicts],
            wrap=True,
        )
        versions = [f"{one.title} {one.version}" for one in verdicts if one.version is not None]
        if versions:
            echo()
            paragraph("rules", f"those of {', '.join(versions)}; other versions may differ", labels=5)
        advised: dict[str, list[str]] = {}
        for one in verdicts:
            if one.do is not None:
                advised.setdefault(one.do, []).append(one.title)
        if advised:
            echo()
            echo("What to do:", bold=True)
        for do, titles in advised.items():
            echo(
                f"  for {', '.join(titles)}:"
                if len(titles) < len(verdicts) or len(verdicts) == 1
                else "  for all:"
            )
            echo(f"    {do}")
    return 1 if name is not None and verdicts[0].answer != YES else 0
