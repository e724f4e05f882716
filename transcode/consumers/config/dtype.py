"""The dtype of a model in its config.json: loaders cast to it what they read, and do not what they decode."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from ... import catalog
from ...core.tensor import LazyTensor
from .stated import KEY, Json, holders

__all__ = ["DTYPE_KEYS", "TORCH_NAMES", "decoded_to", "dtype_of_weights", "with_dtype", "with_own_dtype"]

DTYPE_KEYS = ("dtype", "torch_dtype")
"""Where config.json says in which dtype a model is loaded; the second is read by older releases too."""

TORCH_NAMES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def decoded_to(tensors: Sequence[LazyTensor], convention: catalog.Convention) -> str | None:
    """The dtype that a model must have because the consumer decodes some of its tensors to it, if any."""
    rules = (convention.scheme(tensor.scheme.name) for tensor in tensors if tensor.scheme is not None)
    return next((rule.computes for rule in rules if rule.computes is not None), None)


def dtype_of_weights(tensors: Sequence[LazyTensor]) -> str | None:
    """torch's name of the one dtype of all float matrices that are not quantized; None where they differ."""
    dtypes = {
        tensor.spec.dtype.name
        for tensor in tensors
        if tensor.plain and len(tensor.spec.shape) >= 2 and tensor.spec.dtype.kind == "float"
    }
    return TORCH_NAMES.get(next(iter(dtypes))) if len(dtypes) == 1 else None


def with_dtype(config: Json, dtype: str) -> Json:
    """The configuration of a model that is loaded in another dtype than its own, with all of its parts.

    Loaders do not cast what they decode, and products of two dtypes fail.
    """
    keys = [key for key in DTYPE_KEYS if key in config] or [DTYPE_KEYS[-1]]
    parts = {key: _nested(value, dtype) for key, value in config.items() if key != KEY}
    return {**config, **parts, **dict.fromkeys(keys, dtype)}


def _nested(value: Any, dtype: str) -> Any:
    if not isinstance(value, dict):
        return value
    inner = {key: _nested(one, dtype) for key, one in value.items()}
    return {key: dtype if key in DTYPE_KEYS and isinstance(one, str) else one for key, one in inner.items()}


def with_own_dtype(config: Json, dtype: str) -> Json | None:
    """A config in which it, and that of each sub-model, names this dtype if any; None where that was so."""
    config = copy.deepcopy(config)
    changed = False
    for holder in holders(config):
        for key in DTYPE_KEYS:
            if holder is not config.get(KEY) and isinstance(stated := holder.get(key), str):
                changed |= stated.removeprefix("torch.") != dtype
                holder[key] = stated if stated.removeprefix("torch.") == dtype else dtype
    return config if changed else None
