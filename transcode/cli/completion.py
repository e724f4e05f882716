"""``transcode completion``."""

from __future__ import annotations

import click

from .options import command

__all__ = ["completion"]


@command(epilog='\b\nExample:\n  eval "$(transcode completion bash)"      (in ~/.bashrc)\n')
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the script that makes SHELL complete commands, options and file names."""
    from click.shell_completion import get_completion_class

    from . import cli

    maker = get_completion_class(shell)
    assert maker is not None
    click.echo(maker(cli, {}, "transcode", "_TRANSCODE_COMPLETE").source())
