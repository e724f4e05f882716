"""From the values of flags to stages, sinks and recipes."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any

import click

from ..core.flow import Transform
from ..core.option import Declared, Option, options_of
from ..core.performance import Performance
from ..errors import RecipeError
from ..execution.write import Write
from ..plan.options import OutputOptions, SourceOptions
from ..recipe.recipe import Recipe, TargetOptions
from ..schemes.text import parse_scheme, parse_value
from ..stages.table import STAGES
from ..stages.table import stage as stage_of
from .options import parameter

__all__ = [
    "as_run",
    "ended",
    "own",
    "performance",
    "source",
    "spelled_flags",
    "stage",
    "with_output_flags",
    "write",
]

Spelled = Callable[[Option, str], str]
"""How a command spells an option of a field; empty where it does not."""


def own(option: Option, name: str) -> str:
    """As the command of the stage itself does."""
    return option.own_flag(name)


def as_run(option: Option, name: str) -> str:
    """As ``transcode run`` does."""
    return option.run_flag(name)


def _given(owner: type[Declared], values: dict[str, Any], spelled: Spelled) -> dict[str, Any]:
    """What was said of the options of a class, by the names of their fields."""
    given: dict[str, Any] = {}
    for name, option in options_of(owner).items():
        spelling = spelled(option, name)
        if not spelling and not (spelled is own and option.argument):
            continue
        value = values.get(parameter(spelling) if spelling else name)
        # Of a flag without an opposite, false is not said.
        if value is None or value == () or (value is False and "/" not in spelling):
            continue
        given[name] = not value if option.off else option.kind.said(value)
    return given


def stage(kind: str, values: dict[str, Any], spelled: Spelled) -> Transform:
    """The stage that the flags of a command describe."""
    owner = STAGES[kind][0]
    given = _given(owner, values, spelled)
    if any(option.short for option in options_of(owner).values()):
        given |= _scheme(given, owner, values)
    return stage_of(kind)(**given)


def _scheme(given: dict[str, Any], owner: type[Declared], values: dict[str, Any]) -> dict[str, Any]:
    """A scheme and its options: behind its name, each with a flag of its own, or named."""
    name, options = parse_scheme(given["scheme"]) if "scheme" in given else (None, ())
    together: dict[str, Any] = dict(options)
    short = options_of(owner)["options"].short
    flags = {key: values.get(parameter(option.own_flag(key))) for key, option in short.items()}
    more = [(key, value) for key, value in flags.items() if value is not None]
    more += [(key.replace("-", "_"), parse_value(key, value)) for key, value in given.get("options", ())]
    for key, value in more:
        if key in together:
            raise RecipeError(
                f"{key} of {name} is given twice: {together[key]!r} and {value!r}", hint="say it once"
            )
        together[key] = value
    return {"scheme": name, "options": tuple(together.items())}


def source(values: dict[str, Any], path: str | None) -> SourceOptions:
    """The source that the flags of a command describe."""
    return SourceOptions(**{**_given(SourceOptions, values, own), "path": path})


def ended(recipe: Recipe, dst: str, values: dict[str, Any]) -> Recipe:
    """A recipe that writes to ``dst``, as its own sink or target says and the output flags change it."""
    if recipe.sink is not None:
        sink = replace(recipe.sink, dst=dst)
        return with_output_flags(replace(recipe, sink=sink, target=TargetOptions()), values)
    said = {name: value for name, value in vars(recipe.target).items() if value is not None}
    return replace(recipe, sink=write(dst, values, said), target=TargetOptions())


def write(dst: str, values: dict[str, Any], base: dict[str, Any] | None = None) -> Write:
    """The sink that the output flags describe, on top of what a recipe says."""
    return Write(**{**(base or {}), **_output(values), "dst": dst})


def _output(values: dict[str, Any]) -> dict[str, Any]:
    given = _given(OutputOptions, values, as_run)
    keys = [key for key, _ in given.get("metadata", ())]
    if twice := [key for key in keys if keys.count(key) > 1]:
        raise RecipeError(f"--metadata: the key {twice[0]!r} is given twice", hint="say it once")
    return given


def performance(values: dict[str, Any], base: Performance | None = None) -> Performance:
    """Performance flags, on top of what a recipe says."""
    given = _given(Performance, values, as_run)
    if given.get("device") == "cpu":  # the memory that a recipe grants a GPU goes with the GPU
        given.setdefault("device_memory", Performance.device_memory)
    return replace(base or Performance(), **given)


def spelled_flags(context: click.Context, names: Collection[str]) -> list[str]:
    """Which of those parameters the user set, as they are spelled on the command line."""
    return [
        parameter.opts[-1]
        for parameter in context.command.params
        if parameter.name in names
        and context.get_parameter_source(parameter.name) == click.core.ParameterSource.COMMANDLINE
    ]


def with_output_flags(recipe: Recipe, values: dict[str, Any]) -> Recipe:
    """A recipe file's sink, changed by the output flags that the user gave."""
    assert recipe.sink is not None
    return replace(recipe, sink=replace(recipe.sink, **_output(values)))
