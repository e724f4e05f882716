"""Recipes from YAML: the whole of it, and the sections ``source``, ``output`` and ``performance``."""

from __future__ import annotations

import re
from dataclasses import replace
from os import PathLike
from pathlib import Path

from .. import catalog
from ..catalog import strict
from ..containers import table as containers
from ..core.performance import Performance
from ..execution.write import Write
from ..io.named import local
from ..plan.devices import known
from ..plan.options import OutputOptions
from ..stages.names import STORED_AS
from ..stages.quantize.stage import Quantize
from ..voice import called
from .configuration import quantization_of, with_lora
from .nodes import fields_of, located
from .recipe import Recipe, SourceOptions, TargetOptions, whose
from .sections import PerformanceWords, SourceWords
from .steps import steps_of
from .target import OWN, Target, target_of, with_conversion, with_precision

__all__ = ["load", "parse"]

_ACCELERATOR = re.compile(r"(cuda|npu|xpu|mps|mlu|musa|hpu|dcu)(:\d+)?")
"""What torch calls the devices of one vendor or another; a configuration is often made on another machine."""


def load(path: str | PathLike[str]) -> Recipe:
    """Read a recipe from a file.

    Raises:
        RecipeError: with file and line.
    """
    return _recipe(strict.load(local(path)))


def parse(text: str, *, file: str = "recipe") -> Recipe:
    """Read a recipe from text; ``file`` names it in errors."""
    return _recipe(strict.parse(text, file))


def _recipe(node: strict.Node) -> Recipe:
    top = node.mapping()
    source, model, spelling = top.get("source", _source, (SourceOptions(), None, None))
    listed = top.get("steps", steps_of, None)
    remarks: list[str] | None = None if listed is not None else []
    quantization = top.find("quantization")
    if remarks is None and quantization is not None:
        raise quantization.error("a recipe has either steps or a quantization section", "move it into steps")
    if remarks is not None:
        top.find("version")  # of the configuration's form, of which there is one
        if top.find("pipeline") is not None:
            raise top.key_error(
                "pipeline",
                "this is a configuration of DeepCompressor, not a recipe",
                "pass it to `transcode nunchaku convert` or `transcode meta embed` with"
                f" {called('config_yaml')}",
            )
    steps = list(listed or ())
    target = Target()
    section = top.find("target")
    if section is not None:
        target, spelling = target_of(section, spelling, model, lenient=remarks is not None)
    elif remarks is not None and spelling is not None:
        target = Target(spelling=OWN)
    if quantization is not None:
        assert remarks is not None
        idle = remarks
        stages, target = located(quantization, lambda: quantization_of(quantization, model, target, idle))
        steps += stages
    elif model is not None:
        steps = [replace(s, model=s.model or model) if isinstance(s, Quantize) else s for s in steps]
    steps = with_conversion(section or node, steps, target, spelling, model)
    if section is not None:
        steps = with_precision(section, steps, target, model)
    if (lora := top.find("lora")) is not None:
        if remarks is None:
            raise lora.error("a recipe has either steps or a lora section", "move it into steps")
        steps = with_lora(lora, steps)
    if remarks is not None and target.convention is None and any(isinstance(s, Quantize) for s in steps):
        target = replace(target, convention=OWN)  # as it is in any case, but now it is said
    performance = top.get("performance", lambda child: _performance(child, remarks), Performance())
    sink = None
    if (output := top.find("output")) is not None:
        sink = located(output, lambda: _output(output, target, remarks))
    top.reject_unknown()
    remaining = TargetOptions() if sink is not None else target.options
    if sink is not None:
        sink = replace(sink, remarks=tuple(dict.fromkeys(remarks or ())), tolerant=remarks is not None)
    return Recipe(source, tuple(steps), sink, performance, remaining)


def _source(node: strict.Node) -> tuple[SourceOptions, str | None, str | None]:
    """How the source is opened, its family and its spelling."""
    if node.kind == "text":
        raise node.error("must be a mapping, is text", f"write source: {{path: {node.string()}}}")
    section = node.mapping()
    words = fields_of(section, SourceWords)
    kind = words.get("variant") or words.get("type", SourceWords.type)  # model_converter's narrower type
    model = None
    if kind not in STORED_AS:
        model = located(node, lambda: catalog.family(kind).name)
    options = located(node, lambda: SourceOptions(**fields_of(section, SourceOptions)))
    located(node, lambda: whose(options.convention, options.scheme))
    spelling = section.get("format", lambda child: _format(child, model), None)
    section.reject_unknown()
    return options, model, spelling


def _format(node: strict.Node, model: str | None) -> str | None:
    """A spelling of the family (of any, if it is not named), or a convention; None where it says how the
    files are stored, which they tell themselves.
    """
    if node.kind == "text" and node.string() in STORED_AS:
        return None
    families = [model] if model is not None else catalog.families()
    spellings = [spelling for name in families for spelling in catalog.family(name).spellings]
    return node.choice(list(dict.fromkeys([*spellings, *catalog.conventions()])))


def _output(node: strict.Node, target: Target, remarks: list[str] | None) -> Write:
    section = node.mapping()
    values = {**target.options.__dict__, **fields_of(section, OutputOptions, part="output")}
    path, name, copy = values["dst"], values.get("name"), values.get("copy_metadata")
    limited = target.max_shard_size is not None or target.max_tensors is not None
    if remarks is not None and name is not None and containers.written(path) is None:
        if values["layout"] is None and not limited:
            values["layout"] = "single_file"
        if values["layout"] == "single_file" and not copy:
            # The file itself, so that it may lie among other models.
            path = str(Path(path) / f"{name}{containers.WRITABLE[0].suffixes[0]}")
            values |= {"dst": path, "name": None}
    if copy and containers.written(path) is not None:
        message = "copy_metadata does nothing for a single file: side files are written into a folder"
        if remarks is None:
            raise section.need("copy_metadata").error(message, "name a folder, or leave it out")
        remarks.append(f"output.{message}")
    write = Write(**values)
    section.reject_unknown()
    return write


def _performance(node: strict.Node, remarks: list[str] | None = None) -> Performance:
    section = node.mapping()
    values = fields_of(section, Performance)
    if not fields_of(section, PerformanceWords).get("parallel", True):
        workers = values.get("workers")
        if workers not in (None, 1):
            if remarks is None:
                raise node.error(f"parallel: false contradicts num_workers: {workers}")
            remarks.append(f"performance: parallel: false wins over num_workers: {workers}")
        values["workers"] = 1
    if remarks is not None and _ACCELERATOR.fullmatch(values.get("device", "")):
        values["device"] = known(values["device"], remarks)
    performance = located(node, lambda: Performance(**values))
    section.reject_unknown()
    return performance
