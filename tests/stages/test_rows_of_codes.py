"""Rows of quantized tensors put together by their codes: the values are those of the rows of values."""

from __future__ import annotations

import json

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

import transcode as tc
from transcode.containers.gguf import header
from transcode.core.event import Event
from transcode.core.permuted import permuted, reshaped
from transcode.core.rows import Run, rows_of
from transcode.stages.convert import Convert
from transcode.stages.rows_of_codes import coded_rows

DID = Event("convert", "rows")
SOURCES = [
    ("mxfp4", "compressed_tensors", {}), ("nvfp4", "modelopt", {}), ("nvfp4", "compressed_tensors", {}),
    ("mxfp8", "mlx", {}), ("int4", "compressed_tensors", {"group_size": 32}), ("int8", "neutral", {}),
    ("fp8", "deepseek", {}),
]  # fmt: skip


def opened(tmp_path, scheme, convention, options):
    """Four matrices of 256 rows as they are decoded, each with a size of its own."""
    rng = np.random.default_rng(1)
    names = [f"model.layers.0.mlp.experts.{number}.down_proj.weight" for number in range(4)]
    plain = {
        name: (rng.standard_normal((256, 128)) * 2.0**number).astype(ml_dtypes.bfloat16)
        for number, name in enumerate(names)
    }
    save_file(plain, tmp_path / "plain.safetensors")
    out = tmp_path / "q"
    (
        tc.open(tmp_path / "plain.safetensors")
        | tc.quantize(scheme, **options)
        | tc.write(out, convention=convention)
    )
    return list(tc.open(out) | tc.dequantize("F32"))


def stacked(tensors):
    rows = rows_of("x", (1024, 128), [Run(one, 0, 256) for one in tensors], did=DID)
    return reshaped(rows, (4, 256, 128))


PUT = {
    "a stack": stacked,
    "one of a stack": lambda t: rows_of("x", (256, 128), [Run(stacked(t), 512, 256)], did=DID),
    "halves swapped": lambda t: rows_of("x", (256, 128), [Run(t[1], 128, 128), Run(t[1], 0, 128)], did=DID),
    "heads reordered": lambda t: permuted(t[2], (4, 2, 32, 128), (0, 2, 1, 3), (256, 128)),
    "each of a stack reordered": lambda t: permuted(
        stacked(t), (4, 2, 128, 128), (0, 2, 1, 3), (4, 256, 128)
    ),
}


@pytest.mark.parametrize(("scheme", "convention", "options"), SOURCES, ids=str)
def test_values_are_those_of_the_rows(scheme, convention, options, tmp_path):
    tensors = opened(tmp_path, scheme, convention, options)
    for what, put in PUT.items():
        whole = put(tensors)
        decoding = coded_rows(whole)
        if scheme == "fp8" and "reordered" in what:
            assert decoding is None  # a scale is of 128 rows
            continue
        assert decoding is not None, what
        made = whole.evolve(value=decoding)
        assert np.array_equal(made.numpy(), whole.numpy()), what


def test_what_cannot_be_put_together(tmp_path):
    one, two, *_ = opened(tmp_path, "nvfp4", "modelopt", {})
    mixed = rows_of("x", (256, 128), [Run(one, 0, 128), Run(two, 0, 128)], did=DID)
    assert coded_rows(mixed) is None  # under one scale of the tensor
    three, *_ = opened(tmp_path / "..", "int8", "neutral", {"granularity": "tensor"})
    assert coded_rows(rows_of("x", (2, 256, 128), [Run(three, 0, 256)] * 2, did=DID)) is not None
    assert coded_rows(rows_of("x", (512, 128), [Run(one, 0, 256), Run(three, 0, 256)], did=DID)) is None


def blocks(path):
    """Bytes of each tensor of a GGUF file, by rows."""
    data = path.read_bytes()
    with path.open("rb") as file:
        entries = header.read(file, path).entries
    return {
        one.name: np.frombuffer(data, np.uint8, one.spec.nbytes, one.start).reshape(one.spec.rows, -1)
        for one in entries
    }


def nvfp4_blocks(codes, scales):
    """``block_nvfp4`` of ggml: four UE4M3, then values j and j + 8 of each 16 in one byte."""
    nibbles = np.stack((codes & 15, codes >> 4), -1).reshape(len(codes), -1, 4, 2, 8)
    joined = (nibbles[..., 0, :] | nibbles[..., 1, :] << 4).reshape(*nibbles.shape[:2], 32)
    return np.concatenate((scales.reshape(len(codes), -1, 4), joined), -1).reshape(len(codes), -1)


SIZES = {
    "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "hidden_size": 64, "head_dim": 32,
    "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 256,
    "intermediate_size": 64, "moe_intermediate_size": 64, "num_experts": 4, "num_experts_per_tok": 2,
    "norm_topk_prob": True, "max_position_embeddings": 64, "rms_norm_eps": 1e-6, "rope_theta": 1e4,
    "hidden_act": "silu", "tie_word_embeddings": False, "dtype": "bfloat16",
}  # fmt: skip


@pytest.fixture
def model(tmp_path):
    """A mixture of four experts, in BF16, with a tokenizer of all bytes."""
    tokenizers = pytest.importorskip("tokenizers")
    rng = np.random.default_rng(2)
    shapes = {"self_attn.q_norm": (32,), "self_attn.k_norm": (32,), "mlp.gate": (4, 64)}
    shapes |= {f"self_attn.{one}_proj": (32 if one in "kv" else 64, 64) for one in "qkvo"}
    shapes |= {f"mlp.experts.{e}.{one}_proj": (64, 64) for e in range(4) for one in ("gate", "up", "down")}
    shapes |= {"input_layernorm": (64,), "post_attention_layernorm": (64,)}
    shapes = {f"model.layers.0.{name}": shape for name, shape in shapes.items()}
    shapes |= {"model.embed_tokens": (256, 64), "model.norm": (64,), "lm_head": (256, 64)}
    path = tmp_path / "hf"
    path.mkdir()
    made = {f"{name}.weight": rng.standard_normal(shape) for name, shape in shapes.items()}
    made = {name: one.astype(ml_dtypes.bfloat16) for name, one in made.items()}
    save_file(made, path / "model.safetensors")
    (path / "config.json").write_text(json.dumps(SIZES))
    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {one: number for number, one in enumerate(letters)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.save(str(path / "tokenizer.json"))
    (path / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    return path


def parts(folder):
    """Bytes of each tensor of a folder with one file, by rows."""
    (path,) = folder.glob("*.safetensors")
    data = path.read_bytes()
    size = 8 + int.from_bytes(data[:8], "little")
    listed = json.loads(data[8:size])
    return {
        name: np.frombuffer(data[slice(*(size + at for at in one["data_offsets"]))], np.uint8).reshape(
            one["shape"][0] if len(one["shape"]) > 1 else 1, -1
        )
        for name, one in listed.items()
        if name != "__metadata__"
    }


def test_listed_experts_become_a_stack_of_gguf_and_come_back(model, tmp_path):
    """Each expert with the scale that it has."""
    source, gguf, back = tmp_path / "q", tmp_path / "o.gguf", tmp_path / "back"
    tc.open(model) | tc.quantize("nvfp4") | tc.write(source, convention="modelopt")
    report = tc.open(source) | Convert("gguf") | tc.quantize("ggml_nvfp4") | tc.write(gguf, lossless=True)
    assert len(report.recoded) == 7
    stored, out = parts(source), blocks(gguf)
    for part in ("gate", "up", "down"):
        stems = [f"model.layers.0.mlp.experts.{number}.{part}_proj.weight" for number in range(4)]
        wanted = [nvfp4_blocks(stored[stem], stored[f"{stem}_scale"]) for stem in stems]
        assert np.array_equal(out[f"blk.0.ffn_{part}_exps.weight"], np.concatenate(wanted))
        scales = out[f"blk.0.ffn_{part}_exps.scale"].tobytes()
        assert scales == b"".join(stored[f"{stem}_scale_2"].tobytes() for stem in stems)
        assert len({*np.frombuffer(scales, np.float32).tolist()}) == 4
    flow = tc.open(gguf) | Convert("transformers") | tc.quantize("nvfp4")
    flow | tc.write(back, convention="modelopt", lossless=True)
    again = parts(back)
    assert again.keys() == stored.keys()
    quantized = [name for name in stored if f"{name.partition('.weight')[0]}.weight_scale_2" in stored]
    assert len(quantized) == 16 * 3
    assert all(np.array_equal(again[name], stored[name]) for name in quantized)


def test_packed_codes_do_not_hide_the_family(model, tmp_path):
    """What is named ``weight_packed`` is a weight where a spelling is recognised."""
    source, out = tmp_path / "q", tmp_path / "o"
    tc.open(model) | tc.quantize("mxfp4") | tc.write(source, convention="compressed_tensors")
    tc.open(source) | Convert("multimodal") | tc.write(out)
    assert "model.language_model.layers.0.mlp.experts.0.up_proj.weight_packed" in parts(out)
