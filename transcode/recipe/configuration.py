"""Sections that only a configuration has, a recipe without ``steps``: ``quantization`` and ``lora``."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from .. import catalog, schemes
from ..catalog import strict
from ..core.flow import Transform
from ..stages.cast import Cast
from ..stages.quantize.stage import Quantize
from .nodes import located, pairs, strings
from .steps import lora_options
from .target import OWN, Target

__all__ = ["quantization_of", "with_lora"]

_SCALED = "comfyui_scaled"
"""The convention of fp8 files that every version of ComfyUI reads."""

_STAGE_TEXTS = ("keep_dtype", "on_nonfinite", "on_bad_shape")

_STAGE_OPTIONS = {
    "target_modules": "targets",
    "targets": "targets",
    "ignore_modules": "exclude",
    "exclude": "exclude",
    "include": "include",
    "overrides": "overrides",
}
"""Patterns among ``quantization.options``, and the fields of the stage that they are."""


def quantization_of(
    node: strict.Node, model: str | None, target: Target, remarks: list[str]
) -> tuple[list[Quantize], Target]:
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
        target = replace(target, convention=OWN)  # as Diffusers, which names plain tensors only
    if (described := section.find("options")) is not None:
        options = described.mapping()
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
                stage[attribute] = pairs(value) if attribute == "overrides" else strings(value)
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


def with_lora(node: strict.Node, steps: list[Transform]) -> list[Transform]:
    """A ``lora`` section: merged before anything that rounds; ``enabled: false`` leaves it out."""
    section = node.mapping()
    enabled = section.get("enabled", strict.Node.boolean, True)
    if not enabled and not section.get("paths", strings, ()):
        return steps
    step = located(node, lambda: lora_options(section))
    if not enabled:
        return steps
    rounding = (at for at, step in enumerate(steps) if isinstance(step, Cast | Quantize))
    at = next(rounding, len(steps))
    return [*steps[:at], step, *steps[at:]]
