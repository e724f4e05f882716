"""``transcode families``, ``schemes`` and ``conventions``."""

from __future__ import annotations

from typing import Any

import click

from .options import command, debug_option
from .say import echo, echo_text

__all__ = ["conventions", "families", "schemes"]

_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def _show(path: Any, *, as_json: bool) -> None:
    """A catalog file as it is: it is written to be read."""
    from pathlib import Path

    text = Path(path).read_text(encoding="utf-8")
    if as_json:
        from ..catalog import strict
        from .show import show_json

        show_json(strict.parse(text, str(path)).plain())
    else:
        echo_text(text)


@command(epilog="\b\nExamples:\n  transcode families\n  transcode families show wan_dit\n")
@click.argument("words", nargs=-1, metavar="[show NAME]")
@_json
@debug_option
def families(words: tuple[str, ...], as_json: bool) -> None:
    """List the model families that are known, or show what is known of one."""
    from .. import catalog
    from .show import show_json
    from .table import print_table

    if name := _shown(words):
        return _show(catalog.family(name).file, as_json=as_json)
    listed = [catalog.family(name) for name in catalog.families()]
    if as_json:
        return show_json([{"name": f.name, "title": f.title, "spellings": list(f.spellings)} for f in listed])
    return print_table(
        ("family", "spellings", "title"), [(f.name, ", ".join(f.spellings), f.title) for f in listed]
    )


@command(epilog="\b\nExamples:\n  transcode conventions\n  transcode conventions show lightx2v\n")
@click.argument("words", nargs=-1, metavar="[show NAME]")
@_json
@debug_option
def conventions(words: tuple[str, ...], as_json: bool) -> None:
    """List the conventions that can be written and read, or show one."""
    from .. import catalog
    from .show import show_json
    from .table import print_table

    if name := _shown(words):
        return _show(catalog.convention(name).file, as_json=as_json)
    listed = catalog.every_convention()
    if as_json:
        return show_json([{"name": c.name, "title": c.title, "schemes": list(c.schemes)} for c in listed])
    return print_table(
        ("convention", "schemes", "title"), [(c.name, ", ".join(c.schemes) or "-", c.title) for c in listed]
    )


@command()
@_json
@debug_option
def schemes(as_json: bool) -> None:
    """List the quantization schemes, with their options and defaults."""
    from .. import schemes as known
    from .show import show_json
    from .table import print_table

    described = {name: known.describe(name) for name in known.SCHEMES}
    if as_json:
        return show_json(
            [
                {"name": name, "about": about, "options": options}
                for name, (about, options) in described.items()
            ]
        )
    for number, (about, options) in enumerate(described.values()):
        if number:
            echo()
        echo_text(f"{about}\n")
        print_table(("  option", "default"), [(f"  {key}", value) for key, value in options.items()])
    return None


def _shown(words: tuple[str, ...]) -> str | None:
    if not words:
        return None
    if len(words) == 2 and words[0] == "show":
        return words[1]
    raise click.UsageError("write `show NAME`, or nothing")
