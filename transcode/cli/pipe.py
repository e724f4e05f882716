"""The stages as commands: what flows through the shell's pipe is the recipe.

So a pipe costs nothing until ``write`` runs it, and can be saved to a file on its way.
"""

from __future__ import annotations

import builtins
import os
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from .instead import line
from .instead import stage as command
from .options import (
    debug_option,
    output_options,
    performance_options,
    quantize_options,
    report_options,
)

if TYPE_CHECKING:
    from ..core.flow import Transform

__all__ = [
    "calibrate",
    "cast",
    "convert",
    "dequantize",
    "drop",
    "keep",
    "lora",
    "open",
    "quantize",
    "rename",
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


def _then(step: Transform) -> None:
    _send(_received().then(step))


@command(epilog="\b\nExample:\n  transcode open SRC | transcode quantize int8 | transcode write DST\n")
@click.argument("src", type=click.Path())
@click.option("--root-key", help="Which dictionary of a PyTorch file holds the tensors.")
@click.option("--no-mmap", is_flag=True, help="Read files instead of mapping them.")
@click.option(
    "--from-convention", metavar="NAME", help="Whose names the quantized source has; found without it."
)
@click.option("--from-scheme", help="The source's scheme, where the file leaves several possible.")
@debug_option
def open(
    src: str, root_key: str | None, no_mmap: bool, from_convention: str | None, from_scheme: str | None
) -> None:
    """Begin a pipe with the checkpoint SRC."""
    from ..errors import FormatError
    from ..io.urls import refuse_url
    from ..recipe import Recipe, SourceOptions, whose

    whose(from_convention, from_scheme)
    refuse_url(src)
    if not os.path.exists(src):
        raise FormatError("no such file or folder", file=src)
    _send(Recipe(SourceOptions(src, root_key, not no_mmap, from_convention, from_scheme)))


@command(epilog="\b\nExample:\n  transcode rename '^module\\.' '' 'attn1' 'self_attn'\n")
@click.argument("rules", nargs=-1, required=True, metavar="REGEX REPLACEMENT [...]")
@debug_option
def rename(rules: tuple[str, ...]) -> None:
    """Rename tensors by pairs of a regular expression and its replacement, applied in order."""
    from ..stages.rename import Rename

    if len(rules) % 2:
        raise click.UsageError("every regular expression needs its replacement")
    _then(Rename(tuple(zip(rules[::2], rules[1::2], strict=True))))


@command()
@click.argument("patterns", nargs=-1, required=True, metavar="PATTERN...")
@debug_option
def keep(patterns: tuple[str, ...]) -> None:
    """Let only tensors go on that match a PATTERN: a glob over whole name components, or re:REGEX."""
    from ..stages.select import Keep

    _then(Keep(patterns))


@command()
@click.argument("patterns", nargs=-1, required=True, metavar="PATTERN...")
@debug_option
def drop(patterns: tuple[str, ...]) -> None:
    """Take away tensors that match a PATTERN: a glob over whole name components, or re:REGEX."""
    from ..stages.select import Drop

    _then(Drop(patterns))


@command()
@click.argument("to", metavar="SPELLING")
@click.option("--source", metavar="SPELLING", help="Spelling of the source; recognised without it.")
@click.option("--model", metavar="FAMILY", help="Family, if it is not to be recognised from names.")
@debug_option
def convert(to: str, source: str | None, model: str | None) -> None:
    """Spell the tensors of an architecture as another program does: diffusers, lightx2v, ..."""
    from ..stages.convert import Convert

    _then(Convert(to, source, model))


@command(
    epilog="\b\nExample:\n  transcode open SRC | transcode lora style.safetensors:0.8 | transcode write DST\n"
)
@click.argument("loras", nargs=-1, required=True, metavar="PATH[:STRENGTH[:ALPHA]]...")
@click.option(
    "--keys",
    type=click.Choice(["auto", "same", "convert"]),
    default="auto",
    show_default=True,
    help="How the LoRAs spell modules: as the model does, as another spelling of its family does, either.",
)
@click.option("--prefix", help="Only tensors whose names begin so; the LoRAs name them without it.")
@debug_option
def lora(loras: tuple[str, ...], keys: str, prefix: str | None) -> None:
    """Merge LoRAs, each STRENGTH times (1); ALPHA for those that do not say theirs."""
    from ..stages.lora.stage import Lora, parse_lora

    _then(Lora(tuple(map(parse_lora, loras)), keys, prefix))


@command()
@click.argument("to", metavar="DTYPE")
@click.option("--only", multiple=True, metavar="PATTERN", help="Cast only these tensors; repeatable.")
@click.option("--saturate", is_flag=True, help="Clip what is too large instead of failing.")
@click.option(
    "--dtype", "dtypes", multiple=True, metavar="DTYPE", help="Cast only tensors of DTYPE; repeatable."
)
@debug_option
def cast(to: str, only: tuple[str, ...], saturate: bool, dtypes: tuple[str, ...]) -> None:
    """Cast float tensors to DTYPE: F32, F16, BF16, ..."""
    from ..stages.cast import Cast

    _then(Cast(to, only, saturate, dtypes))


@command()
@click.option("--to", default="BF16", show_default=True, metavar="DTYPE")
@click.option("--convention", help="Whose names the source has; found without it.")
@click.option("--only", multiple=True, metavar="PATTERN", help="Decode only these tensors; repeatable.")
@click.option("--scheme", help="The scheme, where the file leaves several possible.")
@click.option(
    "--on-nonfinite", type=click.Choice(["error", "keep"]), default="error", show_default=True,
    help="What to do with values that decode to NaN or Inf.",
)  # fmt: skip
@debug_option
def dequantize(
    to: str, convention: str | None, only: tuple[str, ...], scheme: str | None, on_nonfinite: str
) -> None:
    """Decode quantized tensors."""
    from ..stages.dequantize import Dequantize

    _then(Dequantize(to, convention, only, scheme, on_nonfinite))


@command()
@click.argument("scheme")
@quantize_options
@debug_option
def quantize(scheme: str, **values: Any) -> None:
    """Quantize with SCHEME: int8, fp8, ... or name:option=value; see `transcode schemes`."""
    from . import build

    _then(build.quantize(scheme, values))


@command()
@click.argument("path", type=click.Path())
@click.option("--drop-global-scale", is_flag=True, help="Leave the weights' own global scale out.")
@debug_option
def calibrate(path: str, drop_global_scale: bool) -> None:
    """Add the scales of inputs, from the calibration PATH, to tensors quantized to nvfp4."""
    from ..stages.calibrate import Calibrate

    _then(Calibrate(path, not drop_global_scale))


@command()
@click.argument("dst", type=click.Path())
@output_options
@performance_options
@report_options
@click.option("--save", type=click.Path(dir_okay=False), help="Save the recipe to a file too.")
@debug_option
@click.pass_context
def write(context: click.Context, /, dst: str, save: str | None, **values: Any) -> None:
    """End a pipe: carry it out and write DST."""
    from ..recipe import dump
    from . import build
    from .run import carry_out

    recipe = build.ended(_received(), dst, context, values)
    recipe = replace(recipe, performance=build.performance(values, recipe.performance))
    if save is not None:
        with builtins.open(save, "w", encoding="utf-8") as file:
            file.write(dump(recipe))
    carry_out(recipe, values)
