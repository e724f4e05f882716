"""The JSON Schema of recipes (draft 2020-12), for editors: from the descriptions of options, and tables."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .. import schemes
from ..core.constraint import Constraint
from ..core.option import Declared, Option, options_of
from ..core.performance import Performance
from ..plan.options import OutputOptions, SourceOptions, TargetOptions
from ..stages import names
from ..stages.options import LoraOptions, QuantizeOptions
from ..stages.table import STAGES
from .sections import ALIASES, LoraWords, PerformanceWords, QuantizationWords, SourceWords, TargetWords

__all__ = ["schema"]

Schema = dict[str, Any]

_BOOLEAN = {"type": "boolean"}


def schema() -> Schema:
    """The schema, with the schemes, families and conventions that are known here."""
    sections = {
        "source": _object(SourceOptions, SourceWords),
        "steps": {"type": "array", "items": _step()},
        "quantization": _quantization(),
        "lora": _lora(),
        "target": _object(TargetOptions, TargetWords),
        "output": _object(OutputOptions, part="output"),
        "performance": _object(Performance, PerformanceWords),
        "version": {},
    }
    about = {
        "source": "What is read, and how it is opened.",
        "steps": "The stages, in order.",
        "quantization": "Instead of steps: how to quantize.",
        "lora": "Instead of steps: LoRAs to merge.",
        "target": "Who reads what is written, and how it is cut into files.",
        "output": "Where to write.",
        "performance": "How it is run: changes time and memory, never a byte of the output.",
        "version": "Of the form of a configuration, of which there is one.",
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Recipe of transcode",
        "type": "object",
        "properties": {
            name: {**_optional(one), "description": about[name]} for name, one in sections.items()
        },
        "additionalProperties": False,
        "allOf": [
            _not_both("steps", "quantization"),
            _not_both("steps", "lora"),
            {"not": {"required": ["steps", "version"], "properties": {"steps": _SAID}}},
            {
                "not": {
                    "required": ["steps", "performance"],
                    "properties": {"steps": _SAID, "performance": _AT_ODDS},
                }
            },
        ],
    }


_SAID: Schema = {"not": {"type": "null"}}
"""That a key is more than there: it holds something."""

_AT_ODDS: Schema = {
    "required": ["parallel", "num_workers"],
    "properties": {"parallel": {"const": False}, "num_workers": {"type": "integer", "minimum": 2}},
}
"""Performance of which one key says one worker and another one several."""


def _not_both(one: str, other: str) -> Schema:
    return {"not": {"required": [one, other], "properties": {one: _SAID, other: _SAID}}}


def _lora() -> Schema:
    """The section: one that is not enabled may name no file."""
    described = _object(LoraOptions, LoraWords)
    off = {"required": ["enabled"], "properties": {"enabled": {"const": False}}}
    named = {
        "required": described.pop("required"),
        "properties": {"paths": _given(described["properties"]["paths"])},
    }
    return {**described, "if": {"type": "object", "not": off}, "then": named}


def _step() -> Schema:
    return {
        "type": "object",
        "properties": {kind: _stage(kind, owner) for kind, (owner, _) in STAGES.items()},
        "additionalProperties": False,
        "minProperties": 1,
        "maxProperties": 1,
    }


def _stage(kind: str, owner: type[Declared]) -> Schema:
    options = options_of(owner)
    about = {"description": " ".join((owner.__doc__ or "").split())}
    forms = []
    if not owner.only_alone:
        described = _object(owner)
        if owner.any_of:
            given = described["properties"]
            described["anyOf"] = [
                {"required": [name], "properties": {name: _given(given[name])}} for name in owner.any_of
            ]
        if owner is QuantizeOptions:
            described["allOf"] = list(_of_schemes("scheme", ()))
        forms.append(described)
    if owner.alone:
        alone = options[owner.alone]
        whole = alone.kind.schema_alone(_words(alone))
        forms.append(_not_empty(whole) if alone.required else whole)
    if not owner.any_of and not any(option.required for option in options.values()):
        forms.append({"type": "null"})
    return {**(forms[0] if len(forms) == 1 else {"anyOf": forms}), **about}


def _object(*owners: type[Declared], part: str | None = None) -> Schema:
    """All options of some classes as one mapping."""
    properties: Schema = {}
    required: list[str] = []
    for owner in owners:
        for name, option in options_of(owner).items():
            if part is None or option.section == part:
                keys = _properties(name, option)
                if option.required and option.kind.repeats and LoraWords not in owners:  # which may be off
                    first = next(iter(keys))
                    keys[first] = _given(keys[first])
                properties |= keys
                if option.required and not option.kind.keys:
                    required += keys
                elif option.required:
                    required.append(option.kind.keys[0])
    described: Schema = {"type": "object", "properties": properties, "additionalProperties": False}
    return {**described, "required": required} if required else described


def _not_empty(described: Schema) -> Schema:
    """That lists and mappings hold something."""
    return {**described, "minItems": 1, "minProperties": 1}


def _given(described: Schema) -> Schema:
    return {**_not_empty(described), **_SAID}


def _without_required(described: Schema) -> Schema:
    return {key: value for key, value in described.items() if key != "required"}


def _properties(name: str, option: Option) -> Schema:
    """The keys under which an option stands."""
    described = option.kind.schema(_words(option))
    if option.most is not None:
        described = {**described, "maximum": option.most}
    if option.kind.keys:
        return described
    about: Schema = {"description": " ".join(filter(None, (option.key_help, option.about)))}
    if not option.required and option.default not in (None, ()):
        about["default"] = option.kind.plain(option.default)
    return {option.key or name: {**(described if option.required else _optional(described)), **about}}


def _optional(described: Schema) -> Schema:
    """Nothing may be written, too, which is as if the key were not there."""
    if "enum" in described:
        described = {**described, "enum": [*described["enum"], None]}
    if isinstance(described.get("type"), str):
        described = {**described, "type": [described["type"], "null"]}
    if "anyOf" in described:
        described = {**described, "anyOf": [*described["anyOf"], {"type": "null"}]}
    return described


def _words(option: Option) -> Schema:
    """What is said of the texts of an option."""
    if option.choices:
        return {"enum": list(option.choices)}
    return names.schema(option.names) if option.names else {}


def _of_schemes(key: str, more: Iterable[str]) -> Iterable[Schema]:
    """What ``options`` may hold beside some other keys, for each scheme that the key may name."""
    for name, scheme in schemes.SCHEMES.items():
        defaults = schemes.describe(name)[1]
        own = {option: _legal(legal, defaults[option]) for option, legal in scheme.options.items()}
        yield {
            "if": {"properties": {key: {"const": name}}, "required": [key]},
            "then": {
                "properties": {
                    "options": {
                        "type": ["object", "null"],
                        "properties": own,
                        "propertyNames": {"enum": [*own, *more]},
                    }
                }
            },
        }


def _legal(legal: Constraint, default: Any) -> Schema:
    plain = list(default) if isinstance(default, tuple) else default
    about = {"description": f"{legal.said[:1].upper()}{legal.said[1:]}.", "default": plain}
    return {"enum": list(legal.cases), **about} if legal.closed else about


def _quantization() -> Schema:
    """``{method, backend, options}``: among the options are the stage's own, and those of the scheme."""
    described = _without_required(_object(QuantizationWords))  # with backend alone it asks for nothing
    described["properties"]["method"] = _optional(described["properties"]["method"])
    stage = {
        key: value
        for name, option in options_of(QuantizeOptions).items()
        if name not in ("scheme", "options", "model")
        for key, value in _properties(name, option).items()
    }
    more = {
        **stage,
        **{alias: stage[name] for alias, name in ALIASES.items()},
        "per_channel": {**_BOOLEAN, "description": "A scale to each row, or one to the whole tensor."},
        "symmetric": {**_BOOLEAN, "description": "Without a zero point."},
    }
    described["properties"]["options"] = {
        "type": ["object", "null"],
        "properties": more,
        "description": "Options of the stage and of the scheme.",
    }
    nameless = {
        "type": "object",
        "required": ["options"],
        "properties": {"options": {"type": "object"}, "method": {"type": "null"}},
    }
    return {**described, "allOf": [*_of_schemes("method", more), {"not": nameless}]}
