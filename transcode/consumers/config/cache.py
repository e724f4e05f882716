"""What a quantization_config says of the cache of keys and values, whose scales stand beside the layers.

How weights are quantized has no part in it: it goes along where weights become others.
"""

from __future__ import annotations

from collections.abc import Iterable

from ...core.planning import Planning
from ...core.tensor import LazyTensor
from .stated import CONFIG, Json, read_json, statements

__all__ = ["CACHE", "fp8_cache", "holds_cache"]

CACHE = "kv_cache_scheme"
"""Key of compressed-tensors, and of ModelOpt in config.json."""

_SIDE, _ALGORITHM = "hf_quant_config.json", "kv_cache_quant_algo"
_FP8 = {"num_bits": 8, "type": "float", "dynamic": False}
"""FP8 with a scale that was calibrated: what vLLM reads of either."""


def fp8_cache(planning: Planning) -> bool:
    """Whether the source says that its cache is FP8, by scales that it holds."""
    for path in planning.side_files:
        if path.name not in (CONFIG, _SIDE):
            continue
        content = read_json(path) or {}
        if path.name == _SIDE:
            stated = content.get("quantization")
            if isinstance(stated, dict) and stated.get(_ALGORITHM) == "FP8":
                return True
            continue
        if any(_is_fp8(holder[key].get(CACHE)) for holder, key in statements(content)):
            return True
    return False


def holds_cache(tensors: Iterable[LazyTensor]) -> bool:
    """Whether some are scales of keys or values."""
    return any(tensor.name.endswith((".k_scale", ".v_scale")) for tensor in tensors)


def _is_fp8(said: object) -> bool:
    if not isinstance(said, dict) or said.get("strategy", "tensor") != "tensor":
        return False
    stated: Json = {key: said.get(key) for key in _FP8}
    return stated == _FP8
