"""Recipes: YAML to a flow and its sink, and back. The only parser of recipes.

A recipe says what a command line says::

    source: {path: Wan2.1-I2V-14B, type: wan_dit}
    steps:
      - drop: ["*.bias"]
      - quantize: {scheme: int8}
    target: {convention: lightx2v, layout: by_block}
    output: {path: out, copy_metadata: true}
    performance: {num_workers: 8, memory: 512MB}

Instead of ``steps``, sections ``lora`` and ``quantization`` may say what is done: a *configuration*, as
LightX2V's ``model_converter`` reads it. What such a configuration says by habit and means nothing here is a
warning of the plan; in a recipe with steps it is an error. Unknown keys are errors with file and line.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

import yaml

from . import catalog, schemes
from .catalog import strict
from .containers import table as containers
from .containers.source import open_source
from .core import arguments
from .core.flow import Chain, Flow, Transform
from .core.performance import Performance, parse_size
from .core.source import Whose
from .errors import RecipeError
from .execution.write import Write
from .plan.devices import known
from .plan.request import LAYOUTS
from .stages.calibrate import Calibrate
from .stages.cast import Cast
from .stages.convert import Convert
from .stages.dequantize import Dequantize
from .stages.lora.stage import Lora, LoraFile, parse_lora
from .stages.nunchaku.stage import Nunchaku
from .stages.quantize.stage import Quantize
from .stages.rename import Rename
from .stages.select import Drop, Keep

__all__ = ["STEPS", "Recipe", "SourceOptions", "TargetOptions", "dump", "load", "parse", "whose"]

T = TypeVar("T")

_STORED_AS = ("auto", "safetensors", "pytorch", "pth", "pt", "bin", "ckpt")
"""What ``source.type`` and ``source.format`` may say of the files; they are recognised by their content."""

_ACCELERATOR = re.compile(r"(cuda|npu|xpu|mps|mlu|musa|hpu|dcu)(:\d+)?")
"""What torch calls the devices of one vendor or another; a configuration is often made on another machine."""

_OWN = "lightx2v"
"""Spelling and convention of a configuration that names none."""


@dataclass(frozen=True)
class SourceOptions:
    """Where tensors come from, and how it is opened.

    Args:
        path: file or folder; None while a recipe is still being put together.
        root_key: which nested dictionary of a pickle holds the tensors.
        mmap: map files; else read them.
        convention: whose names and layouts its quantized tensors have; None to find it.
        scheme: their scheme, where the file leaves several possible.
    """

    path: str | None = None
    root_key: str | None = None
    mmap: bool = True
    convention: str | None = None
    scheme: str | None = None

    def config(self) -> dict[str, Any]:
        """The recipe's ``source`` section."""
        config: dict[str, Any] = {} if self.path is None else {"path": self.path}
        if self.root_key is not None:
            config["root_key"] = self.root_key
        if not self.mmap:
            config["mmap"] = False
        for key in ("convention", "scheme"):
            if (value := getattr(self, key)) is not None:
                config[key] = value
        return config


@dataclass(frozen=True)
class TargetOptions:
    """How to write, while it is not known where to. See :class:`.execution.write.Write`."""

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
        flow = Flow(source, whose=whose(self.source.convention, self.source.scheme)) | Chain(self.steps)
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


def whose(convention: str | None, scheme: str | None) -> Whose:
    """What a user says of how a source is quantized. Raises RecipeError for what is not known."""
    if convention is not None:
        catalog.convention(arguments.text("source: convention", convention))
    if scheme is not None:
        schemes.make(arguments.text("source: scheme", scheme))
    return Whose(convention, scheme)


def dump(recipe: Recipe, *, ascii_only: bool = False) -> str:
    """The recipe as YAML; :func:`parse` reads it back.

    Args:
        ascii_only: everything else is spelled as escapes.
    """
    return dump_config(recipe.config(), ascii_only=ascii_only)


def dump_config(config: Mapping[str, Any], *, ascii_only: bool = False) -> str:
    """What a recipe file holds, as YAML; see :func:`dump`."""
    return yaml.safe_dump(
        dict(config), sort_keys=False, default_flow_style=None, width=100, allow_unicode=not ascii_only
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
    remarks: list[str] | None = None if given is not None else []
    quantization = top.find("quantization")
    if remarks is None and quantization is not None:
        raise quantization.error("a recipe has either steps or a quantization section", "move it into steps")
    if remarks is not None:
        top.find("version")  # of the configuration's form, of which there is one
        if top.find("pipeline") is not None:
            raise top.key_error(
                "pipeline",
                "this is a configuration of DeepCompressor, not a recipe",
                "pass it to `transcode nunchaku convert` or `transcode meta embed` with --config-yaml",
            )
    steps = list(given or ())
    target = _Target()
    found = top.find("target")
    if found is not None:
        target, spelling = _target(found, spelling, model, lenient=remarks is not None)
    elif remarks is not None and spelling is not None:
        target = _Target(spelling=_OWN)
    if quantization is not None:
        assert remarks is not None
        said = remarks
        step, target = _located(quantization, lambda: _quantization(quantization, model, target, said))
        steps += step
    elif model is not None:
        steps = [replace(s, model=s.model or model) if isinstance(s, Quantize) else s for s in steps]
    steps = _with_conversion(found or node, steps, target, spelling, model)
    if found is not None:
        steps = _with_precision(found, steps, target, model)
    if (lora := top.find("lora")) is not None:
        if remarks is None:
            raise lora.error("a recipe has either steps or a lora section", "move it into steps")
        steps = _with_lora(lora, steps)
    if remarks is not None and target.convention is None and any(isinstance(s, Quantize) for s in steps):
        target = replace(target, convention=_OWN)  # as it is in any case, but now it is said
    performance = top.get("performance", lambda section: _performance(section, remarks), Performance())
    sink = None
    if (output := top.find("output")) is not None:
        sink = _located(output, lambda: _output(output, target, remarks))
    top.reject_unknown()
    known = TargetOptions() if sink is not None else target.options
    if sink is not None:
        sink = replace(sink, remarks=tuple(dict.fromkeys(remarks or ())), tolerant=remarks is not None)
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
    kind = section.get("variant", strict.Node.string, kind)  # model_converter's name of a narrower type
    model = None
    if kind not in _STORED_AS:
        model = _located(node, lambda: catalog.family(kind).name)
    options = SourceOptions(
        path=section.get("path", strict.Node.string, None),
        root_key=section.get("root_key", strict.Node.string, None),
        mmap=section.get("mmap", strict.Node.boolean, True),
        convention=section.get("convention", strict.Node.string, None),
        scheme=section.get("scheme", strict.Node.string, None),
    )
    _located(node, lambda: whose(options.convention, options.scheme))
    spelling = section.get("format", lambda found: _format(found, model), None)
    section.reject_unknown()
    return options, model, spelling


def _format(node: strict.Node, model: str | None) -> str | None:
    """A spelling of the family (of any, if it is not named), or a convention; None where it says how the
    files are stored, which they tell themselves.
    """
    if node.kind == "text" and node.string() in _STORED_AS:
        return None
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
    """``{paths, strengths, alphas, keys, prefix}``: one strength for all or one for each, alphas likewise; an
    alpha of 0 is none.
    """
    paths = section.get("paths", _strings, ())

    def each(key: str, default: float | None) -> list[float | None]:
        node = section.find(key)
        if node is None:
            return [default] * len(paths)
        if node.kind != "a list":
            return [node.number()] * len(paths)
        found = [default if child.is_null else child.number() for child in node.sequence()]
        if len(found) == 1:
            return found * len(paths)
        if len(found) != len(paths):
            raise node.error(f"has {len(found)} values for {len(paths)} paths", "give one for each")
        return found

    step = Lora(
        tuple(
            LoraFile(path, 1.0 if strength is None else strength, alpha or None)
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


def _quantization(
    node: strict.Node, model: str | None, target: _Target, remarks: list[str]
) -> tuple[list[Quantize], _Target]:
    """``{method, backend, options: {target_modules, per_channel, symmetric, ...}}`` as a stage.

    fp8 for ComfyUI is, in such a configuration, what every version of it reads: its scaled files, with one
    scale to a tensor.
    """
    section = node.mapping()
    if section.find("backend") is not None:
        remarks.append("quantization.backend does nothing: all of them give the same bytes; device chooses")
    if section.find("method") is None and section.find("options") is None:
        section.reject_unknown()
        return [], target
    method = section.need("method").string()
    step = Quantize(method, model=model)
    if target.spelling == "comfyui" and method == "fp8":
        target = replace(target, convention=_SCALED, spelling=_SCALED)
        remarks.append(
            f"target.format comfyui with fp8 means {_SCALED}, one scale to a tensor;"
            " its newer layout is target.convention: comfyui"
        )
    named = target.convention
    if named is not None and named == target.spelling and not catalog.convention(named).schemes:
        target = replace(target, convention=_OWN)  # as Diffusers, which names plain tensors only
    if (found := section.find("options")) is not None:
        options = found.mapping()
        scheme: dict[str, Any] = {}
        choices = schemes.describe(method)[1] if method in schemes.SCHEMES else {}

        def idle(key: str, option: str) -> bool:
            """Whether a key states what is so in any case: true, where the scheme has no such choice."""
            child = options.find(key)
            fixed = bool(choices) and option not in choices
            if child is None or not (fixed or (key == "per_channel" and target.convention == _SCALED)):
                return False
            if not child.boolean() and fixed:
                raise child.error(f"{method} has no choice of {option}", "leave it out")
            if not child.boolean():
                return False
            remarks.append(f"quantization.options.{key} does nothing: {method} has no such choice here")
            return True

        per_channel = None
        if not idle("per_channel", "granularity"):
            per_channel = options.get("per_channel", strict.Node.boolean, None)
        if per_channel is not None:
            scheme["granularity"] = "channel" if per_channel else "tensor"
        symmetric = idle("symmetric", "symmetric")
        stage: dict[str, Any] = {}
        for key, attribute in _STAGE_OPTIONS.items():
            if (value := options.find(key)) is not None:
                stage[attribute] = _pairs(value) if attribute == "overrides" else _strings(value)
        for key in _STAGE_TEXTS:
            if (value := options.find(key)) is not None:
                stage[key] = value.string()
        if "overrides" not in stage:
            stage["overrides"] = ()
        known = {"per_channel", *_STAGE_OPTIONS, *_STAGE_TEXTS, *(["symmetric"] if symmetric else [])}
        for key, child in options.items():
            if key not in known:
                if key in scheme:
                    raise child.error("contradicts per_channel", "say one of them")
                scheme[key] = child.plain()
        step = replace(step, options=tuple(scheme.items()), **stage)
    section.reject_unknown()
    return [step], target


_SCALED = "comfyui_scaled"

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


def _target(
    node: strict.Node, source_format: str | None, model: str | None, *, lenient: bool
) -> tuple[_Target, str | None]:
    """How to write, and the spelling of the source: where a configuration names only the other one, ours."""
    section = node.mapping()
    convention = section.get("convention", strict.Node.string, None)
    spelling = None
    if (form := section.find("format")) is not None:
        # A format names the spelling of an architecture, the convention of a consumer, or both.
        spelling = form.string()
        if lenient and source_format is None and spelling != _OWN and _spells(spelling, model):
            source_format = _OWN
        if convention is None and spelling in catalog.conventions():
            convention = spelling
        elif source_format is None and spelling not in catalog.conventions():
            raise form.error(f"unknown format {spelling!r}", "say source.format too, if it is a spelling")
    elif lenient and source_format is not None:
        spelling = _OWN
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
    return target, source_format


def _spells(form: str, model: str | None) -> bool:
    """Whether a format is another spelling of the family, or of any, which is spelled as ours too."""
    names = [model] if model is not None else catalog.families()
    return any({form, _OWN} <= {*catalog.family(name).spellings} for name in names)


def _with_conversion(
    node: strict.Node, steps: list[Transform], target: _Target, spelling: str | None, model: str | None
) -> list[Transform]:
    """Formats of source and target that differ are a conversion, before all other steps."""
    if spelling is None or target.spelling is None or spelling == target.spelling:
        return steps
    if target.spelling in catalog.conventions() and not _spells(target.spelling, None):
        return steps  # a consumer that spells architectures as everybody does
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


def _output(node: strict.Node, target: _Target, remarks: list[str] | None) -> Write:
    section = node.mapping()
    metadata = section.get("metadata", _pairs, ())
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
        told = "copy_metadata does nothing for a single file: side files are written into a folder"
        if remarks is None:
            raise section.need("copy_metadata").error(told, "name a folder, or leave it out")
        remarks.append(f"output.{told}")
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
    workers = section.get("num_workers", lambda found: found.integer(1), None)
    if not section.get("parallel", strict.Node.boolean, True):
        if workers not in (None, 1):
            if remarks is None:
                raise node.error(f"parallel: false contradicts num_workers: {workers}")
            remarks.append(f"performance: parallel: false wins over num_workers: {workers}")
        workers = 1
    device = section.get("device", strict.Node.string, "cpu")
    if remarks is not None and _ACCELERATOR.fullmatch(device):
        device = known(device, remarks)
    made = _located(
        node,
        lambda: Performance(
            workers=workers,
            memory=section.get("memory", _size, Performance.memory),
            tile=section.get("tile", _size, None),
            drop_cache=section.get("drop_cache", strict.Node.boolean, False),
            device=device,
            device_memory=section.get("device_memory", _size, Performance.device_memory),
            measure=section.get("measure", strict.Node.boolean, False),
        ),
    )
    section.reject_unknown()
    return made
