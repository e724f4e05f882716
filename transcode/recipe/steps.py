"""Steps of a recipe: a row of stages, each with its options."""

from __future__ import annotations

from ..catalog import strict
from ..core.flow import Transform
from ..core.nearest import guess
from ..stages.table import STAGES, stage
from .nodes import located, section_of

__all__ = ["steps_of"]


def steps_of(node: strict.Node) -> list[Transform]:
    """The stages of a list, each a mapping of one name to options."""
    steps = []
    for item in node.sequence():
        pairs = item.mapping().items()
        if len(pairs) != 1:
            raise item.error("a step is one name with its options", 'write "- quantize: {scheme: int8}"')
        (kind, options), *_ = pairs
        if kind not in STAGES:
            raise item.error(f"unknown step {kind!r}", f"use one of {', '.join(STAGES)}{guess(kind, STAGES)}")
        steps.append(_step(kind, options))
    return steps


def _step(kind: str, node: strict.Node) -> Transform:
    step = stage(kind)
    return located(node, lambda: step(**section_of(node, STAGES[kind][0])))
