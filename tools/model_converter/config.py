"""From the configurations of ``model_converter``, and its flags, to recipes.

A configuration has the sections of a recipe. What differs is rewritten: keys that mean nothing here go, and
what its defaults were is said.
"""

from __future__ import annotations

import copy
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from convert.translation import known_device, scaled_convention

from transcode import catalog
from transcode.catalog import strict
from transcode.errors import RecipeError
from transcode.recipe import Recipe, load, parse
from transcode.schemes import SCHEMES, describe

__all__ = ["Job", "from_file", "from_flags", "rewrite"]

Config = dict[str, Any]

_OWN = "lightx2v"
"""Whose names it converted to others; never the other way round."""

_STORED_AS = ("auto", "safetensors", "pytorch", "pth", "pt", "bin")
"""What ``source.format`` may say of the files; they are recognised by their content."""


@dataclass(frozen=True)
class Job:
    """What is to be done.

    Attributes:
        recipe: for transcode.
        warnings: what has no effect, or another one than it had.
        file: the configuration, where it is that recipe as it stands.
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
    node = strict.load(path)
    node.mapping()
    stated = node.plain()
    config = copy.deepcopy(stated)
    for section, given in (("source", source), ("output", output)):
        if given is not None:
            _section(config, section)["path"] = given
    rewritten, warnings = rewrite(config)
    _section(stated, "output").setdefault("force", True)
    if rewritten == stated:
        return Job(load(path), tuple(warnings), path)
    return Job(_parsed(rewritten, f"{path}, rewritten as a recipe"), tuple(warnings))


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
    rewritten, warnings = rewrite(config)
    return Job(_parsed(rewritten, "command line"), tuple(warnings))


def rewrite(config: Config) -> tuple[Config, list[str]]:
    """The recipe that means what a configuration meant, and warnings.

    Raises:
        RecipeError: a section is not a mapping.
    """
    said: list[str] = []
    config = {key: value for key, value in copy.deepcopy(config).items() if key != "version"}
    source, target = _section(config, "source"), _section(config, "target")
    if "variant" in source:
        source["type"] = source.pop("variant")
    if source.get("format") in _STORED_AS:
        del source["format"]
    method = _quantization(config, said)
    target.setdefault("format", _OWN)
    target.setdefault("layout", "single_file")
    if target["format"] == "comfyui" and method is not None:
        target["format"] = scaled_convention(method)
        if method == "fp8" and isinstance(options := config["quantization"].get("options"), dict):
            options.pop("per_channel", None)  # these files have one scale to a tensor, whatever was said
    elif target["format"] != _OWN and "format" not in source and _spells(source, target["format"]):
        source["format"] = _OWN
        if method is not None:
            target.setdefault("convention", _OWN)  # Diffusers names plain tensors only
    _lora(config)
    _output(config, target)
    performance = _section(config, "performance")
    if performance.get("parallel") is False:
        performance.pop("num_workers", None)
    if isinstance(performance.get("device"), str):
        performance["device"] = known_device(performance["device"], said)
    return {key: value for key, value in config.items() if value != {}}, said


def _spells(source: Config, form: object) -> bool:
    """Whether a format is another spelling than LightX2V's of the family that is named, or of any."""
    named = source.get("type")
    names = [named] if named in catalog.families() else catalog.families()
    spellings = (catalog.family(name).spellings for name in names)
    return any(form in known and _OWN in known for known in spellings)


def _quantization(config: Config, said: list[str]) -> str | None:
    """Rewrite the section; returns the scheme, None where there is none."""
    section = _section(config, "quantization")
    method = section.get("method")
    if not isinstance(method, str):
        del config["quantization"]
        return None
    section.pop("backend", None)
    options = _section(section, "options")
    if not options:
        del section["options"]
    # One scale to each row, without a zero point: all that there was. Other schemes have no such options.
    known = describe(method)[1] if method in SCHEMES else {}
    for key, option in (("per_channel", "granularity"), ("symmetric", "symmetric")):
        if known and options.get(key) is True and option not in known:
            del options[key]
            said.append(f"quantization.options.{key}: {method} has no such choice")
    return method


def _lora(config: Config) -> None:
    if "lora" not in config:
        return
    section = _section(config, "lora")
    for key in ("strengths", "alphas"):
        values = section.get(key)
        if isinstance(values, list) and len(values) == 1:
            values = values[0]
        if key == "alphas":
            values = [one or None for one in values] if isinstance(values, list) else values or None
        if values is None or values == []:
            section.pop(key, None)
        else:
            section[key] = values


def _output(config: Config, target: Config) -> None:
    output = _section(config, "output")
    output.setdefault("force", True)  # it replaced what existed
    path, name = output.get("path"), output.get("name")
    alone = target["layout"] == "single_file" and output.get("copy_metadata") is not True
    if alone and isinstance(path, str) and isinstance(name, str) and Path(path).suffix != ".safetensors":
        # The file itself, so that it may lie among other models.
        output["path"] = str(Path(path) / f"{output.pop('name')}.safetensors")


def _section(config: Config, name: str) -> Config:
    section = config.get(name)
    if section is None:
        section = config[name] = {}
    if not isinstance(section, dict):
        raise RecipeError(f"{name}: {section!r} is not a mapping")
    return section


def _parsed(config: Config, file: str) -> Recipe:
    return parse(yaml.safe_dump(config, sort_keys=False, allow_unicode=True), file=file)
