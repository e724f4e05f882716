"""Sections that only a configuration has, a recipe without ``steps``: ``quantization`` and ``lora``."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from .. import catalog, schemes
from ..catalog import strict
from ..core.flow import Transform
from ..core.kinds import TEXTS
from ..core.option import options_of
from ..stages.cast import Cast
from ..stages.lora.stage import Lora
from ..stages.quantize.stage import Quantize
from .nodes import fields_of, located, read
from .sections import ALIASES, LoraWords, QuantizationWords
from .target import OWN, Target

__all__ = ["quantization_of", "with_lora"]

_SCALED = "comfyui_scaled"
"""The convention of fp8 files that every version of ComfyUI reads."""

_ELSEWHERE = ("scheme", "options", "model")
"""Fields of the stage that other keys say."""


def quantization_of(
    node: strict.Node, model: str | None, target: Target, remarks: list[str]
) -> tuple[list[Quantize], Target]:
    """``{method, backend, options: {target_modules, per_channel, symmetric, ...}}`` as a stage.

    fp8 for ComfyUI is, in such a configuration, what every version of it reads: its scaled files, with one
    scale to a tensor.
    """
    section = node.mapping()
    words = fields_of(section, QuantizationWords, without=("method",))
    if "backend" in words:
        remarks.append("quantization.backend does nothing: all of them give the same bytes; device chooses")
    if section.find("method") is None and section.find("options") is None:
        section.reject_unknown()
        return [], target
    method = fields_of(section, QuantizationWords)["method"]
    step = Quantize(method, model=model)
    if target.spelling == "comfyui" and method == "fp8":
        target = replace(target, convention=_SCALED, spelling=_SCALED)
        remarks.append(
            f"target.format comfyui with fp8 means {_SCALED}, one scale to a tensor;"
            " its newer layout is target.convention: comfyui"
        )
    named = target.convention
    if named is not None and named == target.spelling and not catalog.convention(named).schemes:
        target = replace(target, convention=OWN)  # as Diffusers, which names plain tensors only
    if (described := section.find("options")) is not None:
        options = described.mapping()
        scheme: dict[str, Any] = {}
        declared = {name: one for name, one in options_of(Quantize).items() if name not in _ELSEWHERE}
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
        stage = {"overrides": (), **fields_of(options, Quantize, without=_ELSEWHERE)}
        for alias, name in ALIASES.items():
            if (value := options.find(alias)) is not None:
                if options.find(name) is not None:
                    raise value.error(f"says what {name} says", "say one of them")
                stage[name] = read(declared[name], value)
        known = {"per_channel", *ALIASES, *declared, *(["symmetric"] if symmetric else [])}
        for key, child in options.items():
            if key not in known:
                if key in scheme:
                    raise child.error("contradicts per_channel", "say one of them")
                scheme[key] = child.plain()
        step = replace(step, options=tuple(scheme.items()), **stage)
    section.reject_unknown()
    return [step], target


def with_lora(node: strict.Node, steps: list[Transform]) -> list[Transform]:
    """A ``lora`` section: merged before anything that rounds; ``enabled: false`` leaves it out."""
    section = node.mapping()
    enabled = fields_of(section, LoraWords).get("enabled", LoraWords.enabled)
    if not enabled and not section.get("paths", TEXTS.read, ()):
        fields_of(section, Lora)  # nothing is said wrongly for all that
        section.reject_unknown()
        return steps
    step = located(node, lambda: _lora(section))
    if not enabled:
        return steps
    rounding = (at for at, step in enumerate(steps) if isinstance(step, Cast | Quantize))
    at = next(rounding, len(steps))
    return [*steps[:at], step, *steps[at:]]


def _lora(section: strict.Mapping) -> Lora:
    step = Lora(**fields_of(section, Lora))
    section.reject_unknown()
    return step
