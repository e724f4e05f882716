"""The header of a GGUF file of T5's encoder or umT5's, which image and video models read text with.

Its sizes follow from its tensors, as most such files come without a config.json. Keys are those of
``gguf-py/gguf/constants.py``; what each is, of ``convert_hf_to_gguf.py`` (``T5EncoderModel``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ..containers.gguf import values
from ..core.planning import Planning
from ..core.tensor import LazyTensor
from ..errors import PlanError
from .sentencepiece import Model, parse_model, read_model
from .vocabulary import of_unigram

__all__ = ["SPIECE", "is_t5", "t5_header"]

SPIECE = "spiece_model"
"""The tensor of ComfyUI's files that holds the tokenizer's file."""

_NAME = "t5encoder"
_FILES = ("spiece.model", "tokenizer.model")
_EPSILON, _CONTEXT = 1e-6, 512
"""Of T5 where no config.json says otherwise."""


def is_t5(names: Mapping[str, object]) -> bool:
    """Whether names of llama.cpp's are those of T5's encoder."""
    return "enc.blk.0.attn_rel_b.weight" in names


def t5_header(
    tensors: Mapping[str, LazyTensor],
    facts: Mapping[str, object],
    spiece: LazyTensor | None,
    planning: Planning,
) -> dict[str, str | None]:
    """Metadata of T5's encoder; without a tokenizer, where none came with it.

    Args:
        tensors: by llama.cpp's names.
        facts: keys of its config.json.
        spiece: uint8, the bytes of its tokenizer's file, where it came as a tensor.
        planning: takes a warning where there is no tokenizer.

    Raises:
        PlanError: its gates or shapes are others than T5's, or its tokenizer is of another kind.
        FormatError: its tokenizer is no SentencePiece model.
    """
    if (gates := facts.get("feed_forward_proj", "gated-gelu")) != "gated-gelu":
        raise PlanError(
            f"config.json says feed_forward_proj: {gates!r}, but llama.cpp runs {_NAME} with gated-gelu only",
            hint="no GGUF file of it would be right",
        )
    (vocabulary, width), (buckets, heads), (rows, _), (_, inner) = (
        _shape(tensors, f"{stem}.weight")
        for stem in ("token_embd", "enc.blk.0.attn_rel_b", "enc.blk.0.attn_q", "enc.blk.0.ffn_down")
    )
    blocks = sum(name.startswith("enc.blk.") and name.endswith(".attn_q.weight") for name in tensors)
    epsilon = facts.get("layer_norm_epsilon", _EPSILON)
    numbers = {
        "context_length": facts.get("n_positions", _CONTEXT),
        "embedding_length": width,
        "feed_forward_length": inner,
        "block_count": blocks,
        "attention.head_count": heads,
        "attention.key_length": rows // heads,
        "attention.value_length": rows // heads,
        "attention.relative_buckets_count": buckets,
        "vocab_size": vocabulary,
    }
    said: dict[str, str | None] = {
        "general.architecture": values.make("string", _NAME),
        "general.type": values.make("string", "model"),
    }
    said |= {f"{_NAME}.{key}": values.make("uint32", str(number)) for key, number in numbers.items()}
    for key in ("layer_norm_epsilon", "layer_norm_rms_epsilon"):
        said[f"{_NAME}.attention.{key}"] = values.make("float32", str(epsilon))
    model, file = _tokenizer(planning.side_files, spiece)
    if model is None:
        planning.warn(
            f"GGUF: no vocabulary is written, as there is no {_FILES[0]}: ComfyUI-GGUF needs none of T5, but"
            " of umT5, and llama.cpp of either"
        )
        return said
    return said | of_unigram(model, vocabulary, file)


def _shape(tensors: Mapping[str, LazyTensor], name: str) -> tuple[int, int]:
    shape = tensors[name].spec.shape if name in tensors else ()
    if len(shape) != 2 or 0 in shape:
        raise PlanError(f"T5 has a matrix {name}, and this model {list(shape) if shape else 'none'}")
    return shape[0], shape[1]


def _tokenizer(files: Sequence[Path], spiece: LazyTensor | None) -> tuple[Model | None, Path]:
    named = {file.name: file for file in files}
    for name in _FILES:
        if name in named:
            return read_model(named[name]), named[name]
    if spiece is None:
        return None, Path()
    return parse_model(spiece.numpy().tobytes(), Path(spiece.name)), Path(spiece.name)
