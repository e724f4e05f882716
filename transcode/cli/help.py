"""``transcode help``: what ``--help`` says."""

from __future__ import annotations

import click
from click.shell_completion import CompletionItem

from .flags import command
from .groups import unknown_command

__all__ = ["help"]


def _commands(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Commands of the group that the words before name."""
    inner = ctx.find_root()
    for word in ctx.params.get("words") or ():
        named = inner.command.get_command(inner, word) if isinstance(inner.command, click.Group) else None
        if named is None:
            return []
        inner = click.Context(named, info_name=word, parent=inner)
    known = inner.command.list_commands(inner) if isinstance(inner.command, click.Group) else []
    return [CompletionItem(name) for name in known if name.startswith(incomplete)]


@command(epilog="\b\nExamples:\n  transcode help\n  transcode help run\n  transcode help meta set\n")
@click.argument("words", nargs=-1, metavar="[COMMAND...]", shell_complete=_commands)
@click.pass_context
def help(context: click.Context, words: tuple[str, ...]) -> None:
    """Print the help of COMMAND, or of transcode as a whole."""
    inner = context.find_root()
    for word in words:
        group = inner.command
        named = group.get_command(inner, word) if isinstance(group, click.Group) else None
        if named is None:
            if not isinstance(group, click.Group):
                raise click.UsageError(
                    f"{inner.command_path} has no commands of its own; see {inner.command_path} --help",
                    context,
                )
            raise unknown_command(group, word, inner)
        inner = click.Context(named, info_name=word, parent=inner, **named.context_settings)
    click.echo(inner.get_help())
