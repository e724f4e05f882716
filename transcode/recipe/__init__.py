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

from typing import TYPE_CHECKING, Any

from .recipe import Recipe, SourceOptions, TargetOptions, dump, dump_config, whose

if TYPE_CHECKING:
    from .read import load, parse

__all__ = [
    "Recipe",
    "SourceOptions",
    "TargetOptions",
    "dump",
    "dump_config",
    "load",
    "parse",
    "whose",
]


def __getattr__(name: str) -> Any:
    # A command line says what a recipe would: nothing is read from YAML then.
    if name not in ("load", "parse"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import read

    return getattr(read, name)
