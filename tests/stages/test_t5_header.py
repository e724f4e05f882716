"""T5's encoder as llama.cpp and ComfyUI-GGUF read it: what its header says, from its tensors alone."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import transcode as tc
from transcode.core.typed import Typed
from transcode.errors import TranscodeError
from transcode.stages.convert import Convert

from .families_of_diffusers import told
from .llama_cpp import answer
from .test_sentencepiece import UNIGRAM, Piece, field, model

transformers = pytest.importorskip("transformers")

SIZES = {"d_model": 64, "d_ff": 96, "d_kv": 16, "num_heads": 2, "num_layers": 2, "vocab_size": 300,
         "feed_forward_proj": "gated-gelu"}  # fmt: skip
PIECES = [
    Piece("<pad>", 0.0, 3), Piece("</s>", 0.0, 3), Piece("<unk>", 0.0, 2), Piece("\u2581the", -1.5),
    *(Piece(chr(letter), -3.0 - letter / 100) for letter in range(97, 123)), Piece("\u2581", -2.0),
]  # fmt: skip
IDS = [3, 7, 12, 5, 1]
NORMED = field(1, b"nmt_nfkc")


def folder(path: Path, kind: str = "T5") -> Path:
    """A model of values that are the same on any machine, and its tokenizer."""
    config = getattr(transformers, f"{kind}Config")(**SIZES)
    encoder = getattr(transformers, f"{kind}EncoderModel")(config)
    with torch.no_grad():
        for name, value in encoder.named_parameters():
            value.copy_(told(name, value.shape) * 4 + ("norm" in name))
    encoder.save_pretrained(path)
    (path / "spiece.model").write_bytes(model(PIECES, UNIGRAM, NORMED))
    return path


def told_by_header(kind: str) -> dict[str, str]:
    """By the configuration of transformers' class."""
    config = getattr(transformers, f"{kind}Config")(**SIZES)
    sizes = {
        "context_length": 512, "embedding_length": config.d_model, "feed_forward_length": config.d_ff,
        "block_count": config.num_layers, "attention.head_count": config.num_heads,
        "attention.key_length": config.d_kv, "attention.value_length": config.d_kv,
        "attention.relative_buckets_count": config.relative_attention_num_buckets,
        "attention.layer_norm_epsilon": config.layer_norm_epsilon,
        "attention.layer_norm_rms_epsilon": config.layer_norm_epsilon, "vocab_size": config.vocab_size,
    }  # fmt: skip
    return {f"t5encoder.{key}": str(value) for key, value in sizes.items()}


@pytest.mark.parametrize("kind", ["T5", "UMT5"])
def test_the_header_follows_from_the_tensors(kind: str, tmp_path: Path) -> None:
    """A folder of transformers, and ComfyUI's one file of it, which holds the tokenizer as a tensor."""
    path, out = folder(tmp_path / "hf", kind), tmp_path / "folder.gguf"
    tc.open(path) | Convert("gguf") | tc.write(out)
    found = tc.open(out).metadata
    assert found["general.architecture"] == "t5encoder"
    assert found.items() >= told_by_header(kind).items()
    tokens = found["tokenizer.ggml.tokens"]
    assert isinstance(tokens, Typed)
    assert tokens.full is not None
    assert tokens.full().startswith('["<pad>", "</s>", "<unk>", "▁the", "a", "b"')
    assert {key: found[f"tokenizer.ggml.{key}"] for key in ("model", "add_space_prefix", "eos_token_id")} == {
        "model": "t5", "add_space_prefix": "true", "eos_token_id": "1",
    }  # fmt: skip
    raw = np.frombuffer((path / "spiece.model").read_bytes(), np.uint8)
    held = load_file(path / "model.safetensors") | {"spiece_model": torch.from_numpy(raw.copy())}
    held.pop("encoder.embed_tokens.weight", None)
    save_file(held, tmp_path / "comfy.safetensors")
    tc.open(tmp_path / "comfy.safetensors") | Convert("gguf") | tc.write(tmp_path / "file.gguf")
    again = tc.open(tmp_path / "file.gguf").metadata
    assert {key: value for key, value in again.items() if key != "transcode"} == {
        key: value for key, value in found.items() if key != "transcode"
    }


def test_what_it_cannot_say(tmp_path: Path) -> None:
    path = folder(tmp_path / "hf")
    (path / "spiece.model").write_bytes(model(PIECES, 2))
    with pytest.raises(TranscodeError, match=r"spiece\.model: is no SentencePiece model of whole pieces"):
        (tc.open(path) | Convert("gguf")).plan(tc.write(tmp_path / "x.gguf"))
    (path / "spiece.model").write_bytes(model(PIECES * 10, UNIGRAM))
    with pytest.raises(TranscodeError, match=r"has 310 tokens, the model only 300"):
        (tc.open(path) | Convert("gguf")).plan(tc.write(tmp_path / "x.gguf"))
    (path / "spiece.model").unlink()
    plan = (tc.open(path) | Convert("gguf")).plan(tc.write(tmp_path / "x.gguf"))
    assert any("no vocabulary is written" in str(warning) for warning in plan.log.warnings)
    config = (path / "config.json").read_text()
    (path / "config.json").write_text(config.replace("gated-gelu", "gated-silu"))
    with pytest.raises(TranscodeError, match="feed_forward_proj: 'gated-silu'"):
        (tc.open(path) | Convert("gguf")).plan(tc.write(tmp_path / "x.gguf"))


RUN = """
import json, sys, xllamacpp as x
p = x.CommonParams()
p.model.path, p.n_ctx, p.n_parallel, p.warmup, p.fit_params = sys.argv[1], 64, 1, False, False
p.cpuparams.n_threads, p.embedding, p.pooling_type, p.embd_normalize = 1, True, x.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN, -1
p.attention_type = x.llama_attention_type.LLAMA_ATTENTION_TYPE_NON_CAUSAL
r = x.Server(p).handle_embeddings({"input": json.loads(sys.argv[2]), "embd_normalize": -1})
r = json.loads(r) if isinstance(r, (str, bytes)) else r
print("ANSWER", json.dumps(r), flush=True)
"""  # noqa: E501


@pytest.mark.skipif(find_spec("xllamacpp") is None, reason="llama.cpp (xllamacpp) is not installed")
def test_llama_cpp_embeds_as_transformers(tmp_path: Path) -> None:
    path, out = folder(tmp_path / "hf"), tmp_path / "t5.gguf"
    tc.open(path) | Convert("gguf") | tc.write(out)
    theirs = answer(RUN, out, IDS)["data"][0]["embedding"]
    encoder = transformers.T5EncoderModel.from_pretrained(path)
    with torch.no_grad():
        ours = encoder(torch.tensor([IDS])).last_hidden_state[0].mean(0)
    torch.testing.assert_close(torch.tensor(theirs), ours, atol=2e-3, rtol=0)
