"""``transcode families``, ``schemes`` and ``conventions``."""

from __future__ import annotations

from typing import Any

import click

from .flags import command, completes, debug_option
from .say import echo_text

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


@command(epilog="\b\nExamples:\n  transcode families\n  transcode families wan_dit\n")
@click.argument("words", nargs=-1, metavar="[NAME]", shell_complete=completes("families"))
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
        ("family", "spellings", "title"),
        [(f.name, ", ".join(f.spellings), f.title) for f in listed],
        wrap=True,
    )


@command(epilog="\b\nExamples:\n  transcode conventions\n  transcode conventions lightx2v\n")
@click.argument("words", nargs=-1, metavar="[NAME]", shell_complete=completes("conventions"))
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
        ("convention", "schemes", "title"),
        [
            (c.name, ", ".join(c.schemes) or "-", c.title + (" (only read)" if c.unwritten else ""))
            for c in listed
        ],
        wrap=True,
    )


@command(epilog="\b\nExamples:\n  transcode schemes\n  transcode schemes int8\n")
@click.argument("words", nargs=-1, metavar="[NAME]", shell_complete=completes("schemes"))
@_json
@debug_option
def schemes(words: tuple[str, ...], as_json: bool) -> None:
    """List the quantization schemes with their options and legal values, or tell all of one."""
    from .. import catalog
    from .. import schemes as known
    from . import scheme_list
    from .show import show_json

    if name := _shown(words):
        if as_json:
            catalog.check_scheme(name)
            return show_json(scheme_list.described(name))
        return scheme_list.show_one(name)
    if as_json:
        return show_json([scheme_list.described(name) for name in (*known.SCHEMES, *known.CALIBRATED)])
    return scheme_list.show_all()


def _shown(words: tuple[str, ...]) -> str | None:
    """The name that is asked for: ``NAME`` or ``show NAME``."""
    if words[:1] == ("show",) and len(words) > 1:
        words = words[1:]
    if len(words) > 1:
        raise click.UsageError("too many words; give one name, or none")
    return words[0] if words else None
