"""What recipes may say beside the options of stages, source and output: each key described once.

These have no field of their own: what they say becomes stages and options when a recipe is read.
"""

from __future__ import annotations

from typing import ClassVar

from ..core import kinds
from ..core.option import Declared, option
from ..core.records import dataclass

__all__ = [
    "ALIASES",
    "LoraWords",
    "PerformanceWords",
    "QuantizationWords",
    "SourceWords",
    "TargetWords",
]

ALIASES = {"target_modules": "targets", "ignore_modules": "exclude"}
"""Keys of ``quantization.options`` that are fields of the stage under another name."""


@dataclass(frozen=True)
class SourceWords(Declared):
    """Beside the options of the source."""

    kind: ClassVar[str] = "source"

    type: str = option(kinds.TEXT, "Family of the model, or auto.", default="auto", names="source types")
    variant: str | None = option(
        kinds.TEXT, "A narrower family, which wins over type.", default=None, names="source types"
    )
    format: str | None = option(
        kinds.TEXT, "Spelling of the source's names, or how its files are stored.", default=None,
        names="source formats",
    )  # fmt: skip


@dataclass(frozen=True)
class TargetWords(Declared):
    """Beside the options of the target."""

    kind: ClassVar[str] = "target"

    format: str | None = option(
        kinds.TEXT, "Spelling of the architecture, convention of a consumer, or both.", default=None,
        names="target formats",
    )  # fmt: skip
    precision: str | None = option(
        kinds.TEXT, "Scheme or dtype of the output.", default=None, names="precisions"
    )


@dataclass(frozen=True)
class PerformanceWords(Declared):
    """Beside the options of performance."""

    kind: ClassVar[str] = "performance"

    parallel: bool = option(kinds.FLAG, "False is one worker.", default=True)


@dataclass(frozen=True)
class QuantizationWords(Declared):
    """The section ``quantization``, but for its options."""

    kind: ClassVar[str] = "quantization"

    method: str = option(kinds.TEXT, "The scheme: int8, fp8, ...", names="schemes and mixes")
    backend: str | None = option(kinds.TEXT, "Does nothing: all give the same bytes.", default=None)


@dataclass(frozen=True)
class LoraWords(Declared):
    """Beside the options of the stage."""

    kind: ClassVar[str] = "lora"

    enabled: bool = option(kinds.FLAG, "False leaves the LoRAs out.", default=True)
