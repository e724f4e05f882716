"""Where config.json says how tensors are quantized, whatever the dialect: finding it, and taking it out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...core.small_json import read_object
from ...errors import FormatError

__all__ = [
    "CONFIG",
    "EARLY_KEY",
    "KEY",
    "KEYS",
    "MLX_KEY",
    "Json",
    "holders",
    "malformed",
    "read_json",
    "statements",
    "without_statements",
]

CONFIG = "config.json"

KEY = "quantization_config"
"""The key of config.json."""

EARLY_KEY = "compression_config"
"""What early files of compressed-tensors have instead."""

KEYS = (KEY, EARLY_KEY)

MLX_KEY = "quantization"
"""Where MLX says it, beside :data:`KEY`; others have values of their own there."""

Json = dict[str, Any]


def holders(config: Json) -> Iterator[Json]:
    """A config, and those of its sub-models, which it holds under keys that end in ``_config``."""
    yield config
    for key, value in config.items():
        if key.endswith("_config") and isinstance(value, dict):
            yield value


def statements(config: Json) -> list[tuple[Json, str]]:
    """Where a config says how tensors are quantized: itself or the config of a sub-model, and the key."""
    found = [(holder, key) for holder in holders(config) for key in KEYS if isinstance(holder.get(key), dict)]
    return [*found, (config, MLX_KEY)] if _is_mlx(config.get(MLX_KEY)) else found


def _is_mlx(stated: object) -> bool:
    return isinstance(stated, dict) and {"bits", "group_size"} <= stated.keys()


def malformed(config: Json) -> str | None:
    """The first of such statements that is no JSON object, in words; None where there is none.

    ``null`` says nothing, as a missing key does.
    """
    for holder in holders(config):
        for key in KEYS:
            value = holder.get(key)
            if value is not None and not isinstance(value, dict):
                return f"{key} is {value!r:.60}, not a JSON object"
    return None


def without_statements(config: Json) -> Json:
    """A config that says nothing of how tensors are quantized."""
    mlx = (MLX_KEY,) if _is_mlx(config.get(MLX_KEY)) else ()
    kept = {key: value for key, value in config.items() if key not in (*KEYS, *mlx)}
    for key, value in kept.items():
        if key.endswith("_config") and isinstance(value, dict):
            kept[key] = {inner: value[inner] for inner in value if inner not in KEYS}
    return kept


def read_json(path: Path) -> Json | None:
    """A JSON object from a file; None where there is none that can be read."""
    try:
        return read_object(path)
    except FormatError:
        return None
