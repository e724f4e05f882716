"""Ranks and alphas of a LoRA where options say them, not tensors."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from ...core import small_json
from ...core.planning import Planning
from .written import STYLES

__all__ = ["Size", "state"]

_METADATA = "lora_adapter_metadata"
_CONFIG = "adapter_config.json"


class Size(NamedTuple):
    """Of a pair."""

    rank: int
    alpha: float
    dora: bool = False


def state(sizes: Mapping[str, Size], to: str, planning: Planning) -> None:
    """Say ranks and alphas in metadata for Diffusers, in a file beside the weights for PEFT.

    Args:
        sizes: by module, as the program spells it.
        to: one of :data:`.written.STYLES`.
    """
    planning.replaced[_METADATA] = None
    if STYLES[to].alphas or not sizes:
        return
    parts: dict[str, dict[str, Size]] = defaultdict(dict)
    for spelled, size in sizes.items():
        prefix = "base_model.model" if to == "peft" else spelled.partition(".")[0]
        parts[prefix][spelled.removeprefix(f"{prefix}.")] = size
    options = {prefix: _options(some) for prefix, some in parts.items()}
    if to == "peft":
        text = small_json.spell({"peft_type": "LORA", **options["base_model.model"]}, indent=2)
        planning.beside[_CONFIG] = f"{text}\n".encode()
        return
    flat = {f"{prefix}.{key}": value for prefix, said in options.items() for key, value in said.items()}
    planning.replaced[_METADATA] = small_json.spell(flat, indent=2)


def _options(sizes: Mapping[str, Size]) -> dict[str, object]:
    rank = _usual(size.rank for size in sizes.values())
    alpha = _usual(size.alpha for size in sizes.values())
    return {
        "r": rank,
        "lora_alpha": _int(alpha),
        "rank_pattern": {name: size.rank for name, size in sizes.items() if size.rank != rank},
        "alpha_pattern": {name: _int(size.alpha) for name, size in sizes.items() if size.alpha != alpha},
        "target_modules": sorted(sizes),
        "lora_dropout": 0.0,
        "bias": "none",
        "use_rslora": False,
        "use_dora": any(size.dora for size in sizes.values()),
    }


def _usual(values: Iterable[float]) -> float:
    values = list(values)
    return max(sorted(set(values)), key=values.count)


def _int(value: float) -> float:
    return int(value) if value == int(value) else value
