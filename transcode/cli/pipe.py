"""The stages as commands: what flows through the shell's pipe is the recipe.

So a pipe costs nothing until ``write`` runs it, and can be saved to a file on its way. The command of a stage
has the options of the stage (:mod:`transcode.stages.options`).
"""

from __future__ import annotations

import builtins
import sys
from dataclasses import replace
from typing import Any

import click

from ..core.option import options_of
from ..plan.options import SourceOptions
from ..stages.table import STAGES
from .flags import Command, debug_option, flag
from .instead import line
from .instead import stage as command
from .options import apply, flags_of, output_options, performance_options, report_options

__all__ = [
    "calibrate",
    "cast",
    "component",
    "convert",
    "dequantize",
    "drop",
    "keep",
    "lora",
    "open",
    "quantize",
    "rename",
    "requantize",
    "stage_command",
    "write",
]


def _received() -> Any:
    """The recipe that the command before this one in the pipe has sent."""
    from ..errors import RecipeError
    from ..recipe import parse

    if sys.stdin.isatty():
        raise click.UsageError(
            f"a recipe is expected from a pipe: transcode open SRC | transcode ...; {_instead()}"
        )
    try:
        text = sys.stdin.buffer.read().decode("utf-8-sig")  # whatever the locale says: recipes are UTF-8
    except UnicodeDecodeError:
        raise RecipeError("is not a recipe, nor text at all", file="<stdin>") from None
    if not text.strip():
        raise RecipeError(
            "no recipe came through the pipe", hint=f"see what the command before said; {_instead()}"
        )
    return parse(text, file="<stdin>")


def _instead() -> str:
    return line(click.get_current_context())


def _send(recipe: Any) -> None:
    from ..recipe import dump

    click.echo(dump(recipe), nl=False)


@command(epilog="\b\nExample:\n  transcode open SRC | transcode quantize int8 | transcode write DST\n")
@apply(flags_of(SourceOptions))
@debug_option
def open(path: str, **values: Any) -> None:
    """Begin a pipe with the checkpoint SRC."""
    from ..io.named import locate
    from ..recipe import Recipe, whose
    from . import build

    source = build.source(values, path)
    whose(source.convention, source.scheme)
    locate(path)
    _send(Recipe(source))


def stage_command(kind: str, example: str = "") -> Command:
    """The command that adds a stage to the recipe in the pipe."""
    owner = STAGES[kind][0]

    def callback(**values: Any) -> None:
        from . import build

        for name, option in options_of(owner).items():
            if option.argument and option.kind.takes == 2 and len(values[name]) % 2:
                raise click.UsageError(
                    "a regular expression lacks its replacement; give pairs: REGEX REPLACEMENT"
                )
        _send(_received().then(build.stage(kind, values, build.own)))

    callback.__doc__ = owner.__doc__
    whole = apply(flags_of(owner))(debug_option(callback))
    epilog = f"\b\nExample:\n  {example}\n" if example else None
    return command(name=kind, epilog=epilog)(whole)


rename = stage_command("rename", r"transcode rename '^module\.' '' 'attn1' 'self_attn'")
component = stage_command(
    "component", "transcode open all.safetensors | transcode component vae | transcode write vae/"
)
keep = stage_command("keep")
drop = stage_command("drop")
convert = stage_command("convert")
lora = stage_command(
    "lora", "transcode open SRC | transcode lora style.safetensors:0.8 | transcode write DST"
)
cast = stage_command("cast")
dequantize = stage_command("dequantize")
quantize = stage_command("quantize")
requantize = stage_command("requantize")
calibrate = stage_command("calibrate")


@command()
@click.argument("dst", type=click.Path())
@output_options
@performance_options
@report_options
@flag("--save", type=click.Path(dir_okay=False), metavar="FILE", help="Save the recipe to a file too.")
@debug_option
def write(dst: str, save: str | None, **values: Any) -> None:
    """End a pipe: carry it out and write DST."""
    from ..io.urls import refuse_output
    from ..recipe import dump
    from . import build
    from .run import carry_out

    recipe = build.ended(_received(), dst, values)
    recipe = replace(recipe, performance=build.performance(values, recipe.performance))
    if save is not None:
        refuse_output(save, stdout="cannot save a recipe to standard output, which tells of the run")
        with builtins.open(save, "w", encoding="utf-8") as file:
            file.write(dump(recipe))
    carry_out(recipe, values)
