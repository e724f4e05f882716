"""What llama.cpp asks of a GGUF file besides names: header, sizes, vocabulary; small tensors in float32.

Keys are those of ``gguf-py/gguf/constants.py``; what each is, of ``convert_hf_to_gguf.py``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from ..containers.gguf import values
from ..core.dtypes import DTYPES
from ..core.event import Event
from ..core.planning import Planning
from ..core.tensor import LazyTensor
from ..core.typed import Typed
from ..errors import PlanError
from .cast import cast_tensor
from .facts import ARCHITECTURES, facts_of
from .llama_positions import OF_POSITIONS, positions, rope_factors
from .reference import ARCHITECTURE
from .t5_header import is_t5, t5_header
from .vocabulary import vocabulary

__all__ = ["GGUF", "for_llama", "header"]

GGUF = "gguf"
"""Spelling and convention of llama.cpp."""

_FLOATS = ("F64", "F16", "BF16")
_ROUTERS = (".ffn_gate_inp.weight", ".ffn_gate_inp_shexp.weight")
_BIAS = "_exps.bias"  # of gpt-oss, a row for each expert

_SIZES = (
    ("context_length", "max_position_embeddings", "uint32"),
    ("embedding_length", "hidden_size", "uint32"),
    ("feed_forward_length", "intermediate_size", "uint32"),
    ("block_count", "num_hidden_layers", "uint32"),
    ("attention.head_count", "num_attention_heads", "uint32"),
    ("attention.head_count_kv", "num_key_value_heads", "uint32"),
    ("attention.layer_norm_rms_epsilon", "rms_norm_eps", "float32"),
    ("vocab_size", "vocab_size", "uint32"),
)
"""Keys behind the architecture, of config.json, and their types."""

_MORE = (
    ("attention.key_length", "head_dim", "uint32"),
    ("attention.value_length", "head_dim", "uint32"),
    ("attention.sliding_window", "sliding_window", "uint32"),
    ("attention.q_lora_rank", "q_lora_rank", "uint32"),
    ("attention.kv_lora_rank", "kv_lora_rank", "uint32"),
    ("attn_logit_softcapping", "attn_logit_softcapping", "float32"),
    ("final_logit_softcapping", "final_logit_softcapping", "float32"),
    ("expert_count", "num_experts", "uint32"),
    ("expert_count", "num_local_experts", "uint32"),
    ("expert_count", "n_routed_experts", "uint32"),
    ("expert_used_count", "num_experts_per_tok", "uint32"),
    ("expert_feed_forward_length", "moe_intermediate_size", "uint32"),
    ("expert_shared_feed_forward_length", "shared_expert_intermediate_size", "uint32"),
    ("expert_shared_count", "n_shared_experts", "uint32"),
    ("expert_weights_scale", "routed_scaling_factor", "float32"),
    ("leading_dense_block_count", "first_k_dense_replace", "uint32"),
)
"""As :data:`_SIZES`, where config.json has them."""

_WINDOWED = ("gemma2", "gemma3", "gpt-oss", "phi3")
"""Architectures of which llama.cpp reads how far attention sees; the others it runs without a window."""

_SIGMOID, _SOFTMAX = "2", "1"
"""``llama_expert_gating_func_type``."""

_GATINGS = {
    "deepseek_v3": _SIGMOID,
    "deepseek_v2": _SOFTMAX,
    "glm4_moe": _SIGMOID,
    "kimi_k2": _SIGMOID,
    "minimax_m2": _SIGMOID,
}
"""How experts are chosen, by ``model_type``, where llama.cpp asks."""

_GELU = "gelu_pytorch_tanh"
_SPARSE: dict[str, tuple[object, ...]] = {"decoder_sparse_step": (1,), "mlp_only_layers": ([],)}
_ONLY: dict[str, dict[str, tuple[object, ...]]] = {
    "llama": {"hidden_act": ("silu",)},
    "qwen2": {"hidden_act": ("silu",)},
    "qwen3": {"hidden_act": ("silu",)},
    "qwen2moe": {"norm_topk_prob": (False,), **_SPARSE},
    "qwen3moe": {"norm_topk_prob": (True,), **_SPARSE},
    "gemma2": {"hidden_activation": (_GELU,)},
    "gemma3": {"hidden_activation": (_GELU,), "use_bidirectional_attention": (False, None)},
    "deepseek2": {"topk_method": ("greedy", "noaux_tc"), "n_group": (1, None), "hidden_act": ("silu",)},
    "glm4moe": {"n_group": (1, None)},
    "gpt-oss": {"swiglu_alpha": (1.702,), "swiglu_limit": (7.0,)},
    "llama4": {
        "hidden_act": ("silu",),
        "attention_chunk_size": (8192,),
        "no_rope_layer_interval": (4,),
        "floor_scale": (8192,),
        "attn_scale": (0.1,),
        "attn_temperature_tuning": (True, 4),
        "attention_bias": (False,),
    },
    "minimax-m2": {"hidden_act": ("silu",), "scoring_func": ("sigmoid",), "use_qk_norm": (True,)},
    "qwen2vl": {"hidden_act": ("silu",), "use_sliding_window": (False,)},
    "qwen3vl": {"hidden_act": ("silu",), "attention_bias": (False,)},
    "qwen3vlmoe": {"norm_topk_prob": (True,), **_SPARSE},
    "mistral3": {"hidden_act": ("silu",), "sliding_window": (None,)},
}
"""What llama.cpp does not ask but takes for granted: key of config.json -> what it may be, if it is there."""

_LITE = (27, 26)
"""Layers of DeepSeek's models whose queries llama.cpp takes to have no lower rank."""

_UNNORMED = 128
"""Experts of the one Llama 4, Maverick, whose q and k llama.cpp does not norm."""

_BIGGEST = {"gemma2": 46, "gemma3": 62}
"""Layers of the 27B, of which llama.cpp takes hidden_size / heads for the scale of queries."""


def for_llama(
    tensors: Iterable[LazyTensor], planning: Planning, spiece: LazyTensor | None = None
) -> Iterator[LazyTensor]:
    """Tensors under llama.cpp's names as it reads them, and the header that belongs to them, unless it is
    to be that of another file.

    What has one dimension, and routers, are float32: its kernels take no other.

    Args:
        tensors: under those names.
        planning: takes the header.
        spiece: the tensor that holds a tokenizer's file, where there is one.

    Raises:
        PlanError: see :func:`header`, and for T5 :func:`.t5_header.t5_header`.
    """
    if planning.convention != GGUF:
        yield from tensors
        return
    names = {}
    for tensor in tensors:
        names[tensor.name] = tensor
        small = tensor.ndim == 1 or tensor.name.endswith((*_ROUTERS, _BIAS))
        if small and tensor.plain:
            planning.settled.add(tensor.name)
        if small and tensor.plain and tensor.spec.dtype.name in _FLOATS:
            yield cast_tensor(tensor, DTYPES["F32"], why="as llama.cpp reads it")
        else:
            yield tensor
    if ARCHITECTURE in planning.metadata:
        return
    facts = facts_of(planning)
    if is_t5(names):
        if planning.reference is None:
            planning.replaced |= t5_header(names, facts, spiece, planning)
        return
    if planning.reference is None:
        planning.replaced |= header(facts, planning.side_files)
    factors = rope_factors(facts)
    if factors is not None and factors.name not in names:
        names[factors.name] = factors
        planning.settled.add(factors.name)
        yield factors
    if planning.reference is not None:
        for tensor in planning.reference.tensors:
            if tensor.name in OF_POSITIONS and tensor.name not in names:
                planning.settled.add(tensor.name)
                yield tensor.evolve(did=Event("add", f"of {planning.reference.path.name}, as its header"))


def header(facts: Mapping[str, object], side_files: Sequence[Path]) -> dict[str, str | None]:
    """Metadata of a GGUF file of a language model.

    Args:
        facts: keys of its config.json.
        side_files: those beside its weights: its tokenizer's among them.

    Raises:
        PlanError: a size is not known or no number, llama.cpp cannot do what config.json asks of the model,
            or its tokenizer is of a kind that is not known.
    """
    model = facts.get("model_type")
    name = str(facts.get("architecture", ARCHITECTURES.get(str(model))))
    if name not in ARCHITECTURES.values():
        raise PlanError(
            f"no header of llama.cpp is known for model_type {model!r}",
            hint=f"known: {', '.join(sorted(ARCHITECTURES))}",
        )
    _check(name, facts)
    said: dict[str, str | None] = {
        ARCHITECTURE: values.make("string", name),
        "general.type": values.make("string", "model"),
    }
    for key, of, kind in _SIZES:
        said[f"{name}.{key}"] = _number(facts, of, kind)
    for key, of, kind in _MORE:
        if facts.get(of) is not None and (of != "sliding_window" or name in _WINDOWED):
            said[f"{name}.{key}"] = _number(facts, of, kind)
    said |= _special(name, str(model), facts) | positions(name, facts)
    total = facts["vocab_size"]
    if not isinstance(total, int):
        raise _wrong(facts, "vocab_size", "a whole number")
    files = {path.name: path for path in side_files}
    return said | vocabulary(files, total, facts)


def _special(name: str, model: str, facts: Mapping[str, object]) -> dict[str, str | None]:
    """What only some architectures have."""
    said: dict[str, str | None] = {}
    if model in _GATINGS:
        said[f"{name}.expert_gating_func"] = values.make("uint32", _GATINGS[model])
        norm = facts.get("norm_topk_prob", model != "deepseek_v2")
        if not isinstance(norm, bool):
            raise _wrong(facts, "norm_topk_prob", "true or false")
        said[f"{name}.expert_weights_norm"] = values.make("bool", str(norm))
    if name == "deepseek2":
        if facts.get("q_lora_rank") is None and facts.get("num_hidden_layers") not in _LITE:
            raise PlanError(
                f"config.json says no q_lora_rank, and num_hidden_layers: {facts.get('num_hidden_layers')!r}:"
                f" llama.cpp loads such models of {' or '.join(map(str, _LITE))} layers only",
                hint="no GGUF file of it could be loaded",
            )
        rope, rest, value = (
            _whole(facts, key) for key in ("qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim")
        )
        said[f"{name}.attention.key_length"] = values.make("uint32", str(rope + rest))
        said[f"{name}.attention.value_length"] = values.make("uint32", str(value))
        said[f"{name}.rope.dimension_count"] = values.make("uint32", str(rope))
    if name in ("gpt-oss", "llama4", "minimax-m2"):
        said[f"{name}.expert_feed_forward_length"] = _number(facts, "intermediate_size", "uint32")
    if name == "llama4":
        said[f"{name}.feed_forward_length"] = _number(facts, "intermediate_size_mlp", "uint32")
        said[f"{name}.interleave_moe_layer_step"] = _number(facts, "interleave_moe_layer_step", "uint32")
        if facts.get("use_qk_norm", True) is (facts.get("num_local_experts") == _UNNORMED):
            raise PlanError(
                f"config.json says use_qk_norm: {facts.get('use_qk_norm', True)}, but llama.cpp norms q and k"
                f" of llama4 with any number of experts but {_UNNORMED}",
                hint="no GGUF file of it would be right",
            )
    if name in ("qwen3vl", "qwen3vlmoe"):
        said[f"{name}.n_deepstack_layers"] = values.make("uint32", str(_deepstack(facts)))
    if name == "phi3":
        window = facts.get("sliding_window") or 0
        said[f"{name}.attention.sliding_window"] = values.make("uint32", str(window))
    if name in ("llama", "llama4", "mistral3", "phi3", "glm4moe", "minimax-m2"):
        size = facts.get("head_dim")
        if size is None:
            size = _whole(facts, "hidden_size") // _whole(facts, "num_attention_heads")
        elif not isinstance(size, int) or isinstance(size, bool):
            raise _wrong(facts, "head_dim", "a whole number")
        turned = facts.get("rotary_dim")
        part = _part(facts) if turned is None else _whole(facts, "rotary_dim") / size
        said[f"{name}.rope.dimension_count"] = values.make("uint32", str(int(size * part)))
    return said


def _deepstack(facts: Mapping[str, object]) -> int:
    """Into how many of the first layers what is seen goes besides: a file of what sees is refused without."""
    sight = facts.get("vision_config")
    layers = sight.get("deepstack_visual_indexes", []) if isinstance(sight, dict) else []
    if not isinstance(layers, list):
        raise _wrong({"deepstack_visual_indexes": layers}, "deepstack_visual_indexes", "a list")
    return len(layers)


def _part(facts: Mapping[str, object]) -> float:
    """Of each head, how much is turned by positions."""
    rope = facts.get("rope_parameters")
    said = rope.get("partial_rotary_factor") if isinstance(rope, dict) else None
    part = facts.get("partial_rotary_factor", said) if said is None else said
    if part is None:
        return 1.0
    if isinstance(part, bool) or not isinstance(part, int | float) or not 0 < part <= 1:
        raise _wrong({"partial_rotary_factor": part}, "partial_rotary_factor", "between 0 and 1")
    return float(part)


def _check(name: str, facts: Mapping[str, object]) -> None:
    """Refuse what llama.cpp would do in another way, without a word."""
    for key, may in _ONLY.get(name, {}).items():
        if key in facts and facts[key] not in may:
            known = " or ".join(str(one) for one in may)
            raise PlanError(
                f"config.json says {key}: {facts[key]!r}, but llama.cpp runs {name} with {known} only",
                hint="no GGUF file of it would be right",
            )
    if name in _BIGGEST and "query_pre_attn_scalar" in facts:
        per_head = _whole(facts, "hidden_size") // _whole(facts, "num_attention_heads")
        takes = per_head if facts.get("num_hidden_layers") == _BIGGEST[name] else facts.get("head_dim", 256)
        if facts["query_pre_attn_scalar"] != takes:
            raise PlanError(
                f"config.json says query_pre_attn_scalar: {facts['query_pre_attn_scalar']!r}, but llama.cpp"
                f" takes {takes} for such a {name}",
                hint="no GGUF file of it would be right",
            )


def _whole(facts: Mapping[str, object], key: str) -> int:
    value = facts.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
        raise _wrong(facts, key, "a whole number above 0")
    return value


def _wrong(facts: Mapping[str, object], key: str, right: str) -> PlanError:
    return PlanError(
        f"config.json says {key}: {facts.get(key)!r}, which is not {right}",
        hint="llama.cpp loads no model without it",
    )


def _number(facts: Mapping[str, object], key: str, kind: str) -> Typed:
    value = facts.get(key)
    if value is None:
        raise PlanError(f"config.json has no {key}, without which llama.cpp loads no model")
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or (kind == "uint32" and value != int(value))
    ):
        raise _wrong(facts, key, "a number" if kind == "float32" else "a whole number")
    return values.make(kind, str(int(value) if kind == "uint32" else value))
