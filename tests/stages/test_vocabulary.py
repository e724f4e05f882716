"""Vocabularies of GGUF files, of SentencePiece models. Those of byte pairs: test_llama_header.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from transcode.core.typed import Typed
from transcode.errors import PlanError
from transcode.stages.sentencepiece import Piece
from transcode.stages.vocabulary import vocabulary

from .test_sentencepiece import PIECES, model


def files(tmp_path: Path, **contents: Any) -> dict[str, Path]:
    (tmp_path / "tokenizer.model").write_bytes(model([*PIECES, Piece("told", -3.0, 4)]))
    for name, content in contents.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    return {path.name: path for path in tmp_path.iterdir()}


def listed(value: object) -> Any:
    assert isinstance(value, Typed)
    return json.loads(value if value.full is None else value.full())


def test_pieces_and_what_was_added(tmp_path: Path) -> None:
    added = {"5": {"content": "<|end|>", "special": True}, "6": {"content": "a\u2581b", "special": False}}
    config = {"added_tokens_decoder": added, "bos_token": "<s>", "eos_token": {"content": "<|end|>"},
              "add_bos_token": True, "chat_template": "x"}  # fmt: skip
    found = vocabulary(files(tmp_path, tokenizer_config=config), 8, {"model_type": "gemma2"})
    assert found["tokenizer.ggml.model"] == "llama"
    assert listed(found["tokenizer.ggml.tokens"]) == [
        "<unk>", "<s>", "\u2581the", "<0x0A>", "told", "<|end|>", "a b", "[PAD7]",
    ]  # fmt: skip
    assert listed(found["tokenizer.ggml.scores"]) == [0.0, 0.0, -1.5, 0.0, -3.0, -1000.0, -1000.0, -10000.0]
    assert listed(found["tokenizer.ggml.token_type"]) == [2, 3, 1, 6, 1, 3, 4, 5]
    said = {key: found[f"tokenizer.ggml.{key}"] for key in ("bos_token_id", "eos_token_id", "add_bos_token")}
    assert {key: str(value).lower() for key, value in said.items()} == {
        "bos_token_id": "1", "eos_token_id": "5", "add_bos_token": "true",
    }  # fmt: skip
    assert str(found["tokenizer.ggml.add_space_prefix"]).lower() == "false"


def test_tokens_that_only_config_json_names(tmp_path: Path) -> None:
    found = vocabulary(files(tmp_path), 5, {"model_type": "llama", "bos_token_id": 1, "eos_token_id": 99})
    assert str(found["tokenizer.ggml.bos_token_id"]) == "1"
    assert "tokenizer.ggml.eos_token_id" not in found
    assert "tokenizer.ggml.add_space_prefix" not in found


def test_pairs_of_bytes_go_before_pieces(tmp_path: Path) -> None:
    pairs = {
        "model": {"type": "BPE", "vocab": {"a": 0}, "merges": []},
        "pre_tokenizer": {"type": "ByteLevel"},
    }
    assert vocabulary(files(tmp_path, tokenizer=pairs), 2)["tokenizer.ggml.model"] == "gpt2"
    pairs["model"]["byte_fallback"] = True
    assert vocabulary(files(tmp_path, tokenizer=pairs), 5)["tokenizer.ggml.model"] == "llama"
    (tmp_path / "tokenizer.model").unlink()
    with pytest.raises(PlanError, match=r"'BPE' with bytes: .* without a tokenizer\.model"):
        vocabulary({"tokenizer.json": tmp_path / "tokenizer.json"}, 5)


def test_what_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="has 5 tokens, the model only 4"):
        vocabulary(files(tmp_path), 4)
    (tmp_path / "tokenizer.model").write_bytes(model(PIECES, 1))
    with pytest.raises(PlanError, match="no SentencePiece model of byte pairs"):
        vocabulary({"tokenizer.model": tmp_path / "tokenizer.model"}, 4)
