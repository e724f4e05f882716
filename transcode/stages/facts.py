"""What a model's configuration says, from wherever it stands: config.json, or the header of a GGUF file."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from ..core import small_json
from ..core.planning import Planning
from ..errors import PlanError
from ..voice import called

__all__ = ["ARCHITECTURES", "check_model", "facts_of"]

_CONFIG = "config.json"
_PARAMS = "params.json"

_OF_META = {
    "dim": "hidden_size",
    "n_heads": "num_attention_heads",
    "n_kv_heads": "num_key_value_heads",
    "n_layers": "num_hidden_layers",
    "norm_eps": "rms_norm_eps",
    "rope_theta": "rope_theta",
    "vision_encoder": "vision_config",
}
"""Keys of ``params.json``, which stands beside Llama's and Mistral's own releases -> those of config.json."""

_OF_GGUF = {
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "block_count": "num_hidden_layers",
    "embedding_length": "hidden_size",
    "expert_count": "num_experts",
}
"""Keys of llama.cpp's headers behind the architecture's name, and the keys of config.json that they are."""


ARCHITECTURES = {
    "llama": "llama",
    "mistral": "llama",
    "mixtral": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "qwen2_moe": "qwen2moe",
    "qwen3_moe": "qwen3moe",
    "gemma2": "gemma2",
    "gemma3": "gemma3",
    "gemma3_text": "gemma3",
    "phi3": "phi3",
    "deepseek_v2": "deepseek2",
    "deepseek_v3": "deepseek2",
    "glm4_moe": "glm4moe",
    "gpt_oss": "gpt-oss",
    "kimi_k2": "deepseek2",
    "llama4": "llama4",
    "llama4_text": "llama4",
    "minimax_m2": "minimax-m2",
    "qwen2_vl": "qwen2vl",
    "qwen2_5_vl": "qwen2vl",
    "qwen3_vl": "qwen3vl",
    "qwen3_vl_moe": "qwen3vlmoe",
    "ministral3": "mistral3",
}
"""``model_type`` of config.json -> llama.cpp's name of the architecture (``convert_hf_to_gguf.py``)."""

_LINEAR = "of its linear attention llama.cpp takes -exp(A_log), and heads of v in another order"
_LATENT = (
    "llama.cpp asks for the keys and the values of its latent attention apart, head by head and transposed"
)
_MODALITY = "what reads text is not taken out of it"

UNWRITTEN = {
    **dict.fromkeys(("qwen3_next", "qwen3_5", "qwen3_5_text", "qwen3_5_moe", "qwen3_5_moe_text"), _LINEAR),
    **dict.fromkeys(("kimi_linear", "glm5_next"), _LINEAR),
    **dict.fromkeys(("deepseek_v32", "deepseek_v4", "glm_moe_dsa", "glm4_moe_lite"), _LATENT),
    **dict.fromkeys(("mistral4", "mistral_large4", "mistral_large4_text"), _LATENT),
    **dict.fromkeys(("gemma4", "gemma4_text", "gemma4_unified"), "sizes of its heads differ between layers"),
    **dict.fromkeys(("kimi_k25", "kimi_k3"), _MODALITY),
    "minimax_m3_vl": "llama.cpp runs no such model",
    "phimoe": "its positions are scaled by long and short factors, which are not written here",
}
"""``model_type`` -> why there is no GGUF file of it."""

_OF_TEXT = ("mistral3",)
"""Models that see, of which ``text_config`` says what reads text."""


def facts_of(planning: Planning) -> dict[str, object]:
    """Keys of the configuration of the source's model; empty where none came with it.

    Those of ``text_config`` count where there are no others of that name. As everywhere, keys have as many
    heads as queries where nothing else is said. What config.json does not say, the header of a GGUF file
    does: that of the source, or the one that the output is to be like.

    Raises:
        PlanError: that one is of another model.
    """
    facts: dict[str, object] = {}
    text: dict[str, object] = {}
    for path in planning.side_files:
        if path.name == _CONFIG:
            stated = small_json.read_object(path)
            of_text = stated.get("text_config")
            text = {**of_text} if isinstance(of_text, dict) else {}
            facts = {**text, **stated}
        elif path.name == _PARAMS:
            stated = small_json.read_object(path)
            if {"dim", "n_heads", "n_layers"} <= stated.keys() and "moe" not in stated:
                params = {new: stated[old] for old, new in _OF_META.items() if old in stated}
                released = "mistral3" if "vision_config" in params else "llama"
                facts = {"model_type": released, **params, **facts}
    model = facts.get("model_type")
    if model in _OF_TEXT:
        model = text.get("model_type")
    if model in ARCHITECTURES:
        facts["architecture"] = ARCHITECTURES[str(model)]
    header = planning.metadata if planning.reference is None else planning.reference.metadata
    architecture = header.get("general.architecture")
    if architecture is not None:
        of_header: dict[str, object] = {"architecture": str(architecture)}
        for key, name in _OF_GGUF.items():
            value = header.get(f"{architecture}.{key}")
            if value is not None and value.isdecimal():
                of_header[name] = int(value)
        if planning.reference is not None:
            _check_reference(facts, of_header, planning.reference.path)
        facts = {**of_header, **facts}
    if "num_experts" in facts:  # of the two names that models have for it
        facts.setdefault("num_local_experts", facts["num_experts"])
    if isinstance(heads := facts.get("num_attention_heads"), int) and not facts.get("num_key_value_heads"):
        facts["num_key_value_heads"] = heads
    return facts


def _check_reference(facts: Mapping[str, object], header: Mapping[str, object], file: Path) -> None:
    """Refuse the header of another model, whose tensors may have the same shapes."""
    for key, value in header.items():
        if facts.get(key) not in (None, value):
            raise PlanError(
                f"is of another model: it says {key}: {value}, the source {facts[key]}",
                file=file,
                hint=f"name a file of this model, or leave {called('like', file)} out",
            )


def check_model(holds: Mapping[str, Collection[object]], facts: Mapping[str, object], what: str) -> None:
    """Refuse a model for which rules do not hold, though its tensors have the names.

    Args:
        holds: key of config.json -> the values for which they do.
        facts: what is known of the model.
        what: what is refused, for people.

    Raises:
        PlanError: a key is not there, or has another value.
    """
    if not holds:
        return
    if not any(key in facts for key in holds):
        model = facts.get("model_type")
        if model is not None and "architecture" in holds:
            why = UNWRITTEN.get(str(model), "which model it is to llama.cpp is not known")
            raise PlanError(
                f"{what}: a model_type {model!r} is not written to GGUF here: {why}",
                hint="llama.cpp's own convert_hf_to_gguf.py may write it",
            )
        raise PlanError(
            f"{what}: names alone do not tell which model it is, and there is no config.json that says"
            f" {' or '.join(holds)}",
            hint="convert the folder that has it",
        )
    for key, values in holds.items():
        if key in facts and facts[key] not in values:
            raise PlanError(
                f"{what}: the rules are those of models whose {key} is {', '.join(map(str, values))}, not"
                f" {facts[key]!r}",
                hint="no rules for it are known",
            )
