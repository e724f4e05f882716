"""Groups of commands that say which command was meant."""

from __future__ import annotations

from collections.abc import Sequence

import click

from ..core.nearest import alike, nearest
from .commands import STAGES
from .epilog import write as write_epilog

__all__ = ["MEANT", "Pointing", "unknown_command"]

MEANT = {
    "info": "inspect", "ls": "inspect", "list": "inspect", "show": "inspect", "view": "inspect",
    "cat": "inspect", "header": "inspect", "keys": "inspect", "metadata": "meta", "check": "doctor",
    "diagnose": "doctor", "quant": "quantize", "dequant": "dequantize", "shard": "run",
    "reshard": "run", "models": "families", "formats": "conventions", "filter": "keep",
    "fuse": "lora", "bake": "lora", "prune": "drop", "doc": "help", "version": "help",
}  # fmt: skip
"""Words of other tools -> the command that does it here."""


class Pointing(click.Group):
    """A group of commands that says which of them may be meant by a word that is none of them."""

    meant: dict[str, str] = {}  # noqa: RUF012  click's own attributes are like it
    """Words that stand for a command, and are spelled otherwise."""

    def instead(self, stage: str, words: Sequence[str]) -> str:
        """What to type in the place of a stage outside of a pipe, where the group has any."""
        return ""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        if self.epilog:
            write_epilog(self.epilog, formatter)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click's, with the pointer."""
        name = args[0]
        if ctx.resilient_parsing or name.startswith("-") or self.get_command(ctx, name) is not None:
            return super().resolve_command(ctx, args)
        raise unknown_command(self, name, ctx, args[1:])


def unknown_command(
    group: click.Group, name: str, ctx: click.Context, words: Sequence[str] | None = None
) -> click.UsageError:
    """The error about a command that is none, to be raised.

    Args:
        words: what stands behind it; a stage that is meant says what to type then.
    """
    known = group.list_commands(ctx)
    meant = getattr(group, "meant", {}).get(name.casefold())
    hint = f", did you mean {meant!r}?" if meant in known else nearest(name, known)
    stage = next((one for one in [meant, *alike(name, known, 1)] if one in STAGES), None)
    if stage is not None and words is not None and isinstance(group, Pointing) and group.meant:
        hint = f"{hint.rstrip('?')}? {group.instead(stage, words)}"
    path = ctx.command_path
    return click.UsageError(f"there is no command {name!r}{hint or f'; see {path} --help'}", ctx)
