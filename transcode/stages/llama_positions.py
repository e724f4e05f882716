"""How llama.cpp is told of positions: the base of their angles, and how they are scaled for long texts.

Keys are those of ``gguf-py/gguf/constants.py``, formulas those of ``convert_hf_to_gguf.py`` and of
transformers' ``modeling_rope_utils.py``.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping

from ..containers.gguf import values
from ..core.dtypes import DTYPES
from ..core.expr import Constant
from ..core.spec import Spec
from ..core.tensor import LazyTensor, plain
from ..core.typed import Typed
from ..errors import PlanError

__all__ = ["OF_POSITIONS", "ROPE_FREQS", "positions", "rope_factors"]

ROPE_FREQS = "rope_freqs.weight"
"""By what each angle is divided, where that is not the same for all."""

OF_POSITIONS = (ROPE_FREQS, "rope_factors_long.weight", "rope_factors_short.weight")
"""Tensors that no model has, and that follow from what it is told of positions."""

_BETAS = (("beta_fast", "yarn_beta_fast"), ("beta_slow", "yarn_beta_slow"))
_SEEING = ("qwen2vl", "qwen3vl", "qwen3vlmoe")
"""Architectures whose angles are of time, height and width, in sections."""

_SCALED = {"deepseek2": 0.1, "mistral3": 1.0}
"""Architectures whose queries are scaled with positions -> by what llama.cpp is told that times."""

_NESTED = ("full_attention", "sliding_attention")


def positions(name: str, facts: Mapping[str, object]) -> dict[str, str | None]:
    """Metadata of positions.

    Args:
        name: llama.cpp's of the architecture.
        facts: keys of config.json.

    Raises:
        PlanError: what config.json says is no number, or asks for what llama.cpp does not do.
    """
    rope = _rope(facts, _NESTED[0])
    base = rope.get("rope_theta", facts.get("rope_theta", 10000.0))
    said: dict[str, str | None] = {
        f"{name}.rope.freq_base": values.make("float32", str(_positive(base, "rope_theta")))
    }
    if name == "gemma3":
        local = _rope(facts, _NESTED[1]).get("rope_theta", facts.get("rope_local_base_freq", 10000.0))
        if _positive(local, "rope_local_base_freq") != 10000.0:
            raise PlanError(f"config.json says rope_local_base_freq: {local}, llama.cpp takes 10000 for it")
    if name in _SEEING:
        said[f"{name}.rope.dimension_sections"] = _sections(rope)
    kind = _kind(rope)
    if kind in ("default", "llama3") or (kind == "mrope" and name in _SEEING):
        return said
    if kind not in ("linear", "yarn"):
        raise PlanError(
            f"config.json scales positions by {kind!r}, which is not written to GGUF here",
            hint="known: linear, llama3, yarn",
        )
    factor = _positive(rope.get("factor"), "factor")
    said[f"{name}.rope.scaling.type"] = values.make("string", kind)
    said[f"{name}.rope.scaling.factor"] = values.make("float32", str(factor))
    if kind == "linear":
        return said
    if rope.get("attention_factor") is not None:
        raise PlanError(
            "config.json says attention_factor, by which llama.cpp does not replace what it computes",
            hint="no GGUF file of it would be right",
        )
    length = _positive(rope.get("original_max_position_embeddings"), "original_max_position_embeddings")
    said[f"{name}.rope.scaling.original_context_length"] = values.make("uint32", str(int(length)))
    for key, written in _BETAS:
        if rope.get(key) is not None:
            said[f"{name}.rope.scaling.{written}"] = values.make("float32", str(_positive(rope[key], key)))
    each, both = rope.get("mscale"), rope.get("mscale_all_dim")
    if (each or both) and (each != both or name not in _SCALED):
        raise PlanError(
            f"config.json says mscale: {each}, mscale_all_dim: {both}, of which llama.cpp knows only one"
            f" number, and only for {' and '.join(_SCALED)}",
            hint="no GGUF file of it would be right",
        )
    if name == "mistral3":
        beta = _positive(rope.get("llama_4_scaling_beta"), "llama_4_scaling_beta")
        said[f"{name}.attention.temperature_scale"] = values.make("float32", repr(beta))
    if both:
        multiplier = _SCALED[name] * _positive(both, "mscale_all_dim")
        said[f"{name}.rope.scaling.yarn_log_multiplier"] = values.make("float32", repr(multiplier))
    return said


def _sections(rope: Mapping[str, object]) -> Typed:
    """How many angles are of time, of height and of width; llama.cpp reads a fourth number."""
    sections = rope.get("mrope_section")
    if (
        not isinstance(sections, list)
        or len(sections) != 3
        or not all(isinstance(one, int) and not isinstance(one, bool) and one > 0 for one in sections)
    ):
        raise PlanError(
            f"config.json says mrope_section: {sections!r}, which is not three whole numbers",
            hint="llama.cpp loads no model that sees without them",
        )
    return values.make("array of int32", str([*sections, 0]))


def rope_factors(facts: Mapping[str, object]) -> LazyTensor | None:
    """What angles are divided by, F32 ``[head_dim / 2]``, where positions are scaled as of Llama 3.1; else
    None.

    Raises:
        PlanError: see :func:`positions`.
    """
    rope = _rope(facts, _NESTED[0])
    if _kind(rope) != "llama3":
        return None
    keys = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    factor, low, high, length = (_positive(rope.get(key), key) for key in keys)
    base = _positive(rope.get("rope_theta", facts.get("rope_theta", 10000.0)), "rope_theta")
    size = facts.get("head_dim")
    if size is None:
        heads = _positive(facts.get("num_attention_heads"), "num_attention_heads")
        size = int(_positive(facts.get("hidden_size"), "hidden_size") // heads)
    size = int(_positive(size, "head_dim"))
    if high <= low:
        raise PlanError(
            f"config.json says high_freq_factor: {high}, which is not above low_freq_factor: {low}"
        )
    divisors = []
    for at in range(0, size, 2):
        wave = 2 * math.pi * base ** (at / size)
        if wave < length / high:
            divisors.append(1.0)
        elif wave > length / low:
            divisors.append(factor)
        else:
            smooth = (length / wave - low) / (high - low)
            divisors.append(1 / ((1 - smooth) / factor + smooth))
    spec = Spec(DTYPES["F32"], (len(divisors),))
    return plain(ROPE_FREQS, spec, Constant(spec, struct.pack(f"<{len(divisors)}f", *divisors)))


def _rope(facts: Mapping[str, object], layers: str) -> Mapping[str, object]:
    """What is said of positions; where it is said for kinds of layers, of those."""
    said = facts.get("rope_parameters") or facts.get("rope_scaling") or {}
    if isinstance(said, dict) and all(isinstance(said.get(key), dict) for key in _NESTED):
        said = said[layers]
    if not isinstance(said, dict):
        raise PlanError(f"config.json says rope_parameters: {said!r}, which is no object")
    return said


def _kind(rope: Mapping[str, object]) -> str:
    return str(rope.get("rope_type", rope.get("type", "default")))


def _positive(value: object, key: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise PlanError(
            f"config.json says {key}: {value!r}, which is no number above 0",
            hint="llama.cpp could not compute positions",
        )
    return float(value)
