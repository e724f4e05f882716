"""Groups of commands that say which command was meant."""

from __future__ import annotations

import click

from ..core.nearest import nearest

__all__ = ["MEANT", "OPTIONS_MEANT", "Pointing", "unknown_command"]

MEANT = {
    "info": "inspect", "ls": "inspect", "list": "inspect", "show": "inspect", "view": "inspect",
    "cat": "inspect", "header": "inspect", "keys": "inspect", "metadata": "meta", "check": "doctor",
    "diagnose": "doctor", "quant": "quantize", "dequant": "dequantize", "merge": "lora", "shard": "run",
    "reshard": "run", "models": "families", "formats": "conventions", "filter": "keep",
}  # fmt: skip
"""Words of other tools -> the command that does it here."""


OPTIONS_MEANT = {
    "--dtype": "--cast", "--to-dtype": "--cast", "--precision": "--cast", "--quantize": "--scheme",
    "--quant": "--scheme", "--quantization": "--scheme", "--overwrite": "--force",
    "--shard-size": "--max-shard-size", "--skip": "--exclude", "--ignore": "--exclude",
    "--jobs": "--workers", "--threads": "--workers", "--recipe": "--config",
}  # fmt: skip
"""Options of other tools -> the one that does it here, where a command has it."""


class Pointing(click.Group):
    """A group of commands that says which of them may be meant by a word that is none of them."""

    meant: dict[str, str] = {}  # noqa: RUF012  click's own attributes are like it
    """Words that stand for a command, and are spelled otherwise."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click's, with the pointer."""
        name = args[0]
        if ctx.resilient_parsing or name.startswith("-") or self.get_command(ctx, name) is not None:
            return super().resolve_command(ctx, args)
        raise unknown_command(self, name, ctx)


def unknown_command(group: click.Group, name: str, ctx: click.Context) -> click.UsageError:
    """The error about a command that is none, to be raised."""
    known = group.list_commands(ctx)
    meant = getattr(group, "meant", {}).get(name.casefold())
    hint = f", did you mean {meant!r}?" if meant in known else nearest(name, known)
    path = ctx.command_path
    return click.UsageError(f"there is no command {name!r}{hint or f'; see {path} --help'}", ctx)
