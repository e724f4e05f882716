"""Commands and their flags, as options are declared (:mod:`transcode.core.option`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from ..core import kinds
from ..core.option import GROUPS, REPORTING, Declared, Option, options_of
from ..core.performance import Performance
from ..plan.options import OutputOptions
from .groups import OPTIONS_MEANT, Pointing

__all__ = [
    "Command",
    "Flag",
    "Group",
    "command",
    "completes",
    "debug_option",
    "flag",
    "flag_of",
    "flags_of",
    "output_options",
    "pair",
    "parameter",
    "performance_options",
    "report_options",
    "sized",
]

F = TypeVar("F", bound=Callable[..., Any])

_COLUMN = 30
"""Characters that flags may take before what they are for begins in its own line."""

_MANY = 15
"""From so many options on help texts group them."""


class Flag(click.Option):
    """An option of a command that knows where it stands in help texts, and the names that its values are of.

    Attributes:
        group: of help texts.
        carries: whether it concerns how a plan is carried out, and not what it says.
        names: the table of its values, see :mod:`transcode.stages.names`.
        described: the declared option that it sets, if any.
    """

    def __init__(
        self,
        *declarations: Any,
        group: str = REPORTING,
        carries: bool = False,
        names: str = "",
        described: Option | None = None,
        **attributes: Any,
    ) -> None:
        self.group = group
        self.carries = carries
        self.names = names
        self.described = described
        super().__init__(*declarations, **attributes)

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


class Argument(click.Argument):
    """An argument of a command whose values are completed as those of a flag."""

    def __init__(self, *declarations: Any, described: Option, **attributes: Any) -> None:
        self.described = described
        super().__init__(*declarations, **attributes)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Values that begin so."""
        from .complete import values

        items = values(self.described.names, self.described, ctx, incomplete)
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
        except click.NoSuchOption as error:
            meant = OPTIONS_MEANT.get(error.option_name)
            if any(meant in one.opts for one in self.get_params(ctx)):
                text = f"there is no option {error.option_name!r}, did you mean {meant!r}?"
                raise click.UsageError(text, ctx) from None
            raise
        seen: set[click.Parameter] = set()
        for parameter in order:
            if not isinstance(parameter, click.Option) or parameter.multiple or parameter.count:
                continue
            # A flag that is said twice says the same twice, unless it has an opposite.
            if parameter in seen and not (parameter.is_flag and not parameter.secondary_opts):
                names = "/".join([*parameter.opts, *parameter.secondary_opts])
                raise click.UsageError(f"{names} is given twice: say it once", ctx)
            seen.add(parameter)
        return super().parse_args(ctx, args)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
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


class _Size(click.ParamType[int]):
    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        from ..core.size import parse_size
        from ..errors import RecipeError

        try:
            return parse_size(value)
        except RecipeError as error:
            self.fail(str(error), param, ctx)


class _Pair(click.ParamType[tuple[str, str]]):
    name = "key=value"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        key, equals, rest = str(value).partition("=")
        if not equals or not key:
            self.fail(f"{value!r} is not of the form key=value", param, ctx)
        return key, rest


sized = _Size()
pair = _Pair()


def _type(option: Option) -> Any:
    if option.choices:
        return click.Choice(option.choices)
    if option.kind is kinds.SIZE:
        return sized
    if option.kind is kinds.COUNT:
        return click.IntRange(1)
    if option.kind is kinds.PATH:
        return click.Path()
    if option.kind in (kinds.MAP, kinds.RULES, kinds.VALUES):
        return pair
    return None


def parameter(spelling: str) -> str:
    """The name under which click gives the value of a flag."""
    long = next((word for word in spelling.split() if word.startswith("--")), spelling)
    return long.partition("/")[0].lstrip("-").replace("-", "_")


def flag(spelling: str, **attributes: Any) -> Callable[[F], F]:
    """A flag of a command, spelled as in ``"-n --dry-run"``; see :class:`Flag`."""
    return click.option(*spelling.split(), cls=Flag, **attributes)


def flag_of(spelling: str, option: Option, help: str = "") -> Callable[[F], F]:
    """The flag that sets a declared option."""
    kind = option.kind
    attributes: dict[str, Any] = {"is_flag": True, "default": None if "/" in spelling else False}
    if kind.takes:
        metavar = option.metavar or (None if option.choices else kind.metavar)
        attributes = {"metavar": metavar, "type": _type(option)}
        attributes |= {"nargs": 2} if kind.takes == 2 else {}
        attributes |= {"multiple": True} if kind.repeats else {}
    return flag(
        spelling,
        help=help or option.help,
        group=option.group,
        carries=option.carries,
        names=option.names,
        described=option,
        **attributes,
    )


def flags_of(owner: type[Declared], without: Iterable[str] = ()) -> list[Callable[[F], F]]:
    """The flags and arguments of a command of its own that set the options of a class."""
    flags: list[Callable[[F], F]] = []
    for name, option in options_of(owner).items():
        if name in without:
            continue
        if option.argument:
            attributes: dict[str, Any] = {"nargs": -1 if option.kind.repeats else 1, "required": True}
            attributes |= {"type": _type(option)} if option.kind is kinds.PATH else {}
            flags.append(
                click.argument(name, cls=Argument, described=option, metavar=option.argument, **attributes)
            )
        elif spelling := option.own_flag(name):
            flags.append(flag_of(spelling, option))
        flags += [flag_of(one.own_flag(key), one) for key, one in option.short.items()]
    return flags


def apply(options: Sequence[Callable[[F], F]]) -> Callable[[F], F]:
    """A decorator that adds options to a command, in their order."""

    def decorate(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


debug_option = flag("--debug", is_flag=True, expose_value=False, help="Show the traceback of an error.")

output_options = apply(flags_of(OutputOptions, without=["dst"]))

performance_options = apply(flags_of(Performance))

report_options = apply(
    [
        flag("-n --dry-run", is_flag=True, carries=True, help="Print the plan; write nothing."),
        flag("--json as_json", is_flag=True, carries=True, help="Print the plan or the report as JSON."),
        flag("-q --quiet", is_flag=True, carries=True, help="Print errors and warnings only."),
        flag("-v --verbose", is_flag=True, carries=True, help="Tell of every tensor."),
    ]
)
