"""All stages by name, and where they are: loaded when they are needed."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, cast

from ..core.option import Declared
from . import options

if TYPE_CHECKING:
    from ..core.flow import Transform

__all__ = ["ORDER", "STAGES", "stage"]

STAGES: dict[str, tuple[type[Declared], str]] = {
    "quantize": (options.QuantizeOptions, "quantize.stage"),
    "cast": (options.CastOptions, "cast"),
    "requantize": (options.RequantizeOptions, "quantize.again"),
    "dequantize": (options.DequantizeOptions, "dequantize"),
    "lora": (options.LoraOptions, "lora.stage"),
    "convert": (options.ConvertOptions, "convert"),
    "rename": (options.RenameOptions, "rename"),
    "component": (options.ComponentOptions, "component"),
    "keep": (options.KeepOptions, "select"),
    "drop": (options.DropOptions, "select"),
    "calibrate": (options.CalibrateOptions, "calibrate"),
    "nunchaku": (options.NunchakuOptions, "nunchaku.stage"),
}
"""The options of each stage, and the module of the stage; the most used first, as help texts show them."""

ORDER = (
    "component",
    "keep",
    "drop",
    "dequantize",
    "rename",
    "convert",
    "lora",
    "cast",
    "quantize",
    "requantize",
    "calibrate",
)
"""In which ``transcode run`` puts them one after another."""


def stage(kind: str) -> type[Transform]:
    """The class of a stage."""
    described, module = STAGES[kind]
    found = getattr(import_module(f"{__package__}.{module}"), described.__name__.removesuffix("Options"))
    return cast("type[Transform]", found)
