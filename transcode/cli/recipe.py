"""``transcode recipe``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from .flags import Group, debug_option
from .say import echo_text, harmless, one_line

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
    from ..recipe import load

    words = words[1:] if words[0] == "transcode" else words
    if words[0] == "run":
        from .run import recipe_of, run

        context = run.make_context("run", list(words[1:]))
        _print(recipe_of(context, context.params).config())
    elif len(words) > 1:
        raise click.UsageError("too many words; show a command line that begins with run, or one file")
    elif words[0].endswith((".yaml", ".yml")):
        _print(load(words[0]).config())
    else:
        _print(*_recorded(words[0]))


@recipe.command(
    epilog="\b\nExample:\n  transcode recipe schema > recipe.schema.json\n"
    "  and in a recipe:  # yaml-language-server: $schema=recipe.schema.json\n"
)
@debug_option
def schema() -> None:
    """Print the JSON Schema of recipes, with which editors complete and check them."""
    from ..recipe.schema import schema as described
    from .show import show_json

    show_json(described())


def _recorded(path: str) -> tuple[dict[str, Any], str]:
    from ..consumers import record
    from ..containers.source import open_source
    from ..core.small_json import parse_object
    from ..errors import FormatError

    with open_source(path) as source:
        text = source.metadata.get(record.KEY)
    if text is None:
        raise FormatError("holds no record of how it was made", file=path)
    recorded = parse_object(text, file=path, what="its record of how it was made")
    recipe = record.recipe(recorded)
    if recipe is None:
        raise FormatError(f"its record of how it was made tells no recipe: {text[:80]!r}", file=path)
    about = [f"# {key}: {_line(recorded[key])}\n" for key in _ABOUT if key in recorded]
    return recipe, "".join(about)


def _print(config: Mapping[str, Any], about: str = "") -> None:
    """Print a recipe; where it holds what could steer the terminal, in escapes of YAML that mean the same."""
    from ..recipe import dump_config

    text = dump_config(config)
    echo_text(about + (text if harmless(text) == text else dump_config(config, ascii_only=True)))


def _line(value: object) -> str:
    """For a comment, which ends with its line."""
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return one_line(" ".join(text.split()))
