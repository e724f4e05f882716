"""Flags of commands, as options are declared (:mod:`transcode.core.option`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import click
from click.shell_completion import CompletionItem

from ..core import kinds
from ..core.option import Declared, Option, options_of
from ..core.performance import Performance
from ..plan.options import OutputOptions
from .flags import F, flag

__all__ = [
    "apply",
    "flag_of",
    "flags_of",
    "output_options",
    "pair",
    "parameter",
    "performance_options",
    "report_options",
    "sized",
]


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
            several = option.kind.repeats
            attributes: dict[str, Any] = {
                "nargs": -1 if several else 1,
                "required": several or option.required,
            }
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
