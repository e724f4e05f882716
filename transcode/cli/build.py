"""From the values of options to stages, sinks and recipes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import click

from ..core.performance import Performance
from ..errors import RecipeError
from ..execution.write import Write
from ..recipe import Recipe, TargetOptions
from ..schemes.text import parse_scheme, parse_value
from ..stages.quantize.stage import Quantize

__all__ = ["ended", "performance", "quantize", "spelled_flags", "split", "with_output_flags", "write"]


def split(values: tuple[str, ...]) -> tuple[str, ...]:
    """Repeated options whose values may also be lists with commas; regular expressions are left whole."""
    parts: list[str] = []
    for value in values:
        parts += [value] if value.startswith("re:") else [part.strip() for part in value.split(",")]
    return tuple(filter(None, parts))


def quantize(scheme: str, values: dict[str, Any]) -> Quantize:
    """The stage that the options of quantize describe."""
    name, options = parse_scheme(scheme)
    own: dict[str, Any] = dict(options)
    flags = ("granularity", "group_size", "symmetric", "optimize", "scale_dtype")
    more = [(key, values[key]) for key in flags if values[key] is not None]
    more += [(key.replace("-", "_"), parse_value(key, value)) for key, value in values["options"]]
    for key, value in more:
        if key in own:
            raise RecipeError(
                f"{key} of {name} is given twice: {own[key]!r} and {value!r}", hint="say it once"
            )
        own[key] = value
    return Quantize(
        scheme=name,
        options=tuple(own.items()),
        model=values["model"],
        targets=split(values["targets"]),
        include=split(values["include"]),
        exclude=split(values["exclude"]),
        overrides=tuple(values["overrides"]),
        keep_dtype=values["keep_dtype"],
        on_nonfinite=values["on_nonfinite"],
        on_bad_shape=values["on_bad_shape"],
        share_scale=tuple(tuple(group.split(",")) for group in values["share_scale"]),
    )


def ended(recipe: Recipe, dst: str, context: click.Context, values: dict[str, Any]) -> Recipe:
    """A recipe that writes to ``dst``, as its own sink or target says and the output options change it."""
    if recipe.sink is not None:
        sink = replace(recipe.sink, dst=dst)
    else:
        options = {key: value for key, value in recipe.target.config().items() if values[key] is None}
        sink = write(dst, {**values, **options})
    return with_output_flags(replace(recipe, sink=sink, target=TargetOptions()), context, values)


def write(dst: str, values: dict[str, Any]) -> Write:
    """The sink that the output options describe."""
    keys = [key for key, _ in values["metadata"]]
    if twice := [key for key in keys if keys.count(key) > 1]:
        raise RecipeError(f"--metadata: the key {twice[0]!r} is given twice", hint="say it once")
    return Write(
        dst=dst,
        metadata=tuple(values["metadata"]),
        **{
            key: values[key]
            for key in (
                "layout",
                "convention",
                "name",
                "max_shard_size",
                "max_tensors",
                "copy_metadata",
                "force",
                "allow_unmatched",
            )
        },
    )


def performance(values: dict[str, Any], base: Performance | None = None) -> Performance:
    """Performance options, on top of what a recipe says."""
    options = {
        key: values[key]
        for key in ("workers", "memory", "tile", "device", "device_memory")
        if values[key] is not None  # not given
    }
    for key in ("drop_cache", "measure"):
        if values[key]:
            options[key] = True
    if options.get("device") == "cpu":  # the memory that a recipe grants a GPU goes with the GPU
        options.setdefault("device_memory", Performance.device_memory)
    return replace(base or Performance(), **options)


def spelled_flags(context: click.Context, names: set[str]) -> list[str]:
    """Which of those parameters the user set, as they are spelled on the command line."""
    return [
        parameter.opts[-1]
        for parameter in context.command.params
        if parameter.name in names
        and context.get_parameter_source(parameter.name) == click.core.ParameterSource.COMMANDLINE
    ]


def with_output_flags(recipe: Recipe, context: click.Context, values: dict[str, Any]) -> Recipe:
    """A recipe file's sink, changed by the output options that the user gave."""
    assert recipe.sink is not None
    changes: dict[str, Any] = {}
    for name in ("layout", "convention", "name", "max_shard_size", "max_tensors", "copy_metadata", "force",
                 "allow_unmatched", "metadata"):  # fmt: skip
        if spelled_flags(context, {name}):
            changes[name] = values[name]
    return replace(recipe, sink=replace(recipe.sink, **changes))
