"""Steps of a recipe: a row of stages, each with its options."""

from __future__ import annotations

from collections.abc import Callable

from ..catalog import strict
from ..core.flow import Transform
from ..stages.calibrate import Calibrate
from ..stages.cast import Cast
from ..stages.convert import Convert
from ..stages.dequantize import Dequantize
from ..stages.lora.stage import Lora, LoraFile, parse_lora
from ..stages.nunchaku.stage import Nunchaku
from ..stages.quantize.stage import Quantize
from ..stages.rename import Rename
from ..stages.select import Drop, Keep
from .nodes import groups, located, pairs, strings

__all__ = ["STEPS", "lora_options", "steps_of"]


def steps_of(node: strict.Node) -> list[Transform]:
    """The stages of a list, each a mapping of one name to options."""
    steps = []
    for item in node.sequence():
        pairs = item.mapping().items()
        if len(pairs) != 1:
            raise item.error("a step is one name with its options", 'write "- quantize: {scheme: int8}"')
        (kind, options), *_ = pairs
        if kind not in STEPS:
            raise item.error(f"unknown step {kind!r}", f"use one of {', '.join(STEPS)}")
        make = STEPS[kind]
        steps.append(located(options, lambda make=make, options=options: make(options)))  # type: ignore[misc]
    return steps


def _rename(node: strict.Node) -> Rename:
    section = node.mapping()
    step = Rename(section.get("rules", pairs, ()), section.get("names", pairs, ()))
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
        section.get("only", strings, ()),
        section.get("saturate", strict.Node.boolean, False),
        section.get("dtypes", strings, ()),
    )
    section.reject_unknown()
    return step


def _lora(node: strict.Node) -> Lora:
    if node.kind == "text":
        return Lora((parse_lora(node.string()),))
    if node.kind == "a list":
        return Lora(tuple(map(parse_lora, node.strings())))
    return lora_options(node.mapping())


def lora_options(section: strict.Mapping) -> Lora:
    """``{paths, strengths, alphas, keys, prefix}``: one strength for all or one for each, alphas likewise; an
    alpha of 0 is none.
    """
    paths = section.get("paths", strings, ())

    def each(key: str, default: float | None) -> list[float | None]:
        node = section.find(key)
        if node is None:
            return [default] * len(paths)
        if node.kind != "a list":
            return [node.number()] * len(paths)
        values = [default if child.is_null else child.number() for child in node.sequence()]
        if len(values) == 1:
            return values * len(paths)
        if len(values) != len(paths):
            raise node.error(f"has {len(values)} values for {len(paths)} paths", "give one for each")
        return values

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


def _dequantize(node: strict.Node) -> Dequantize:
    if node.is_null:
        return Dequantize()
    section = node.mapping()
    step = Dequantize(
        section.get("to", strict.Node.string, Dequantize.to),
        section.get("convention", strict.Node.string, None),
        section.get("only", strings, ()),
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
        options=section.get("options", lambda child: tuple(child.mapping().node.plain().items()), ()),
        model=section.get("model", strict.Node.string, None),
        targets=section.get("targets", strings, ()),
        include=section.get("include", strings, ()),
        exclude=section.get("exclude", strings, ()),
        overrides=section.get("overrides", pairs, ()),
        keep_dtype=section.get("keep_dtype", strict.Node.string, None),
        on_nonfinite=section.get("on_nonfinite", strict.Node.string, "error"),
        on_bad_shape=section.get("on_bad_shape", strict.Node.string, "keep"),
        share_scale=section.get("share_scale", groups, ()),
    )
    section.reject_unknown()
    return step


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
    "keep": lambda node: Keep(strings(node)),
    "drop": lambda node: Drop(strings(node)),
    "convert": _convert,
    "lora": _lora,
    "cast": _cast,
    "dequantize": _dequantize,
    "quantize": _quantize,
    "calibrate": _calibrate,
    "nunchaku": _nunchaku,
}
"""How each stage reads its options."""
