"""Language models as llama.cpp reads them: names, rows of q and k, stacked experts, header, its answers."""

from __future__ import annotations

import hashlib
import json
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

import transcode as tc
from transcode.core.planning import Planning
from transcode.core.typed import Typed
from transcode.errors import PlanError, TranscodeError
from transcode.stages.convert import Convert
from transcode.stages.llama_header import header
from transcode.stages.vocabulary import vocabulary

from .families_of_diffusers import told
from .llama_cpp import answer

pytest.importorskip("transformers", reason="transformers is not installed")

HEADS, KV_HEADS = 4, 2
SIZES = {
    "vocab_size": 270, "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2,
    "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "max_position_embeddings": 64,
    "initializer_range": 0.2, "bos_token_id": 257, "eos_token_id": 256,
}  # fmt: skip
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64, "head_dim": 32,
           "norm_topk_prob": True}  # fmt: skip
LLAMA3 = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
          "high_freq_factor": 4.0, "original_max_position_embeddings": 32}  # fmt: skip
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 16}
SECTIONS = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]}
SIGHT = {"depth": 1, "hidden_size": 16, "intermediate_size": 24, "num_heads": 2, "out_hidden_size": 64}
SEES = {"num_hidden_layers": 1, "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2,
        "image_size": 28, "patch_size": 14}  # fmt: skip
PIXTRAL = SEES | {"model_type": "pixtral"}
GEMMA = {"head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 4}
LATENT = {
    "kv_lora_rank": 32, "qk_rope_head_dim": 16, "qk_nope_head_dim": 32, "v_head_dim": 32, "n_group": 1,
    "topk_group": 1, "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64,
    "first_k_dense_replace": 1, "num_key_value_heads": 2, "head_dim": 16,
}  # fmt: skip
MODELS: dict[str, dict[str, Any]] = {
    "Llama": {}, "Qwen2": {}, "Qwen3": {"head_dim": 32}, "Qwen3Moe": EXPERTS,
}  # fmt: skip
SMALL = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 2, "num_key_value_heads": 1}
FURTHER: dict[str, tuple[dict[str, Any], str]] = {
    "Llama, as of 3.1": ({"rope_parameters": LLAMA3}, "95c0311e863611e7"),
    "Qwen3, yarn": ({"head_dim": 32, "rope_parameters": YARN}, "b45bb749af94a994"),
    "Mixtral": ({"num_local_experts": 4}, "94eed318025ce47b"),
    "Qwen2Moe": ({"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64,
                  "shared_expert_intermediate_size": 96}, "1e835f6a27da2bbe"),
    "Gemma2": (GEMMA, "05a16cd11fb31770"),
    "Gemma3Text": (GEMMA | {"num_hidden_layers": 6}, "af06e8e829e77b9b"),
    "Phi3": ({"pad_token_id": 0}, "85d75aab2ca824bb"),
    "DeepseekV2": (LATENT | {"q_lora_rank": 24, "topk_method": "greedy"}, "fe8583272accd85e"),
    "DeepseekV3": (LATENT | {"q_lora_rank": 24, "rope_parameters":
                             YARN | {"mscale": 1.0, "mscale_all_dim": 1.0}}, "69b7b044e46aafc4"),
    "Glm4Moe": ({"head_dim": 32, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1,
                 "moe_intermediate_size": 64, "first_k_dense_replace": 1, "use_qk_norm": True,
                 "topk_group": 1}, "502be014b8b480e9"),
    "MiniMaxM2": ({"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 32, "rotary_dim": 16},
                  "5359c97efef49dc3"),
    "Llama4Text": ({"num_local_experts": 4, "num_experts_per_tok": 1, "head_dim": 32, "moe_layers": None,
                    "intermediate_size_mlp": 128, "interleave_moe_layer_step": 2, "num_hidden_layers": 4,
                    "rope_parameters": LLAMA3}, "5298dac5d0c35d46"),
    "Qwen2_5_VL": ({"rope_parameters": SECTIONS, "vision_config": SIGHT}, "21ea5e3dcd663136"),
    "Qwen3VL": ({"head_dim": 32, "rope_parameters": SECTIONS | {"mrope_interleaved": True},
                 "vision_config": SIGHT | {"num_position_embeddings": 16, "deepstack_visual_indexes": [0]}},
                "e213aafbdbca31d5"),
    "Qwen3VLMoe": (EXPERTS | {"moe_intermediate_size": 96,
                              "rope_parameters": SECTIONS | {"mrope_interleaved": True},
                              "vision_config": SIGHT | {"num_position_embeddings": 16,
                                                        "deepstack_visual_indexes": [0]}},
                   "4367ea36d011587c"),
    "Gemma3": (GEMMA | {"num_hidden_layers": 6, "vision_config": SEES}, "af06e8e829e77b9b"),
    "Mistral3, of Ministral 3": (
        {"model_type": "ministral3", "head_dim": 32, "vision_config": PIXTRAL,
         "rope_parameters": YARN | {"original_max_position_embeddings": 4, "mscale": 1.0,
                                    "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.1}},
        "877ea26c702ce831"),
    "Mistral3, of text as Mistral": (
        {"model_type": "mistral", "head_dim": 32, "sliding_window": None, "vision_config": PIXTRAL},
        "d14a5a4e260074f4"),
    "GptOss": ({"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 32, "sliding_window": 4},
               "fa061e78e59ccf42"),
}  # fmt: skip
"""Models, and a digest of the tensors of which llama.cpp gave transformers' answers when it was recorded."""

SIGHTS = re.compile("visual|vision_tower|multi_modal_projector")
SEEDED = ("Gemma2", "Gemma3Text", "Gemma3", "GptOss", "Mistral3, of Ministral 3",
          "Mistral3, of text as Mistral")  # fmt: skip
"""Models with values of their own, as the likeliest token of llama.cpp's answer must have a text."""
ALIKE = {"Gemma3": "Gemma3Text"}
"""Models that see -> those whose values what reads text of them has."""
NAMES = {
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm", "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "mlp.gate": "ffn_gate_inp",
}  # fmt: skip
IDS = [257, 70, 75, 112, 9, 200, 33, 30]


def folder(kind: str, path: Path) -> Path:
    """A random model with a tokenizer of all bytes and two special tokens."""
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    torch.manual_seed(0)
    sizes = SIZES | MODELS[kind] if kind in MODELS else SIZES | SMALL | FURTHER[kind][0]
    if sees := "vision_config" in sizes:
        sizes = {"vision_config": sizes.pop("vision_config"), "text_config": sizes}
    config = getattr(transformers, f"{kind.partition(',')[0]}Config")(**sizes)
    auto = transformers.AutoModelForImageTextToText if sees else transformers.AutoModelForCausalLM
    model = auto.from_config(config)
    with torch.no_grad():
        for name, value in (*model.named_parameters(), *model.named_buffers()):
            if kind in FURTHER and "rotary" not in name:  # the same on any machine
                seed = f"{ALIKE.get(kind, kind)} {name}" if kind in SEEDED else name
                seed = seed.replace("language_model.", "") if kind in ALIKE else seed
                value.copy_(told(seed, value.shape) * 8 + ("norm.weight" in name and "Gemma" not in kind))
            elif "norm" in name or name.endswith("bias"):
                value.add_(torch.randn_like(value) * 0.1)
    model.save_pretrained(path)
    if kind == "Qwen3VLMoe":  # transformers' way back does not turn its experts, as they are published
        file = path / "model.safetensors"
        held = load_file(file)
        save_file({n: one.swapaxes(1, 2).copy() if "_proj" in n and one.ndim == 3 else one
                   for n, one in held.items()}, file)  # fmt: skip
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={one: n for n, one in enumerate(letters)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    fast.add_special_tokens({"eos_token": "</s>"})
    fast.chat_template = "{{ messages }}"
    fast.save_pretrained(path)
    return path


@pytest.fixture(scope="module", params=list(MODELS))
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, Path]:
    """Which, the folder, and the GGUF file."""
    path = folder(request.param, tmp_path_factory.mktemp(request.param) / "hf")
    out = path.parent / "model.gguf"
    tc.open(path) | Convert("gguf") | tc.write(out)
    return request.param, path, out


def expected(kind: str, path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """By names written out here, and the formula of llama.cpp's converter."""
    tensors = {one.name: one.numpy() for one in tc.open(path)}
    outer = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    made = {f"{new}.weight": tensors[f"{old}.weight"] for old, new in outer.items()}
    for layer in range(2):
        for old, new in NAMES.items():
            for what in ("weight", "bias"):
                array = tensors.get(f"model.layers.{layer}.{old}.{what}")
                if array is None:
                    continue
                if kind == "Llama" and new in ("attn_q", "attn_k"):
                    heads = HEADS if new == "attn_q" else KV_HEADS
                    split = array.reshape(heads, 2, array.shape[0] // heads // 2, *array.shape[1:])
                    array = split.swapaxes(1, 2).reshape(array.shape)
                made[f"blk.{layer}.{new}.{what}"] = array
        if kind == "Qwen3Moe":
            for which in ("gate", "up", "down"):
                stem = f"model.layers.{layer}.mlp.experts"
                listed = [tensors[f"{stem}.{e}.{which}_proj.weight"] for e in range(4)]
                made[f"blk.{layer}.ffn_{which}_exps.weight"] = np.stack(listed)
    return made


def test_tensors_are_llamas(model: tuple[str, Path, Path]) -> None:
    kind, path, out = model
    theirs = expected(kind, path)
    ours = {one.name: one for one in tc.open(out)}
    assert ours.keys() == theirs.keys()
    for name, array in theirs.items():
        assert np.array_equal(ours[name].numpy(), array), name
        assert array.ndim > 1 or ours[name].dtype.name == "F32"


def test_it_comes_back(model: tuple[str, Path, Path]) -> None:
    _, path, out = model
    back = out.parent / "back.safetensors"
    tc.open(out) | Convert("transformers") | tc.write(back, force=True)
    first, again = ({one.name: one.numpy() for one in tc.open(file)} for file in (path, back))
    assert first.keys() == again.keys()
    assert all(np.array_equal(first[name], again[name]) for name in first)


@pytest.mark.parametrize("kind", list(FURTHER))
def test_further_models(kind: str, tmp_path: Path) -> None:
    """All tensors as recorded, and back again; where llama.cpp is installed, its answers."""
    path, out = folder(kind, tmp_path / "hf"), tmp_path / "model.gguf"
    tc.open(path) | Convert("gguf") | tc.write(out)
    made = {one.name: one.numpy() for one in tc.open(out)}
    found = hashlib.sha256()
    for name, array in sorted(made.items()):
        found.update(
            f"{name} {list(array.shape)}".encode() + np.ascontiguousarray(array, np.float32).tobytes()
        )
    if find_spec("xllamacpp") is not None:
        assert apart(path, out) < 0.05
    if find_spec("gguf") is not None:
        assert made.keys() <= named(str(tc.open(out).metadata["general.architecture"]))
    assert found.hexdigest()[:16] == FURTHER[kind][1]
    if kind == "DeepseekV3":  # which is what Kimi K2 is under another name
        config = (path / "config.json").read_text()
        (path / "config.json").write_text(config.replace("deepseek_v3", "kimi_k2"))
        tc.open(path) | Convert("gguf") | tc.write(tmp_path / "kimi.gguf")
        assert dict(tc.open(tmp_path / "kimi.gguf").metadata) == dict(tc.open(out).metadata)
    back = tmp_path / "back.safetensors"
    to = "llava" if kind.startswith(("Gemma3,", "Mistral3")) or kind == "Gemma3" else "transformers"
    tc.open(out) | Convert("multimodal" if kind.startswith("Qwen3VL") else to) | tc.write(back)
    first, again = (
        {one.name: one.numpy() for one in tc.open(file) if not SIGHTS.search(one.name)}
        for file in (path, back)
    )
    assert first.keys() == again.keys()
    # One is added to norms in float32, and taken off again.
    most = 2.0**-24 if "Gemma" in kind else 0.0
    assert all(np.abs(first[name] - again[name]).max() <= most for name in first)


def named(architecture: str) -> set[str]:
    """Names that the package gguf lists for a model of eight blocks."""
    import gguf

    kinds = {text: kind for kind, text in gguf.MODEL_ARCH_NAMES.items()}
    stems = (gguf.TENSOR_NAMES[one] for one in gguf.MODEL_TENSORS[kinds[architecture]])
    return {f"{stem.format(bid=i)}.{what}" for stem in stems for i in range(8) for what in ("weight", "bias")}


def test_what_the_header_says(model: tuple[str, Path, Path]) -> None:
    from transformers import PreTrainedTokenizerFast

    kind, path, out = model
    metadata = tc.open(out).metadata
    name = {"Llama": "llama", "Qwen2": "qwen2", "Qwen3": "qwen3", "Qwen3Moe": "qwen3moe"}[kind]
    assert metadata["general.architecture"] == name
    said = {
        "block_count": 2, "embedding_length": 128, "feed_forward_length": 256, "context_length": 64,
        "attention.head_count": HEADS, "attention.head_count_kv": KV_HEADS,
    }  # fmt: skip
    assert {key: int(metadata[f"{name}.{key}"]) for key in said} == said
    assert ("qwen3moe.expert_count" in metadata) is (kind == "Qwen3Moe")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(path)
    assert metadata["tokenizer.ggml.eos_token_id"] == str(tokenizer.eos_token_id)
    assert metadata["tokenizer.ggml.bos_token_id"] == str(tokenizer.bos_token_id)
    assert metadata["tokenizer.chat_template"] == "{{ messages }}"
    tokens = metadata["tokenizer.ggml.tokens"]
    assert isinstance(tokens, Typed)
    assert tokens.full is not None
    texts = [tokenizer.convert_ids_to_tokens(number) for number in range(len(tokenizer))]
    assert json.loads(tokens.full())[: len(texts)] == texts
    assert metadata["tokenizer.ggml.pre"] == "gpt-2"


def test_small_tensors_stay_float32_whatever_is_cast(model: tuple[str, Path, Path]) -> None:
    _, path, out = model
    cast = out.parent / "cast.gguf"
    tc.open(path) | Convert("gguf") | tc.cast("bf16") | tc.write(cast, force=True)
    for one in tc.open(cast):
        small = one.ndim == 1 or "ffn_gate_inp" in one.name
        assert one.dtype.name == ("F32" if small else "BF16"), one.name


RUN = """
import json, sys, xllamacpp as x
p = x.CommonParams()
p.model.path, p.n_ctx, p.n_parallel, p.warmup, p.fit_params = sys.argv[1], 64, 1, False, False
p.cpuparams.n_threads = 1
p.cache_type_k = p.cache_type_v = x.ggml_type.GGML_TYPE_F32
r = x.Server(p).handle_completions({"prompt": json.loads(sys.argv[2]), "n_predict": 3, "n_probs": 256,
                                    "temperature": -1.0, "ignore_eos": True})
r = json.loads(r) if isinstance(r, (str, bytes)) else r
print("ANSWER", json.dumps(r["choices"][0]["logprobs"]["content"][0]["top_logprobs"]), flush=True)
"""


@pytest.mark.parametrize(("scheme", "most"), [(None, 0.05), ("q8_0", 0.5)])
@pytest.mark.skipif(find_spec("xllamacpp") is None, reason="llama.cpp (xllamacpp) is not installed")
def test_llama_cpp_answers_as_transformers(
    model: tuple[str, Path, Path], scheme: str | None, most: float
) -> None:
    _, path, out = model
    if scheme is not None:
        out = out.parent / f"{scheme}.gguf"
        tc.open(path) | Convert("gguf") | tc.quantize(scheme) | tc.write(out, force=True)
    assert apart(path, out) < most


def apart(path: Path, out: Path) -> float:
    """The most by which llama.cpp's log-probabilities differ from transformers'."""
    import transformers

    theirs = {one["id"]: one["logprob"] for one in answer(RUN, out, IDS)}
    sees = "vision_config" in json.loads((path / "config.json").read_text())
    auto = transformers.AutoModelForImageTextToText if sees else transformers.AutoModelForCausalLM
    with torch.no_grad():
        ours = auto.from_pretrained(path, dtype=torch.float32)(torch.tensor([IDS]))
    logs = ours.logits[0, -1].log_softmax(-1)
    assert len(theirs) == 256
    return max(abs(float(logs[number]) - value) for number, value in theirs.items())


def test_models_that_are_not_known(tmp_path: Path, model: tuple[str, Path, Path]) -> None:
    _, path, _ = model
    other = tmp_path / "hf"
    other.mkdir()
    for file in path.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "model_type": "granite"}))
    with pytest.raises(TranscodeError, match="'granite' is not written to GGUF here: which model it is"):
        (tc.open(other) | Convert("gguf")).plan(tc.write(tmp_path / "x.gguf"))
    (other / "config.json").write_text(json.dumps({**config, "model_type": "qwen3_next"}))
    with pytest.raises(TranscodeError, match=r"'qwen3_next' is not written to GGUF here: .*-exp\(A_log\)"):
        (tc.open(other) | Convert("gguf")).plan(tc.write(tmp_path / "x.gguf"))
    (other / "config.json").write_text(json.dumps({**config, "rope_parameters": {"rope_type": "longrope"}}))
    with pytest.raises(TranscodeError, match="scales positions by 'longrope'"):
        (tc.open(other) | Convert("gguf")).plan(tc.write(tmp_path / "x.gguf"))
    (other / "tokenizer.json").unlink()
    (other / "config.json").write_text(json.dumps(config))
    with pytest.raises(TranscodeError, match=r"there is no tokenizer\.json"):
        (tc.open(other) | Convert("gguf")).plan(tc.write(tmp_path / "x.gguf"))


def test_tokenizers_of_another_kind(tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.json"
    file.write_text(json.dumps({"model": {"type": "Unigram", "vocab": []}}))
    with pytest.raises(PlanError, match="its tokenizer is 'Unigram'"):
        vocabulary({file.name: file}, 10)
    cut = {"type": "Split", "pattern": {"Regex": "x+"}}
    file.write_text(
        json.dumps({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}, "pre_tokenizer": cut})
    )
    with pytest.raises(PlanError, match="no known name for"):
        vocabulary({file.name: file}, 10)
    with pytest.raises(PlanError, match="is known for model_type 'x'"):
        header({"model_type": "x"}, Planning().side_files)


WRONG: list[tuple[dict[str, object], str]] = [
    ({"model_type": "llama", "vocab_size": "many"}, "vocab_size: 'many', which is not a whole number"),
    ({"model_type": "llama", "hidden_size": [1]}, r"hidden_size: \[1\], which is not a whole number"),
    ({"model_type": "llama", "num_attention_heads": 0}, "num_attention_heads: 0"),
    ({"model_type": "llama", "rms_norm_eps": None}, "has no rms_norm_eps"),
    ({"model_type": "llama", "rope_parameters": "x"}, "rope_parameters: 'x', which is no object"),
    ({"model_type": "llama", "head_dim": "x"}, "head_dim: 'x'"),
    ({"model_type": "llama", "hidden_act": "relu"}, "hidden_act: 'relu', but llama.cpp runs llama with silu"),
    ({"model_type": "qwen3_moe", "norm_topk_prob": False}, "runs qwen3moe with True only"),
    ({"model_type": "gemma2", "query_pre_attn_scalar": 99, "head_dim": 32}, "takes 32 for such a gemma2"),
    ({"model_type": "deepseek_v2"}, "no q_lora_rank, and num_hidden_layers: 2"),
    ({"model_type": "glm4_moe", "norm_topk_prob": 1.5}, "norm_topk_prob: 1.5, which is not true or false"),
    ({"model_type": "glm4_moe", "partial_rotary_factor": 3}, "between 0 and 1"),
    ({"model_type": "llama4", "attention_chunk_size": 4096}, "runs llama4 with 8192 only"),
    (
        {
            "model_type": "llama4",
            "use_qk_norm": False,
            "intermediate_size_mlp": 8,
            "num_experts": 16,
            "interleave_moe_layer_step": 1,
        },
        "use_qk_norm: False, but llama.cpp norms q and k",
    ),
    ({"model_type": "qwen2_5_vl", "rope_parameters": {"mrope_section": [4, 6]}}, r"mrope_section: \[4, 6\]"),
]


@pytest.mark.parametrize(("wrong", "why"), WRONG)
def test_what_config_json_says_wrongly(wrong: dict[str, object], why: str) -> None:
    """An error of one line, whatever stands there."""
    facts = {**SIZES, "rms_norm_eps": 1e-5, **wrong}
    with pytest.raises(PlanError, match=why):
        header(facts, Planning().side_files)


META = {
    "input_layernorm": "attention_norm", "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attention.wq", "self_attn.k_proj": "attention.wk",
    "self_attn.v_proj": "attention.wv", "self_attn.o_proj": "attention.wo",
    "mlp.gate_proj": "feed_forward.w1", "mlp.up_proj": "feed_forward.w3",
    "mlp.down_proj": "feed_forward.w2",
}  # fmt: skip


def test_names_and_rows_of_llamas_own_releases(tmp_path: Path) -> None:
    """As transformers' convert_llama_weights_to_hf.py permutes them, and back by params.json alone."""
    path = folder("Llama", tmp_path / "hf")
    tc.open(path) | Convert("original") | tc.write(tmp_path / "meta" / "consolidated.safetensors")
    tensors = {one.name: torch.from_numpy(one.numpy().copy()) for one in tc.open(path)}
    original = {one.name: torch.from_numpy(one.numpy().copy()) for one in tc.open(tmp_path / "meta")}
    outer = {"model.embed_tokens": "tok_embeddings", "model.norm": "norm", "lm_head": "output"}
    assert original.keys() == {f"{new}.weight" for new in outer.values()} | {
        f"layers.{i}.{new}.weight" for i in range(2) for new in META.values()
    }
    for i in range(2):
        for old, new in META.items():
            found = original[f"layers.{i}.{new}.weight"]
            if new in ("attention.wq", "attention.wk"):  # permute() of that script
                rows, columns = found.shape
                heads = HEADS if new == "attention.wq" else KV_HEADS
                found = (
                    found.view(heads, rows // heads // 2, 2, columns).transpose(1, 2).reshape(rows, columns)
                )
            assert found.equal(tensors[f"model.layers.{i}.{old}.weight"]), (i, old)
    for file in (tmp_path / "meta").iterdir():
        if file.suffix == ".json":
            file.unlink()
    stated = {"dim": 128, "n_heads": HEADS, "n_kv_heads": KV_HEADS, "n_layers": 2, "norm_eps": 1e-5}
    (tmp_path / "meta" / "params.json").write_text(json.dumps(stated))
    tc.open(tmp_path / "meta") | Convert("transformers") | tc.write(tmp_path / "back.safetensors")
    back = {one.name: torch.from_numpy(one.numpy().copy()) for one in tc.open(tmp_path / "back.safetensors")}
    assert back.keys() == tensors.keys()
    assert all(back[name].equal(tensor) for name, tensor in tensors.items())
    (tmp_path / "meta" / "params.json").unlink()
    with pytest.raises(TranscodeError, match=r"there is no config\.json that says model_type"):
        (tc.open(tmp_path / "meta") | Convert("transformers")).plan(tc.write(tmp_path / "x.safetensors"))


E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6])


def test_experts_of_gpt_oss_keep_their_codes(tmp_path: Path) -> None:
    """In MXFP4 rows of gate and up alternate; they are not transposed, as they are in BF16."""
    random = np.random.default_rng(4)
    hidden, inner, experts = 64, 96, 4
    layer, stem = "model.layers.0", "model.layers.0.mlp.experts"

    def floats(*shape: int) -> np.ndarray[Any, Any]:
        return random.standard_normal(shape).astype(np.float32)

    def coded(name: str, rows: int, columns: int) -> dict[str, np.ndarray[Any, Any]]:
        blocks = random.integers(0, 256, (experts, rows, columns // 32, 16)).astype(np.uint8)
        scales = random.integers(118, 124, (experts, rows, columns // 32)).astype(np.uint8)
        return {f"{stem}.{name}_blocks": blocks, f"{stem}.{name}_scales": scales}

    held = {
        "model.embed_tokens.weight": floats(270, hidden), "lm_head.weight": floats(270, hidden),
        "model.norm.weight": floats(hidden), f"{layer}.input_layernorm.weight": floats(hidden),
        f"{layer}.post_attention_layernorm.weight": floats(hidden), f"{layer}.self_attn.sinks": floats(2),
        f"{layer}.mlp.router.weight": floats(experts, hidden), f"{layer}.mlp.router.bias": floats(experts),
        f"{stem}.gate_up_proj_bias": floats(experts, 2 * inner),
        f"{stem}.down_proj_bias": floats(experts, hidden),
        **coded("gate_up_proj", 2 * inner, hidden), **coded("down_proj", hidden, inner),
    }  # fmt: skip
    for name, rows in (("q", 64), ("k", 32), ("v", 32), ("o", hidden)):
        columns = 64 if name == "o" else hidden
        held |= {f"{layer}.self_attn.{name}_proj.weight": floats(rows, columns)}
        held |= {f"{layer}.self_attn.{name}_proj.bias": floats(rows)}
    path = folder("Llama", tmp_path / "hf")  # for its tokenizer
    save_file(held, path / "model.safetensors")
    config = SIZES | {
        "model_type": "gpt_oss", "hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32, "num_local_experts": experts,
        "num_experts_per_tok": 2, "sliding_window": 4, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "quantization_config": {"quant_method": "mxfp4"},
    }  # fmt: skip
    (path / "config.json").write_text(json.dumps(config))
    out = tmp_path / "model.gguf"
    with pytest.raises(PlanError, match=r"cannot be stored as gguf stores mxfp4.*ggml_mxfp4"):
        (tc.open(path) | Convert("gguf")).plan(tc.write(out))
    step = tc.quantize("ggml_mxfp4", targets=["*_exps"])
    tc.open(path) | Convert("gguf") | step | tc.write(out, lossless=True)
    made, back = tc.open(out), tc.open(out) | tc.dequantize("F32")
    assert {one.spec.dtype.name for one in made if one.name.endswith("_exps.weight")} == {"MXFP4"}

    def values(name: str) -> np.ndarray[Any, Any]:
        blocks = held[f"{stem}.{name}_blocks"]
        codes = np.stack([blocks & 15, blocks >> 4], -1).reshape(*blocks.shape[:3], 32)
        scales = np.exp2(held[f"{stem}.{name}_scales"].astype(np.float64) - 127)
        return (E2M1[codes] * scales[..., None]).reshape(*blocks.shape[:2], -1).astype(np.float32)

    both = values("gate_up_proj")
    for name, wanted in (("gate", both[:, ::2]), ("up", both[:, 1::2]), ("down", values("down_proj"))):
        np.testing.assert_array_equal(back[f"blk.0.ffn_{name}_exps.weight"].numpy(), wanted, err_msg=name)
    bias = held[f"{stem}.gate_up_proj_bias"]
    np.testing.assert_array_equal(made["blk.0.ffn_up_exps.bias"].numpy(), bias[:, 1::2])
