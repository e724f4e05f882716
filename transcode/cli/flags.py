"""Commands and how they show their flags: all that a command needs which takes no declared options."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from .epilog import write as write_epilog
from .groups import Pointing

if TYPE_CHECKING:  # commands that look at metadata alone do without
    from click.shell_completion import CompletionItem

    from ..core.option import Option

__all__ = ["Command", "F", "Flag", "Group", "command", "completes", "debug_option", "flag"]

F = TypeVar("F", bound=Callable[..., Any])

_COLUMN = 30
"""Characters that flags may take before what they are for begins in its own line."""

_MANY = 15
"""From so many options on help texts group them."""


class Flag(click.Option):
    """An option of a command that knows where it stands in help texts, and the names that its values are of.

    Attributes:
        group: of help texts; by default that of how results are reported.
        carries: whether it concerns how a plan is carried out, and not what it says.
        names: the table of its values, see :mod:`transcode.stages.names`.
        described: the declared option that it sets, if any.
    """

    def __init__(
        self,
        *declarations: Any,
        group: str | None = None,
        carries: bool = False,
        names: str = "",
        described: Option | None = None,
        **attributes: Any,
    ) -> None:
        self._group = group
        self.carries = carries
        self.names = names
        self.described = described
        super().__init__(*declarations, **attributes)

    @property
    def group(self) -> str:
        """The title under which it stands in help texts."""
        from ..core.option import REPORTING

        return self._group or REPORTING

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """The flag with what stands for its value, and what it is for with its default."""
        spelled = ", ".join(self.opts) + "".join(f"/{other}" for other in self.secondary_opts)
        if not self.is_flag and not self.count:
            choices = self.type.choices if isinstance(self.type, click.Choice) else ()
            spelled += f" {self.metavar or '|'.join(choices) or self.type.name.upper()}"
        help = self.help or ""
        if self.described is not None:
            if self.described.choices and self.metavar:
                help = f"{help.removesuffix('.')}: {', '.join(self.described.choices)}."
            if not self.described.head and (default := self.described.shown_default) is not None:
                help = f"{help} [{default}]"
        return spelled, help

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Values that begin so."""
        if not self.names and self.described is None:
            return super().shell_complete(ctx, incomplete)
        from .complete import values

        items = values(self.names, self.described, ctx, incomplete)
        return super().shell_complete(ctx, incomplete) if items is None else items


def completes(
    table: str,
) -> Callable[[click.Context, click.Parameter, str], list[CompletionItem]]:
    """``shell_complete`` of a parameter that takes names of a table, see :mod:`transcode.stages.names`."""

    def complete(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from .complete import values

        return values(table, None, ctx, incomplete) or []

    return complete


class Command(click.Command):
    """A command that refuses an option which is given twice, where the first one would be forgotten.

    Its help shows many options in groups.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            _, _, order = self.make_parser(ctx).parse_args(args=list(args))
        except click.UsageError as error:
            error.ctx = ctx
            raise
        seen: set[click.Parameter] = set()
        for parameter in order:
            if not isinstance(parameter, click.Option) or parameter.multiple or parameter.count:
                continue
            # A flag that is said twice says the same twice, unless it has an opposite.
            if parameter in seen and not (parameter.is_flag and not parameter.secondary_opts):
                names = "/".join([*parameter.opts, *parameter.secondary_opts])
                raise click.UsageError(f"{names} is given twice; say it once", ctx)
            seen.add(parameter)
        return super().parse_args(ctx, args)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        if self.epilog:
            write_epilog(self.epilog, formatter)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from ..core.option import GROUPS, REPORTING

        records: dict[str, list[tuple[str, str]]] = {}
        params = [one for one in self.get_params(ctx) if isinstance(one, click.Option)]
        grouped = len(params) > _MANY
        for one in params:
            if (record := one.get_help_record(ctx)) is not None:
                group = one.group if isinstance(one, Flag) else REPORTING
                records.setdefault(group if grouped else "Options", []).append(record)
        lengths = [len(spelled) for group in records.values() for spelled, _ in group]
        width = max(length for length in lengths if length <= _COLUMN)
        for group in (*GROUPS, "Options"):
            if group in records:
                with formatter.section(group):
                    rows = [(spelled.ljust(width), text) for spelled, text in records[group]]
                    formatter.write_dl(rows, col_max=_COLUMN)


class Group(Pointing):
    """A group of such commands."""

    command_class = Command


def command(**attributes: Any) -> Callable[[Callable[..., Any]], Command]:
    """As :func:`click.command`, of the class :class:`Command`."""
    return click.command(cls=Command, **attributes)


def flag(spelling: str, **attributes: Any) -> Callable[[F], F]:
    """A flag of a command, spelled as in ``"-n --dry-run"``; see :class:`Flag`."""
    return click.option(*spelling.split(), cls=Flag, **attributes)


debug_option = flag("--debug", is_flag=True, expose_value=False, help="Show the traceback of an error.")
