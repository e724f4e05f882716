"""What PEFT and Diffusers say of a LoRA beside its tensors: alpha, by module."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..core.small_json import parse_object, read
from ..errors import FormatError, PlanError
from ..storage.source import Source

__all__ = ["PEFT_KINDS", "Scaling", "peft_options", "read_scaling"]

Scaling = Callable[[str, int], tuple[float, str]]
"""``scaling(base, rank)``: what a pair counts for that has no alpha of its own, and that in words."""

PEFT_KINDS = ("LORA", "LOHA", "LOKR", "OFT", "BOFT", "IA3")
"""Values of PEFT's ``peft_type`` that can be merged."""

_SIDE = "adapter_config.json"
_METADATA = "lora_adapter_metadata"


def read_scaling(source: Source) -> Scaling:
    """The scaling that stands beside a LoRA.

    Looked for in ``adapter_config.json`` in its folder, where PEFT puts it (only for files that PEFT names
    ``adapter_model.*``), and in the metadata key ``lora_adapter_metadata``, where Diffusers does
    (``src/diffusers/loaders/lora_base.py``: the same options, each with the name of a component before it).
    Without either, a pair counts once: alpha is the rank.

    Raises:
        FormatError: it is damaged.
        PlanError: it says what cannot be merged.
    """
    if (found := peft_options(source)) is not None:
        return _Options(found[0], "", found[1]).scaling
    if (text := source.metadata.get(_METADATA)) is not None:
        flat = _object(source.path, text)
        components = dict.fromkeys(key.partition(".")[0] for key in flat)
        parts = [
            _Options(source.path, f"{one}.", {key[len(one) + 1 :]: value for key, value in flat.items()
                                               if key.startswith(f"{one}.")})
            for one in components
        ]  # fmt: skip
        return lambda base, rank: next(
            (part.scaling(base, rank) for part in parts if base.startswith(part.prefix)), (1.0, "")
        )
    return lambda base, rank: (1.0, "")


def peft_options(source: Source) -> tuple[Path, dict[str, Any]] | None:
    """``adapter_config.json`` of an adapter that PEFT saved, and what it says; None where there is none.

    Raises:
        FormatError: it is damaged.
    """
    files = source.files
    if len(files) == 1 and files[0].path.stem == "adapter_model":
        side = files[0].path.parent / _SIDE
        if side.is_file():
            return side, _object(side, read(side))
    return None


def dora_bases(source: Source) -> tuple[str, ...]:
    """How names of modules begin for which the options say DoRA: their pairs have magnitudes."""
    if (found := peft_options(source)) is not None:
        return ("",) if found[1].get("use_dora") else ()
    if (text := source.metadata.get(_METADATA)) is None:
        return ()
    options = _object(source.path, text)
    return tuple(
        key.removesuffix("use_dora") for key, said in options.items() if said and key.endswith(".use_dora")
    )


class _Options:
    """The options of one adapter (``peft/tuners/lora/config.py``).

    Args:
        file: where they are from.
        prefix: before the names of the modules that they are for.
        options: by name.
    """

    def __init__(self, file: Path, prefix: str, options: Mapping[str, Any]) -> None:
        self.prefix = prefix
        self._file = file
        self._root = bool(options.get("use_rslora"))
        self._alpha = self._number(options.get("lora_alpha", options.get("alpha")))
        self._patterns = [
            (self._regex(pattern), self._number(value))
            for pattern, value in self._mapping(options.get("alpha_pattern")).items()
        ]
        if str(options.get("peft_type") or "LORA").rpartition(".")[2] not in PEFT_KINDS:
            raise self._error(f"peft_type {options['peft_type']!r} cannot be merged")
        if options.get("fan_in_fan_out"):
            raise self._error("fan_in_fan_out cannot be merged")

    def scaling(self, base: str, rank: int) -> tuple[float, str]:
        """See :data:`Scaling`."""
        own = (value for regex, value in self._patterns if regex.fullmatch(base))
        alpha = next(own, self._alpha)
        if not alpha:
            return 1.0, ""
        if self._root:
            return alpha / math.sqrt(rank), f", alpha {alpha:g}, rank-stabilized"
        return alpha / rank, f", alpha {alpha:g}"

    def _regex(self, pattern: str) -> re.Pattern[str]:
        try:
            return re.compile(rf"(?:.*\.)?(?:{pattern})")
        except re.error as error:
            raise FormatError(f"alpha_pattern {pattern!r} is not valid: {error}", file=self._file) from None

    def _mapping(self, value: Any) -> dict[str, Any]:
        if value is not None and not isinstance(value, dict):
            raise FormatError(f"alpha_pattern is {value!r:.60}, not an object", file=self._file)
        return value or {}

    def _number(self, value: Any) -> float | None:
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise FormatError(f"alpha is {value!r}, not a number", file=self._file)
        return float(value)

    def _error(self, what: str) -> PlanError:
        return PlanError(what, file=self._file, hint="merge it with the tool that it comes from")


def _object(path: Path, text: str | bytes) -> dict[str, Any]:
    return parse_object(text, file=path, what="what the options of the LoRA say")
