"""Recipes: YAML to a flow and its sink, and back. The only parser of recipes.

A recipe says what a command line says::

    source: {path: Wan2.1-I2V-14B, type: wan_dit}
    steps:
      - drop: ["*.bias"]
      - quantize: {scheme: int8}
    target: {convention: lightx2v, layout: by_block}
    output: {path: out, copy_metadata: true}
    performance: {num_workers: 8, memory: 512MB}

Instead of ``steps``, a ``quantization`` section may say ``method`` and ``options``. Unknown keys are errors
with file and line.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

import yaml

from . import catalog
from .catalog import strict
from .core.flow import Chain, Flow, Transform
from .core.performance import Performance, parse_size
from .errors import RecipeError
from .storage.source import open_source
from .transforms.calibrate import Calibrate
from .transforms.cast import Cast
from .transforms.convert import Convert
from .transforms.dequantize import Dequantize
from .transforms.lora import Lora, LoraFile, parse_lora
from .transforms.nunchaku import Nunchaku
from .transforms.quantize import Quantize
from .transforms.rename import Rename
from .transforms.select import Drop, Keep
from .transforms.write import LAYOUTS, Write

__all__ = ["STEPS", "Recipe", "SourceOptions", "TargetOptions", "dump", "load", "parse"]

T = TypeVar("T")

_STORED_AS = ("auto", "safetensors", "pytorch")


@dataclass(frozen=True)
class SourceOptions:
    """Where tensors come from, and how it is opened.

    Args:
        path: file or folder; None while a recipe is still being put together.
        root_key: which nested dictionary of a pickle holds the tensors.
        mmap: map files; else read them.
    """

    path: str | None = None
    root_key: str | None = None
    mmap: bool = True

    def config(self) -> dict[str, Any]:
        """The recipe's ``source`` section."""
        config: dict[str, Any] = {} if self.path is None else {"path": self.path}
        if self.root_key is not None:
            config["root_key"] = self.root_key
        if not self.mmap:
            config["mmap"] = False
        return config


@dataclass(frozen=True)
class TargetOptions:
    """How to write, while it is not known where to. See :class:`.transforms.write.Write`."""

    convention: str | None = None
    layout: str | None = None
    max_shard_size: int | None = None
    max_tensors: int | None = None

    def config(self) -> dict[str, Any]:
        """The recipe's ``target`` section."""
        return {key: value for key, value in vars(self).items() if value is not None}


@dataclass(frozen=True)
class Recipe:
    """What to do, before it meets a source.

    Attributes:
        source: what is read.
        steps: the stages, in order.
        sink: what is written; None while a recipe is still being put together.
        performance: how it is run.
        target: what is known of a sink that is still to come.
    """

    source: SourceOptions = SourceOptions()
    steps: tuple[Transform, ...] = ()
    sink: Write | None = None
    performance: Performance = field(default_factory=Performance)
    target: TargetOptions = TargetOptions()

    def then(self, *steps: Transform) -> Recipe:
        """The recipe with more stages."""
        return replace(self, steps=self.steps + steps)

    def flow(self) -> Flow:
        """Open the source and join the stages: reads headers only.

        Raises:
            RecipeError: there is no source yet.
            TranscodeError: the source cannot be read.
        """
        if self.source.path is None:
            raise RecipeError("no source", hint="name the file or folder to read")
        source = open_source(
            self.source.path,
            root_key=self.source.root_key,
            mmap=self.source.mmap,
            drop_cache=self.performance.drop_cache,
        )
        flow = Flow(source) | Chain(self.steps)
        assert isinstance(flow, Flow)
        return flow

    def write(self) -> Write:
        """The sink, with the performance options. Raises RecipeError where there is none yet."""
        if self.sink is None:
            raise RecipeError("no destination", hint="name the file or folder to write")
        return replace(self.sink, performance=self.performance)

    def config(self) -> dict[str, Any]:
        """The recipe as JSON."""
        config: dict[str, Any] = {}
        if source := self.source.config():
            config["source"] = source
        config["steps"] = [{step.kind: step.config()} for step in self.steps]
        if self.sink is not None:
            config |= self.sink.config()
        elif target := self.target.config():
            config["target"] = target
        if performance := self.performance.config():
            config["performance"] = performance
        return config


def dump(recipe: Recipe) -> str:
    """The recipe as YAML; :func:`parse` reads it back."""
    return yaml.safe_dump(
        recipe.config(), sort_keys=False, default_flow_style=None, width=100, allow_unicode=True
    )


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
    given = top.get("steps", _steps, None)
    quantization = top.find("quantization")
    if given is not None and quantization is not None:
        raise quantization.error("a recipe has either steps or a quantization section", "move it into steps")
    steps = list(given or ())
    if quantization is not None:
        steps.append(_located(quantization, lambda: _quantization(quantization, model)))
    elif model is not None:
        steps = [replace(s, model=s.model or model) if isinstance(s, Quantize) else s for s in steps]
    target = _Target()
    if (found := top.find("target")) is not None:
        target = _target(found, spelling)
        steps = _with_conversion(found, steps, target, spelling, model)
        steps = _with_precision(found, steps, target, model)
    if (found := top.find("lora")) is not None:
        if given is not None:
            raise found.error("a recipe has either steps or a lora section", "move it into steps")
        steps = _with_lora(found, steps)
    performance = top.get("performance", _performance, Performance())
    sink = None
    if (output := top.find("output")) is not None:
        sink = _located(output, lambda: _output(output, target))
    top.reject_unknown()
    known = TargetOptions() if sink is not None else target.options
    return Recipe(source, tuple(steps), sink, performance, known)


def _located(node: strict.Node, make: Callable[[], T]) -> T:
    """Add file and line to what the maker of a stage complains of."""
    try:
        return make()
    except RecipeError as error:
        if error.file is not None:
            raise
        raise node.error(error.what, error.hint) from None


def _source(node: strict.Node) -> tuple[SourceOptions, str | None, str | None]:
    section = node.mapping()
    kind = section.get("type", strict.Node.string, "auto")
    model = None
    if kind not in _STORED_AS:
        model = _located(node, lambda: catalog.family(kind).name)
    options = SourceOptions(
        path=section.get("path", strict.Node.string, None),
        root_key=section.get("root_key", strict.Node.string, None),
        mmap=section.get("mmap", strict.Node.boolean, True),
    )
    spelling = section.get("format", lambda found: _format(found, model), None)
    section.reject_unknown()
    return options, model, spelling


def _format(node: strict.Node, model: str | None) -> str:
    """A spelling of the family (of any, if it is not named), or a convention."""
    families = [model] if model is not None else catalog.families()
    spellings = [one for name in families for one in catalog.family(name).spellings]
    return node.choice(list(dict.fromkeys([*spellings, *catalog.conventions()])))


def _steps(node: strict.Node) -> list[Transform]:
    steps = []
    for item in node.sequence():
        pairs = item.mapping().items()
        if len(pairs) != 1:
            raise item.error("a step is one name with its options", 'write "- quantize: {scheme: int8}"')
        (kind, options), *_ = pairs
        if kind not in STEPS:
            raise item.error(f"unknown step {kind!r}", f"use one of {', '.join(STEPS)}")
        make = STEPS[kind]
        steps.append(_located(options, lambda make=make, options=options: make(options)))  # type: ignore[misc]
    return steps


def _pairs(node: strict.Node) -> tuple[tuple[str, str], ...]:
    """A list of two-element lists, or a mapping."""
    if node.kind == "a mapping":
        return tuple((key, value.text()) for key, value in node.mapping().items())
    pairs = []
    for item in node.sequence():
        both = [child.text() for child in item.sequence()]
        if len(both) != 2:
            raise item.error(f"must be a pair, has {len(both)} elements")
        pairs.append((both[0], both[1]))
    return tuple(pairs)


def _strings(node: strict.Node) -> tuple[str, ...]:
    """A list of texts, or one text."""
    return (node.text(),) if node.kind not in ("a list", "a mapping") else tuple(node.strings())


def _rename(node: strict.Node) -> Rename:
    section = node.mapping()
    step = Rename(section.get("rules", _pairs, ()), section.get("names", _pairs, ()))
    section.reject_unknown()
    return step


def _convert(node: strict.Node) -> Convert:
    if node.kind == "text":
        return Convert(node.string())
    section = node.mapping()
    step = Convert(
        section.need("to").string(),
        section.get("source", strict.Node.string, None),
        section.get("model", strict.Node.string, None),
    )
    section.reject_unknown()
    return step


def _cast(node: strict.Node) -> Cast:
    if node.kind == "text":
        return Cast(node.string())
    section = node.mapping()
    step = Cast(
        section.need("to").string(),
        section.get("only", _strings, ()),
        section.get("saturate", strict.Node.boolean, False),
        section.get("dtypes", _strings, ()),
    )
    section.reject_unknown()
    return step


def _lora(node: strict.Node) -> Lora:
    if node.kind == "text":
        return Lora((parse_lora(node.string()),))
    if node.kind == "a list":
        return Lora(tuple(map(parse_lora, node.strings())))
    return _lora_options(node.mapping())


def _lora_options(section: strict.Mapping) -> Lora:
    """``{paths, strengths, alphas, keys, prefix}``: one strength for all or one for each, alphas likewise."""
    paths = section.get("paths", _strings, ())

    def each(key: str, default: float | None) -> list[float | None]:
        node = section.find(key)
        if node is None:
            return [default] * len(paths)
        if node.kind != "a list":
            return [node.number()] * len(paths)
        found = [default if child.is_null else child.number() for child in node.sequence()]
        if len(found) != len(paths):
            raise node.error(f"has {len(found)} values for {len(paths)} paths", "give one for each")
        return found

    step = Lora(
        tuple(
            LoraFile(path, 1.0 if strength is None else strength, alpha)
            for path, strength, alpha in zip(paths, each("strengths", 1.0), each("alphas", None), strict=True)
        ),
        section.get("keys", strict.Node.string, "auto"),
        section.get("prefix", strict.Node.string, None),
    )
    section.reject_unknown()
    return step


def _with_lora(node: strict.Node, steps: list[Transform]) -> list[Transform]:
    """A ``lora`` section: merged before anything that rounds; ``enabled: false`` leaves it out."""
    section = node.mapping()
    enabled = section.get("enabled", strict.Node.boolean, True)
    if not enabled and not section.get("paths", _strings, ()):
        return steps
    step = _located(node, lambda: _lora_options(section))
    if not enabled:
        return steps
    rounding = (at for at, one in enumerate(steps) if isinstance(one, Cast | Quantize))
    at = next(rounding, len(steps))
    return [*steps[:at], step, *steps[at:]]


def _dequantize(node: strict.Node) -> Dequantize:
    if node.is_null:
        return Dequantize()
    section = node.mapping()
    step = Dequantize(
        section.get("to", strict.Node.string, Dequantize.to),
        section.get("convention", strict.Node.string, None),
        section.get("only", _strings, ()),
        section.get("scheme", strict.Node.string, None),
        section.get("on_nonfinite", strict.Node.string, Dequantize.on_nonfinite),
    )
    section.reject_unknown()
    return step


def _quantize(node: strict.Node) -> Quantize:
    if node.kind == "text":
        return Quantize(node.string())
    section = node.mapping()
    step = Quantize(
        scheme=section.need("scheme").string(),
        options=section.get("options", lambda found: tuple(found.mapping().node.plain().items()), ()),
        model=section.get("model", strict.Node.string, None),
        targets=section.get("targets", _strings, ()),
        include=section.get("include", _strings, ()),
        exclude=section.get("exclude", _strings, ()),
        overrides=section.get("overrides", _pairs, ()),
        keep_dtype=section.get("keep_dtype", strict.Node.string, None),
        on_nonfinite=section.get("on_nonfinite", strict.Node.string, "error"),
        on_bad_shape=section.get("on_bad_shape", strict.Node.string, "keep"),
        share_scale=section.get("share_scale", _groups, ()),
    )
    section.reject_unknown()
    return step


def _groups(node: strict.Node) -> tuple[tuple[str, ...], ...]:
    """A list of lists of texts."""
    return tuple(tuple(item.strings()) for item in node.sequence())


def _calibrate(node: strict.Node) -> Calibrate:
    section = node.mapping()
    step = Calibrate(
        section.need("path").string(), section.get("keep_global_scale", strict.Node.boolean, True)
    )
    section.reject_unknown()
    return step


def _nunchaku(node: strict.Node) -> Nunchaku:
    if node.is_null:
        return Nunchaku()
    section = node.mapping()
    step = Nunchaku(
        section.get("float_point", strict.Node.boolean, Nunchaku.float_point),
        section.get("model", strict.Node.string, Nunchaku.model),
    )
    section.reject_unknown()
    return step


STEPS: dict[str, Callable[[strict.Node], Transform]] = {
    "rename": _rename,
    "keep": lambda node: Keep(_strings(node)),
    "drop": lambda node: Drop(_strings(node)),
    "convert": _convert,
    "lora": _lora,
    "cast": _cast,
    "dequantize": _dequantize,
    "quantize": _quantize,
    "calibrate": _calibrate,
    "nunchaku": _nunchaku,
}
"""How each stage reads its options."""


def _quantization(node: strict.Node, model: str | None) -> Quantize:
    """``{method, options: {target_modules, per_channel, symmetric, ...}}`` as a stage."""
    section = node.mapping()
    method = section.need("method").string()
    step = Quantize(method, model=model)
    if (found := section.find("options")) is not None:
        options = found.mapping()
        scheme: dict[str, Any] = {}
        per_channel = options.get("per_channel", strict.Node.boolean, None)
        if per_channel is not None:
            scheme["granularity"] = "channel" if per_channel else "tensor"
        stage: dict[str, Any] = {}
        for key, attribute in _STAGE_OPTIONS.items():
            if (value := options.find(key)) is not None:
                stage[attribute] = _pairs(value) if attribute == "overrides" else _strings(value)
        for key in _STAGE_TEXTS:
            if (value := options.find(key)) is not None:
                stage[key] = value.string()
        if "overrides" not in stage:
            stage["overrides"] = ()
        known = {"per_channel", *_STAGE_OPTIONS, *_STAGE_TEXTS}
        for key, child in options.items():
            if key not in known:
                if key in scheme:
                    raise child.error("contradicts per_channel", "say one of them")
                scheme[key] = child.plain()
        step = replace(step, options=tuple(scheme.items()), **stage)
    section.reject_unknown()
    return step


_STAGE_TEXTS = ("keep_dtype", "on_nonfinite", "on_bad_shape")

_STAGE_OPTIONS = {
    "target_modules": "targets",
    "targets": "targets",
    "ignore_modules": "exclude",
    "exclude": "exclude",
    "include": "include",
    "overrides": "overrides",
}


@dataclass(frozen=True)
class _Target:
    spelling: str | None = None
    convention: str | None = None
    precision: str | None = None
    layout: str | None = None
    max_shard_size: int | None = None
    max_tensors: int | None = None

    @property
    def options(self) -> TargetOptions:
        return TargetOptions(self.convention, self.layout, self.max_shard_size, self.max_tensors)


def _target(node: strict.Node, source_format: str | None) -> _Target:
    section = node.mapping()
    convention = section.get("convention", strict.Node.string, None)
    spelling = None
    if (form := section.find("format")) is not None:
        # A format names the spelling of an architecture, the convention of a consumer, or both.
        spelling = form.string()
        if convention is None and spelling in catalog.conventions():
            convention = spelling
        elif source_format is None and spelling not in catalog.conventions():
            raise form.error(f"unknown format {spelling!r}", "say source.format too, if it is a spelling")
    if convention is not None:
        named = convention
        _located(node, lambda: catalog.convention(named))
    target = _Target(
        spelling=spelling,
        convention=convention,
        precision=section.get("precision", strict.Node.string, None),
        layout=section.get("layout", lambda found: found.choice(LAYOUTS), None),
        max_shard_size=section.get("max_shard_size", _size, None),
        max_tensors=section.get("max_tensors", lambda found: found.integer(1), None),
    )
    section.reject_unknown()
    return target


def _with_conversion(
    node: strict.Node, steps: list[Transform], target: _Target, spelling: str | None, model: str | None
) -> list[Transform]:
    """Formats of source and target that differ are a conversion, before all other steps."""
    if spelling is None or target.spelling is None or spelling == target.spelling:
        return steps
    to = target.spelling
    return [_located(node, lambda: Convert(to, spelling, model)), *steps]


def _with_precision(
    node: strict.Node, steps: list[Transform], target: _Target, model: str | None
) -> list[Transform]:
    """``target.precision`` names the scheme or dtype of the output; where a stage says it too, they agree."""
    if target.precision is None:
        return steps
    wanted = target.precision
    for step in steps:
        if isinstance(step, Quantize):
            if step.scheme != wanted:
                raise node.error(f"precision {wanted!r} contradicts the quantization to {step.scheme!r}")
            return steps
    try:
        return [*steps, Cast(wanted)]
    except RecipeError:
        return [*steps, _located(node, lambda: Quantize(wanted, model=model))]


def _size(node: strict.Node) -> int:
    return _located(node, lambda: parse_size(node.text()))


def _output(node: strict.Node, target: _Target) -> Write:
    section = node.mapping()
    metadata = section.get("metadata", _pairs, ())
    write = Write(
        dst=section.need("path").string(),
        layout=target.layout,
        convention=target.convention,
        max_shard_size=target.max_shard_size,
        max_tensors=target.max_tensors,
        name=section.get("name", strict.Node.string, None),
        copy_metadata=section.get("copy_metadata", strict.Node.boolean, True),
        metadata=metadata,
        force=section.get("force", strict.Node.boolean, False),
        allow_unmatched=section.get("allow_unmatched", strict.Node.boolean, False),
    )
    section.reject_unknown()
    return write


def _performance(node: strict.Node) -> Performance:
    section = node.mapping()
    workers = section.get("num_workers", lambda found: found.integer(1), None)
    if not section.get("parallel", strict.Node.boolean, True):
        if workers not in (None, 1):
            raise node.error(f"parallel: false contradicts num_workers: {workers}")
        workers = 1
    made = _located(
        node,
        lambda: Performance(
            workers=workers,
            memory=section.get("memory", _size, Performance.memory),
            tile=section.get("tile", _size, None),
            drop_cache=section.get("drop_cache", strict.Node.boolean, False),
            device=section.get("device", strict.Node.string, "cpu"),
            device_memory=section.get("device_memory", _size, Performance.device_memory),
            measure=section.get("measure", strict.Node.boolean, False),
        ),
    )
    section.reject_unknown()
    return made
