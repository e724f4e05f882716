"""The vocabulary of a GGUF file: tokens and how text is cut into them, of pairs of bytes or of SentencePiece.

Keys are those of ``gguf-py/gguf/constants.py``; what each is, of ``convert_hf_to_gguf.py``.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..containers.gguf import values
from ..core import small_json
from ..core.typed import Typed
from ..errors import PlanError
from .sentencepiece import BPE, UNIGRAM, Model, Piece, read_model

__all__ = ["of_unigram", "vocabulary"]

_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED = 1, 3, 4, 5
"""``llama_token_type``."""

_ADDED, _FILLED = -1000.0, -10000.0
"""Scores of tokens that are none of SentencePiece's."""

_TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_HEAD = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_CUTS = {f"{_HEAD}\\p{{N}}{{1,3}}{_TAIL}": "llama-bpe", f"{_HEAD}\\p{{N}}{_TAIL}": "qwen2"}
"""How text is cut before pairs are merged -> llama.cpp's name of it (``llama-vocab.cpp``)."""

_PLACE = 0x2581
"""What SentencePiece writes for a blank."""


def vocabulary(
    files: Mapping[str, Path], total: int, facts: Mapping[str, object] | None = None
) -> dict[str, str | None]:
    """Metadata of a tokenizer: of byte pairs, or of SentencePiece.

    Args:
        files: side files by name: tokenizer.json, or tokenizer.model, and where there are,
            tokenizer_config.json and chat_template.jinja.
        total: how many tokens the model knows; those without a text are filled up.
        facts: keys of config.json.

    Raises:
        PlanError: there is no tokenizer, or it is of another kind.
        FormatError: tokenizer.model is no SentencePiece model.
    """
    path, pieces = files.get("tokenizer.json"), files.get("tokenizer.model")
    if path is None and pieces is None:
        raise PlanError("GGUF: there is no tokenizer.json, without which llama.cpp loads no model")
    stated = {} if path is None else small_json.read_object(path)
    config = (
        small_json.read_object(files["tokenizer_config.json"]) if "tokenizer_config.json" in files else {}
    )
    model = _object(stated.get("model"))
    if path is None or model.get("type") != "BPE" or model.get("byte_fallback"):
        if pieces is None:
            raise PlanError(
                f"its tokenizer is {model.get('type')!r}{' with bytes' * bool(model.get('byte_fallback'))}:"
                " only byte pairs (as of Llama 3 and Qwen) are written to GGUF without a tokenizer.model",
                hint="put the model's tokenizer.model beside it",
                file=path,
            )
        written, texts = _of_pieces(pieces, stated, config, total)
        if facts is not None and str(facts.get("model_type", "")).startswith("gemma"):
            written["tokenizer.ggml.add_space_prefix"] = values.make("bool", "False")
        elif isinstance(prefix := config.get("add_prefix_space"), bool):
            written["tokenizer.ggml.add_space_prefix"] = values.make("bool", str(prefix))
    else:
        written, texts = _of_pairs(path, stated, total)
    return written | _specials(files, config, texts, facts or {})


def _of_pieces(
    file: Path, stated: Mapping[str, object], config: Mapping[str, object], total: int
) -> tuple[dict[str, str | None], dict[int, str]]:
    """Of a SentencePiece model and the tokens that were added to it."""
    pieces, kind, *_ = read_model(file)
    if kind != BPE:
        raise PlanError(
            "is no SentencePiece model of byte pairs", file=file, hint="others are not known here"
        )
    # What the user of SentencePiece defined is a token as any other to llama.cpp's converter.
    known = {
        number: one._replace(kind=_NORMAL if one.kind == _USER_DEFINED else one.kind)
        for number, one in enumerate(pieces)
    }
    added = {one.get("id"): one for one in map(_object, _list(stated.get("added_tokens")))}
    for key, one in _object(config.get("added_tokens_decoder")).items():
        if key.isdecimal():
            added[int(key)] = _object(one)
    for number, token in added.items():
        if not isinstance(number, int) or not isinstance(text := token.get("content"), str):
            continue
        special = bool(token.get("special"))
        if not special:
            text = text.replace(chr(_PLACE), " ")
        known[number] = Piece(text, _ADDED, _CONTROL if special else _USER_DEFINED)
    if max(known) >= total:
        raise PlanError(f"has {max(known) + 1} tokens, the model only {total}", file=file)
    filled = [known.get(number, Piece(f"[PAD{number}]", _FILLED, _UNUSED)) for number in range(total)]
    written: dict[str, str | None] = {
        "tokenizer.ggml.model": values.make("string", "llama"),
        "tokenizer.ggml.pre": values.make("string", "default"),
        "tokenizer.ggml.tokens": _texts([one.text for one in filled]),
        "tokenizer.ggml.scores": _scores([one.score for one in filled]),
        "tokenizer.ggml.token_type": _numbers([one.kind for one in filled]),
    }
    return written, {number: one.text for number, one in known.items()}


def of_unigram(model: Model, total: int, file: Path) -> dict[str, str | None]:
    """Metadata of a SentencePiece model of whole pieces, as T5 has it.

    Args:
        model: it.
        total: how many tokens the model knows; those without a text are filled up.
        file: where it is from.

    Raises:
        PlanError: it is of another kind, or has more pieces.
    """
    if model.kind != UNIGRAM:
        raise PlanError("is no SentencePiece model of whole pieces (unigram), as T5 has", file=file)
    if len(model.pieces) > total:
        raise PlanError(f"has {len(model.pieces)} tokens, the model only {total}", file=file)
    pieces = [one._replace(kind=_NORMAL) if one.kind == _USER_DEFINED else one for one in model.pieces]
    pieces += [Piece(f"[PAD{number}]", _FILLED, _UNUSED) for number in range(len(pieces), total)]
    written: dict[str, str | None] = {
        "tokenizer.ggml.model": values.make("string", "t5"),
        "tokenizer.ggml.pre": values.make("string", "default"),
        "tokenizer.ggml.tokens": _texts([one.text for one in pieces]),
        "tokenizer.ggml.scores": _scores([one.score for one in pieces]),
        "tokenizer.ggml.token_type": _numbers([one.kind for one in pieces]),
        "tokenizer.ggml.add_space_prefix": values.make("bool", str(model.prefix)),
        "tokenizer.ggml.remove_extra_whitespaces": values.make("bool", str(model.trims)),
    }
    if model.table:
        table = values.array(values.KINDS["uint8"], len(model.table), memoryview(model.table), False)
        written["tokenizer.ggml.precompiled_charsmap"] = table
    numbers = {one.text: number for number, one in enumerate(pieces)}
    for kind, text in (("eos", "</s>"), ("padding", "<pad>"), ("unknown", "<unk>")):
        if text in numbers:
            written[f"tokenizer.ggml.{kind}_token_id"] = values.make("uint32", str(numbers[text]))
    return written


def _of_pairs(
    path: Path, stated: Mapping[str, object], total: int
) -> tuple[dict[str, str | None], dict[int, str]]:
    """Of a tokenizer of bytes whose pairs are merged."""
    model = _object(stated.get("model"))
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
    return written, texts


def _specials(
    files: Mapping[str, Path],
    config: Mapping[str, object],
    texts: Mapping[int, str],
    facts: Mapping[str, object],
) -> dict[str, str | None]:
    """Which tokens begin and end a text, and how a conversation is written."""
    written: dict[str, str | None] = {}
    by_text = {text: number for number, text in texts.items()}
    for kind, key in (("bos", "bos"), ("eos", "eos"), ("unknown", "unk"), ("padding", "pad")):
        said = config.get(f"{key}_token")
        text = said.get("content") if isinstance(said, dict) else said
        if text in by_text:
            written[f"tokenizer.ggml.{kind}_token_id"] = values.make("uint32", str(by_text[str(text)]))
        elif isinstance(number := facts.get(f"{key}_token_id"), int) and number in texts:
            written[f"tokenizer.ggml.{kind}_token_id"] = values.make("uint32", str(number))
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
    return _array("string", raw, len(texts))


def _scores(scores: Sequence[float]) -> Typed:
    return _array("float32", struct.pack(f"<{len(scores)}f", *scores), len(scores))


def _numbers(numbers: Sequence[int]) -> Typed:
    return _array("int32", struct.pack(f"<{len(numbers)}i", *numbers), len(numbers))


def _array(kind: str, raw: bytes, length: int) -> Typed:
    return values.array(values.KINDS[kind], length, memoryview(raw), False)


def _object(value: object) -> Mapping[str, object]:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> Sequence[object]:
    return value if isinstance(value, list) else []
