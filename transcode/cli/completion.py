"""``transcode completion``."""

from __future__ import annotations

import click

from .flags import command

__all__ = ["completion"]


@command(epilog='\b\nExample:\n  eval "$(transcode completion bash)"      (in ~/.bashrc)\n')
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the script that makes SHELL complete commands, options, their values and file names."""
    from . import cli
    from .shells import known

    click.echo(known()[shell](cli, {}, "transcode", "_TRANSCODE_COMPLETE").source())
