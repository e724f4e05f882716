"""From the configurations of ``model_converter``, and its flags, to recipes.

A configuration is a recipe: :mod:`transcode.recipe` reads both, so ``transcode run --config`` does the same.
"""

from __future__ import annotations

from argparse import Namespace
from dataclasses import dataclass, replace
from typing import Any

import yaml

from transcode.catalog import strict
from transcode.errors import RecipeError
from transcode.recipe import Recipe, load, parse

__all__ = ["Job", "from_file", "from_flags"]

Config = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """What is to be done.

    Attributes:
        recipe: for transcode.
        warnings: what has no effect, or another one than it had.
        file: the configuration, where it is to be run as it stands.
    """

    recipe: Recipe
    warnings: tuple[str, ...] = ()
    file: str | None = None


def from_file(path: str, source: str | None = None, output: str | None = None) -> Job:
    """Read a configuration.

    Args:
        path: the YAML file.
        source, output: instead of those that it names.

    Raises:
        RecipeError: a mistake in it.
    """
    if source is None and output is None:
        return Job(load(path), (), path)
    node = strict.load(path)
    node.mapping()
    config = node.plain()
    for section, given in (("source", source), ("output", output)):
        if given is not None:
            _section(config, section)["path"] = given
    return _job(config, f"{path}, with other paths")


def from_flags(args: Namespace) -> Job:
    """The quick mode: the configuration that the flags stand for."""
    beside = f"{args.source.rstrip('/')}_{args.quantization or 'converted'}"
    config: Config = {
        "source": {"type": args.model, "path": args.source},
        "target": {"format": args.target_format, "layout": args.layout},
        "output": {"path": args.output or beside, "name": args.output_name},
        "performance": {},
    }
    if args.source_format is not None:
        config["source"]["format"] = args.source_format
    if args.quantization is not None:
        config["quantization"] = {"method": args.quantization, "backend": args.backend}
    if args.lora_paths is not None:
        config["lora"] = {
            "enabled": True, "paths": args.lora_paths,
            "strengths": args.lora_strengths, "alphas": args.lora_alphas,
        }  # fmt: skip
    for key, given in (("device", args.device), ("num_workers", args.workers)):
        if given is not None:
            config["performance"][key] = given
    return _job(config, "command line")


def _section(config: Config, name: str) -> Config:
    section = config.get(name)
    if section is None:
        section = config[name] = {}
    if not isinstance(section, dict):
        raise RecipeError(f"{name}: {section!r} is not a mapping")
    return section


def _job(config: Config, file: str) -> Job:
    """A configuration that no file holds; it replaces what exists, and its remarks are told here."""
    _section(config, "output").setdefault("force", True)
    config = {key: value for key, value in config.items() if value not in ({}, None)}
    recipe = parse(yaml.safe_dump(config, sort_keys=False, allow_unicode=True), file=file)
    assert recipe.sink is not None
    return Job(replace(recipe, sink=recipe.sink.strict()), recipe.sink.remarks)
