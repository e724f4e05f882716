"""``transcode recipe``."""

from __future__ import annotations

import json
import os

import click

from .options import Group, debug_option

__all__ = ["recipe"]

_ABOUT = ("version", "schemes", "digest", "from")
"""What else a record tells, for comments."""


@click.group(cls=Group)
def recipe() -> None:
    """Recipes: what a command line says, or how a file was made."""


@recipe.command(
    context_settings={"ignore_unknown_options": True},
    epilog="\b\nExamples:\n  transcode recipe show run SRC DST --scheme int8\n"
    "  transcode recipe show wan_int8.yaml\n  transcode recipe show made_by_transcode.safetensors\n",
)
@click.argument("words", nargs=-1, required=True, type=click.UNPROCESSED, metavar="run ARGS... | FILE")
@debug_option
def show(words: tuple[str, ...]) -> None:
    """Print the recipe of a command line of `run`, of a recipe file, or recorded in a safetensors file.

    What is printed can be saved and run: transcode run --config RECIPE SRC DST. A file records LoRAs and
    calibrations by the names of their files only.
    """
    from ..recipe import dump, load

    words = words[1:] if words[0] == "transcode" else words
    if words[0] == "run":
        from .run import recipe_of, run

        context = run.make_context("run", list(words[1:]))
        click.echo(dump(recipe_of(context, context.params)), nl=False)
    elif len(words) > 1:
        raise click.UsageError("show a command line that begins with run, or one file")
    elif words[0].endswith((".yaml", ".yml")):
        click.echo(dump(load(words[0])), nl=False)
    else:
        click.echo(_recorded(words[0]), nl=False)


def _recorded(path: str) -> str:
    import yaml

    from ..errors import FormatError
    from ..storage.source import open_source
    from ..storage.urls import refuse_url
    from ..transforms import record

    refuse_url(path)
    if not os.path.exists(path):
        raise FormatError("no such file or folder", file=path)
    with open_source(path) as source:
        text = source.metadata.get(record.KEY)
    if text is None:
        raise FormatError("holds no record of how it was made", file=path)
    try:
        made = json.loads(text)
    except ValueError:
        raise FormatError(f"its record of how it was made is not JSON: {text[:80]!r}", file=path) from None
    recipe = record.recipe(made) if isinstance(made, dict) else None
    if recipe is None:
        raise FormatError(f"its record of how it was made tells no recipe: {text[:80]!r}", file=path)
    about = [f"# {key}: {_line(made[key])}\n" for key in _ABOUT if key in made]
    return "".join(about) + yaml.safe_dump(
        recipe, sort_keys=False, default_flow_style=None, width=100, allow_unicode=True
    )


def _line(value: object) -> str:
    """For a comment, which ends with its line."""
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return " ".join(text.split())
