"""What llama.cpp asks of a GGUF file besides names: header, sizes, vocabulary; small tensors in float32.

Keys are those of ``gguf-py/gguf/constants.py``; what each is, of ``convert_hf_to_gguf.py``.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from ..containers.gguf import values
from ..core import small_json
from ..core.dtypes import DTYPES
from ..core.planning import Planning
from ..core.tensor import LazyTensor
from ..core.typed import Typed
from ..errors import PlanError
from .cast import cast_tensor
from .facts import ARCHITECTURES, facts_of

__all__ = ["GGUF", "for_llama", "header", "vocabulary"]

GGUF = "gguf"
"""Spelling and convention of llama.cpp."""

_FLOATS = ("F64", "F16", "BF16")
_ROUTER = ".ffn_gate_inp.weight"

_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED = 1, 3, 4, 5
"""``llama_token_type``."""

_TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_HEAD = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_CUTS = {f"{_HEAD}\\p{{N}}{{1,3}}{_TAIL}": "llama-bpe", f"{_HEAD}\\p{{N}}{_TAIL}": "qwen2"}
"""How text is cut before pairs are merged -> llama.cpp's name of it (``llama-vocab.cpp``)."""

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
    ("expert_count", "num_experts", "uint32"),
    ("expert_count", "num_local_experts", "uint32"),
    ("expert_used_count", "num_experts_per_tok", "uint32"),
    ("expert_feed_forward_length", "moe_intermediate_size", "uint32"),
)
"""As :data:`_SIZES`, where config.json has them."""


def for_llama(tensors: Iterable[LazyTensor], planning: Planning) -> Iterator[LazyTensor]:
    """Tensors under llama.cpp's names as it reads them, and the header that belongs to them.

    What has one dimension, and routers, are float32: its kernels take no other.

    Raises:
        PlanError: see :func:`header`.
    """
    if planning.convention != GGUF:
        yield from tensors
        return
    for tensor in tensors:
        small = tensor.ndim == 1 or tensor.name.endswith(_ROUTER)
        if small and tensor.plain:
            planning.settled.add(tensor.name)
        if small and tensor.plain and tensor.spec.dtype.name in _FLOATS:
            yield cast_tensor(tensor, DTYPES["F32"], why="as llama.cpp reads it")
        else:
            yield tensor
    if "general.architecture" not in planning.metadata:
        planning.replaced |= header(facts_of(planning), planning.side_files)


def header(facts: Mapping[str, object], side_files: Sequence[Path]) -> dict[str, str | None]:
    """Metadata of a GGUF file of a language model.

    Args:
        facts: keys of its config.json.
        side_files: those beside its weights: its tokenizer's among them.

    Raises:
        PlanError: a size is not known, positions are scaled, or its tokenizer is of a kind that is not known.
    """
    model = facts.get("model_type")
    if model not in ARCHITECTURES:
        raise PlanError(f"no header of llama.cpp is known for model_type {model!r}")
    name = ARCHITECTURES[str(model)]
    said: dict[str, str | None] = {
        "general.architecture": values.make("string", name),
        "general.type": values.make("string", "model"),
    }
    for key, of, kind in _SIZES:
        said[f"{name}.{key}"] = _number(facts, of, kind)
    for key, of, kind in _MORE:
        if facts.get(of) is not None:
            said[f"{name}.{key}"] = _number(facts, of, kind)
    rope = facts.get("rope_parameters") or facts.get("rope_scaling") or {}
    assert isinstance(rope, dict)
    scaled = rope.get("rope_type", rope.get("type", "default"))
    if scaled != "default":
        raise PlanError(f"config.json scales positions by {scaled!r}, which is not written to GGUF here yet")
    base = rope.get("rope_theta", facts.get("rope_theta", 10000.0))
    said[f"{name}.rope.freq_base"] = values.make("float32", str(base))
    if name == "llama":
        heads, size = facts.get("num_attention_heads"), facts.get("hidden_size")
        assert isinstance(heads, int)
        assert isinstance(size, int)
        said[f"{name}.rope.dimension_count"] = values.make(
            "uint32", str(facts.get("head_dim") or size // heads)
        )
    total = facts["vocab_size"]
    assert isinstance(total, int)
    return said | vocabulary({path.name: path for path in side_files}, total)


def _number(facts: Mapping[str, object], key: str, kind: str) -> Typed:
    value = facts.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise PlanError(f"config.json has no {key}, without which llama.cpp loads no model")
    return values.make(kind, str(value))


def vocabulary(files: Mapping[str, Path], total: int) -> dict[str, str | None]:
    """Metadata of a tokenizer of byte pairs.

    Args:
        files: side files by name: tokenizer.json, and where there are, tokenizer_config.json and
            chat_template.jinja.
        total: how many tokens the model knows; those without a text are filled up.

    Raises:
        PlanError: there is no tokenizer, or it is of another kind.
    """
    path = files.get("tokenizer.json")
    if path is None:
        raise PlanError("GGUF: there is no tokenizer.json, without which llama.cpp loads no model")
    stated = small_json.read_object(path)
    model = _object(stated.get("model"))
    if model.get("type") != "BPE" or model.get("byte_fallback"):
        raise PlanError(
            f"its tokenizer is {model.get('type')!r}{' with bytes' * bool(model.get('byte_fallback'))}:"
            " only byte pairs (as of Llama 3 and Qwen) are written to GGUF here",
            file=path,
        )
    texts = {number: text for text, number in _object(model.get("vocab")).items() if isinstance(number, int)}
    kinds = dict.fromkeys(texts, _NORMAL)
    for one in _list(stated.get("added_tokens")):
        token = _object(one)
        if isinstance(number := token.get("id"), int):
            texts[number] = str(token.get("content"))
            kinds[number] = _CONTROL if token.get("special") else _USER_DEFINED
    if max(texts, default=0) >= total:
        raise PlanError(f"has {max(texts) + 1} tokens, the model only {total}", file=path)
    filled = [texts.get(number, f"[PAD{number}]") for number in range(total)]
    merges = [
        one if isinstance(one, str) else " ".join(map(str, _list(one))) for one in _list(model.get("merges"))
    ]
    written: dict[str, str | None] = {
        "tokenizer.ggml.model": values.make("string", "gpt2"),
        "tokenizer.ggml.pre": values.make("string", _cut(stated, path)),
        "tokenizer.ggml.tokens": _texts(filled),
        "tokenizer.ggml.token_type": _numbers([kinds.get(number, _UNUSED) for number in range(total)]),
        "tokenizer.ggml.merges": _texts(merges),
    }
    config = (
        small_json.read_object(files["tokenizer_config.json"]) if "tokenizer_config.json" in files else {}
    )
    by_text = {text: number for number, text in texts.items()}
    for kind, key in (("bos", "bos"), ("eos", "eos"), ("unknown", "unk"), ("padding", "pad")):
        said = config.get(f"{key}_token")
        text = said.get("content") if isinstance(said, dict) else said
        if text in by_text:
            written[f"tokenizer.ggml.{kind}_token_id"] = values.make("uint32", str(by_text[str(text)]))
        if isinstance(add := config.get(f"add_{key}_token"), bool) and key in ("bos", "eos"):
            written[f"tokenizer.ggml.add_{key}_token"] = values.make("bool", str(add))
    template = config.get("chat_template")
    if "chat_template.jinja" in files:
        template = files["chat_template.jinja"].read_text("utf-8")
    if isinstance(template, str):
        written["tokenizer.chat_template"] = values.make("string", template)
    return written


def _cut(stated: Mapping[str, object], path: Path) -> str:
    """llama.cpp's name of how a tokenizer cuts text before it merges."""
    before = _object(stated.get("pre_tokenizer"))
    steps = [_object(one) for one in _list(before.get("pretokenizers"))] or [before]
    cuts = [_object(one.get("pattern")).get("Regex") for one in steps if one.get("type") == "Split"]
    if len(cuts) == 1 and cuts[0] in _CUTS:
        return _CUTS[str(cuts[0])]
    if not cuts and [one.get("type") for one in steps] == ["ByteLevel"] and steps[0].get("use_regex", True):
        return "gpt-2"
    raise PlanError(
        f"cuts text by {cuts or [one.get('type') for one in steps]}, which llama.cpp has no known name for",
        file=path,
    )


def _texts(texts: Sequence[str]) -> Typed:
    raw = b"".join(struct.pack("<Q", len(one)) + one for one in (text.encode() for text in texts))
    return values.array(values.STRING, len(texts), memoryview(raw), False)


def _numbers(numbers: Sequence[int]) -> Typed:
    return values.array(5, len(numbers), memoryview(struct.pack(f"<{len(numbers)}i", *numbers)), False)


def _object(value: object) -> Mapping[str, object]:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> Sequence[object]:
    return value if isinstance(value, list) else []
