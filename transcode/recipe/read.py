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
from ..plan.devices import known
from ..stages.quantize.stage import Quantize
from ..voice import called
from .configuration import quantization_of, with_lora
from .nodes import located, pairs, size
from .recipe import Recipe, SourceOptions, TargetOptions, whose
from .steps import steps_of
from .target import OWN, Target, target_of, with_conversion, with_precision

__all__ = ["load", "parse"]

_STORED_AS = ("auto", "safetensors", "pytorch", "pth", "pt", "bin", "ckpt")
"""What ``source.type`` and ``source.format`` may say of the files; they are recognised by their content."""

_ACCELERATOR = re.compile(r"(cuda|npu|xpu|mps|mlu|musa|hpu|dcu)(:\d+)?")
"""What torch calls the devices of one vendor or another; a configuration is often made on another machine."""


def load(path: str | PathLike[str]) -> Recipe:
    """Read a recipe from a file.

    Raises:
        RecipeError: with file and line.
    """
    return _recipe(strict.load(Path(path)))


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
    section = node.mapping()
    kind = section.get("type", strict.Node.string, "auto")
    kind = section.get("variant", strict.Node.string, kind)  # model_converter's name of a narrower type
    model = None
    if kind not in _STORED_AS:
        model = located(node, lambda: catalog.family(kind).name)
    options = SourceOptions(
        path=section.get("path", strict.Node.string, None),
        root_key=section.get("root_key", strict.Node.string, None),
        mmap=section.get("mmap", strict.Node.boolean, True),
        convention=section.get("convention", strict.Node.string, None),
        scheme=section.get("scheme", strict.Node.string, None),
    )
    located(node, lambda: whose(options.convention, options.scheme))
    spelling = section.get("format", lambda child: _format(child, model), None)
    section.reject_unknown()
    return options, model, spelling


def _format(node: strict.Node, model: str | None) -> str | None:
    """A spelling of the family (of any, if it is not named), or a convention; None where it says how the
    files are stored, which they tell themselves.
    """
    if node.kind == "text" and node.string() in _STORED_AS:
        return None
    families = [model] if model is not None else catalog.families()
    spellings = [spelling for name in families for spelling in catalog.family(name).spellings]
    return node.choice(list(dict.fromkeys([*spellings, *catalog.conventions()])))


def _output(node: strict.Node, target: Target, remarks: list[str] | None) -> Write:
    section = node.mapping()
    metadata = section.get("metadata", pairs, ())
    path = section.need("path").string()
    name = section.get("name", strict.Node.string, None)
    layout = target.layout
    limited = target.max_shard_size is not None or target.max_tensors is not None
    copy = section.get("copy_metadata", strict.Node.boolean, None)
    if remarks is not None and name is not None and containers.written(path) is None:
        if layout is None and not limited:
            layout = "single_file"
        if layout == "single_file" and not copy:
            # The file itself, so that it may lie among other models.
            path, name = str(Path(path) / f"{name}{containers.WRITABLE[0].suffixes[0]}"), None
    if copy and containers.written(path) is not None:
        message = "copy_metadata does nothing for a single file: side files are written into a folder"
        if remarks is None:
            raise section.need("copy_metadata").error(message, "name a folder, or leave it out")
        remarks.append(f"output.{message}")
    write = Write(
        dst=path,
        layout=layout,
        convention=target.convention,
        max_shard_size=target.max_shard_size,
        max_tensors=target.max_tensors,
        name=name,
        copy_metadata=copy is not False,
        metadata=metadata,
        force=section.get("force", strict.Node.boolean, False),
        allow_unmatched=section.get("allow_unmatched", strict.Node.boolean, False),
    )
    section.reject_unknown()
    return write


def _performance(node: strict.Node, remarks: list[str] | None = None) -> Performance:
    section = node.mapping()
    workers = section.get("num_workers", lambda child: child.integer(1), None)
    if not section.get("parallel", strict.Node.boolean, True):
        if workers not in (None, 1):
            if remarks is None:
                raise node.error(f"parallel: false contradicts num_workers: {workers}")
            remarks.append(f"performance: parallel: false wins over num_workers: {workers}")
        workers = 1
    device = section.get("device", strict.Node.string, "cpu")
    if remarks is not None and _ACCELERATOR.fullmatch(device):
        device = known(device, remarks)
    performance = located(
        node,
        lambda: Performance(
            workers=workers,
            memory=section.get("memory", size, Performance.memory),
            tile=section.get("tile", size, None),
            drop_cache=section.get("drop_cache", strict.Node.boolean, False),
            device=device,
            device_memory=section.get("device_memory", size, Performance.device_memory),
            measure=section.get("measure", strict.Node.boolean, False),
        ),
    )
    section.reject_unknown()
    return performance
