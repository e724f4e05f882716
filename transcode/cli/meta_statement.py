"""``transcode meta statement``."""

from __future__ import annotations

from pathlib import Path

import click

from ..errors import FormatError
from .flags import command, debug_option

__all__ = ["statement"]


@command()
@click.argument("path", type=click.Path())
@debug_option
def statement(path: str) -> None:
    """Print the in-toto Statement beside PATH: of which files, by which recipe, and what it is.

    `transcode run --attest` writes it. It is not signed, and nothing is compared here.
    """
    from ..execution.attest import find
    from .show import show_json

    table = find(Path(path))
    if table is None:
        raise FormatError("has no statement beside it", file=path, hint="--attest of a run writes one")
    show_json(table)
