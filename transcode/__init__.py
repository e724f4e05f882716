"""A streaming transcoder for model checkpoints.

>>> import transcode as tc                                                  # doctest: +SKIP
>>> tc.open("model.safetensors") | tc.quantize("int8") | tc.write("out")    # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from . import meta
    from .api import (
        calibrate,
        cast,
        convert,
        dequantize,
        drop,
        join,
        keep,
        load,
        lora,
        nunchaku,
        open,
        quantize,
        rename,
        requantize,
        run,
        write,
    )
    from .core.flow import Flow
    from .core.tensor import LazyTensor
    from .errors import DataError, FormatError, PlanError, RecipeError, TranscodeError
    from .inspection import Inspection, inspect
    from .verification import Verification, verify

__all__ = [
    "DataError",
    "Flow",
    "FormatError",
    "Inspection",
    "LazyTensor",
    "PlanError",
    "RecipeError",
    "TranscodeError",
    "Verification",
    "calibrate",
    "cast",
    "component",
    "convert",
    "dequantize",
    "drop",
    "inspect",
    "join",
    "keep",
    "load",
    "lora",
    "meta",
    "nunchaku",
    "open",
    "quantize",
    "rename",
    "requantize",
    "run",
    "verify",
    "write",
]

_ERRORS = ("DataError", "FormatError", "PlanError", "RecipeError", "TranscodeError")
_HOMES = {
    **dict.fromkeys(__all__, "api"),
    **dict.fromkeys(_ERRORS, "errors"),
    "Flow": "core.flow",
    "Inspection": "inspection",
    "LazyTensor": "core.tensor",
    "Verification": "verification",
    "inspect": "inspection",
    "verify": "verification",
}


def __getattr__(name: str) -> Any:
    # The command line imports this package at every call: numpy and the rest load when they are asked for.
    if name not in _HOMES:
        raise AttributeError(f"module 'transcode' has no attribute {name!r}")
    from importlib import import_module

    if name == "meta":
        return import_module(".meta", __name__)
    found = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
