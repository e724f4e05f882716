"""Options that several commands share, and how their values become stages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from .groups import Pointing

__all__ = [
    "Command",
    "Group",
    "command",
    "debug_option",
    "output_options",
    "performance_options",
    "quantize_options",
    "sized",
]

F = TypeVar("F", bound=Callable[..., Any])


class Command(click.Command):
    """A command that refuses an option which is given twice, where the first one would be forgotten."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        _, _, order = self.make_parser(ctx).parse_args(args=list(args))
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


class Group(Pointing):
    """A group of such commands."""

    command_class = Command


def command(**attributes: Any) -> Callable[[Callable[..., Any]], Command]:
    """As :func:`click.command`, of the class :class:`Command`."""
    return click.command(cls=Command, **attributes)


class _Size(click.ParamType[int]):
    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        from ..core.performance import parse_size
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


def _apply(options: Sequence[Callable[[F], F]]) -> Callable[[F], F]:
    def decorate(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


debug_option = click.option(
    "--debug", is_flag=True, expose_value=False, help="Show the traceback of an error."
)

quantize_options = _apply(
    [
        click.option("-O", "--option", "options", type=pair, multiple=True, help="Any option of the scheme."),
        click.option("--granularity", help="What shares a scale: channel, tensor, group, block."),
        click.option("--group-size", type=int, help="Columns of a group."),
        click.option("--symmetric/--asymmetric", default=None, help="Without or with a zero point."),
        click.option(
            "--optimize", metavar="HOW",
            help="Search better scales: mse, for nvfp4 also four_over_six. Same size, takes longer.",
        ),
        click.option("--scale-dtype", help="Stored dtype of scales: source, F32, BF16, F16."),
        click.option("--model", metavar="FAMILY", help="Family, if it is not to be recognised from names."),
        click.option(
            "--targets", multiple=True, metavar="PATTERN", help="Instead of the family's targets; repeatable."
        ),
        click.option("--include", multiple=True, metavar="PATTERN", help="More tensors to quantize."),
        click.option("--exclude", multiple=True, metavar="PATTERN", help="Tensors to leave; wins."),
        click.option(
            "--override", "overrides", type=pair, multiple=True, metavar="PATTERN=SCHEME",
            help="Another scheme, a dtype to cast to, or keep; the first match counts.",
        ),
        click.option("--keep-dtype", metavar="DTYPE", help="Cast the float tensors that are not quantized."),
        click.option(
            "--on-nonfinite", type=click.Choice(["error", "keep"]), default="error", show_default=True,
            help="What to do with a tensor that holds NaN or Inf.",
        ),
        click.option(
            "--on-bad-shape", type=click.Choice(["keep", "error", "pad"]), default="keep", show_default=True,
            help="What to do with a tensor whose shape the scheme or its consumer cannot take.",
        ),
        click.option(
            "--share-scale", multiple=True, metavar="A,B,C",
            help="Modules whose tensors share one global scale, e.g. attn.q,attn.k,attn.v; repeatable.",
        ),
    ]
)  # fmt: skip

output_options = _apply(
    [
        click.option("--layout", type=click.Choice(["single_file", "by_block", "chunked", "apart"])),
        click.option("--max-shard-size", type=sized, metavar="SIZE", help="Most bytes of a chunk, e.g. 5GB."),
        click.option("--max-tensors", type=int, metavar="N", help="Most tensors of a chunk."),
        click.option("--convention", help="Whose names and layouts to write; see `transcode conventions`."),
        click.option("--name", help="Stem of the file names in a folder."),
        click.option(
            "--copy-metadata/--no-copy-metadata", default=True, show_default=True,
            help="Copy config, tokenizer and other small files into a folder.",
        ),
        click.option("--metadata", type=pair, multiple=True, metavar="KEY=VALUE", help="More metadata."),
        click.option("-f", "--force", is_flag=True, help="Replace what exists."),
        click.option("--allow-unmatched", is_flag=True, help="Rules, LoRA keys that fit nothing only warn."),
    ]
)  # fmt: skip

performance_options = _apply(
    [
        click.option("-w", "--workers", type=click.IntRange(1), help="Threads; all processors without it."),
        click.option("--memory", type=sized, metavar="SIZE", help="For the tiles of all workers. [128MB]"),
        click.option(
            "--tile", type=sized, metavar="SIZE", help="Source bytes handled at a time by a worker."
        ),
        click.option("--drop-cache", is_flag=True, help="Keep the kernel's page cache small too."),
        click.option(
            "--device",
            metavar="DEVICE",
            help="cpu, cuda, cuda:0, cuda:0,cuda:1, or auto: a GPU where one pays. The same bytes. [cpu]",
        ),
        click.option(
            "--device-memory", type=sized, metavar="SIZE", help="Of each GPU, for the tiles on it. [4GB]"
        ),
        click.option(
            "--measure",
            is_flag=True,
            help="Report what quantizing loses of each tensor (SQNR); takes longer.",
        ),
    ]
)

report_options = _apply(
    [
        click.option("-n", "--dry-run", is_flag=True, help="Print the plan; write nothing."),
        click.option("--json", "as_json", is_flag=True, help="Print the plan or the report as JSON."),
        click.option("-q", "--quiet", is_flag=True, help="Print errors and warnings only."),
        click.option("-v", "--verbose", is_flag=True, help="Tell of every tensor."),
    ]
)
