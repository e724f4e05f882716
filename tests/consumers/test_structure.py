"""The doctor's answer for transformers is what ``from_pretrained`` does, whatever is wrong with a checkpoint.

Tiny models that transformers saves itself are changed in one way each. That it loads means: no error, no tensor that
is missing, has another shape or is left out, and the logits of the model it was made of.
"""

# ruff: noqa: E501  tables of cases read better in long lines

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import transcode as tc
from transcode.consumers.doctor import CONVERT, NO, UNKNOWN, YES, diagnose

transformers = pytest.importorskip("transformers")
pytest.importorskip(
    "compressed_tensors", reason="needs compressed-tensors, which is a development dependency"
)

SIZES = {
    "num_hidden_layers": 3, "vocab_size": 64, "hidden_size": 128, "intermediate_size": 256, "num_attention_heads": 2,
    "num_key_value_heads": 1, "max_position_embeddings": 64,
}  # fmt: skip
IDS = torch.randint(0, 64, (2, 16), generator=torch.Generator().manual_seed(3))
Q1 = "model.layers.1.self_attn.q_proj"


def logits(folder: Path) -> torch.Tensor | None:
    """Of a model that is loaded whole; None where it is not."""
    try:
        model, info = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.bfloat16, output_loading_info=True
        )
        with torch.no_grad():
            out: torch.Tensor = model(IDS).logits.float().flatten()
    except Exception:  # whatever it is that a loader raises
        return None
    return None if info["missing_keys"] or info["mismatched_keys"] or info["unexpected_keys"] else out


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model as transformers saves it, and what transcode makes of it."""
    root = tmp_path_factory.mktemp("bases")
    torch.manual_seed(5)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES)).bfloat16()
    for value in model.parameters():
        value.data = (torch.randn(value.shape) * 0.3).bfloat16()
    model.save_pretrained(root / "plain")
    made = {"plain": root / "plain"}
    for name, scheme, convention, options in (
        ("int8", "int8", "compressed_tensors", {}),
        ("int8 asym", "int8", "compressed_tensors", {"symmetric": False}),
        ("int4", "int4", "compressed_tensors", {"group_size": 32}),
        ("int4 asym", "int4", "compressed_tensors", {"group_size": 32, "symmetric": False}),
        ("fp8", "fp8", "compressed_tensors", {}), ("nvfp4", "nvfp4", "compressed_tensors", {}),
        ("mxfp4", "mxfp4", "compressed_tensors", {}), ("mxfp8", "mxfp8", "compressed_tensors", {}),
        ("deepseek", "fp8", "deepseek", {}), ("modelopt", "fp8", "modelopt", {}),
    ):  # fmt: skip
        tc.open(made["plain"]) | tc.quantize(scheme, **options) | tc.write(root / name, convention=convention)
        made[name] = root / name
    return made


@pytest.fixture(scope="session")
def expected(bases: dict[str, Path]) -> torch.Tensor:
    values = logits(bases["plain"])
    assert values is not None
    return values


Change = Callable[[dict[str, Any]], Any]


def put(**values: Any) -> Change:
    return lambda config: config.update(values)


def drop(key: str) -> Change:
    return lambda config: config.pop(key, None)


def said(**values: Any) -> Change:
    return lambda config: config["quantization_config"].update(values)


def unsaid(key: str) -> Change:
    return lambda config: config["quantization_config"].pop(key)


def group(**values: Any) -> Change:
    return lambda config: [
        one.update(values) for one in config["quantization_config"]["config_groups"].values()
    ]


def weights(**values: Any) -> Change:
    return lambda config: [
        one["weights"].update(values) for one in config["quantization_config"]["config_groups"].values()
    ]


def over_plain(method: str) -> Change:
    return put(quantization_config={"quant_method": method})


def without(end: str) -> Change:
    def change(tensors: dict[str, Any]) -> None:
        del tensors[next(name for name in tensors if name.endswith(end))]

    return change


def add(name: str, *shape: int) -> Change:
    return lambda tensors: tensors.update({name: torch.ones(shape).bfloat16()})


# What is changed, of which model, in config.json, among the tensors; what the doctor says of transformers.
CASES: list[tuple[str, str, Change | None, Change | None, str]] = [
    *((name, name, None, None, YES) for name in ("plain", "int8", "int8 asym", "int4", "fp8", "nvfp4", "mxfp4", "mxfp8", "deepseek")),
    ("zero points of int4", "int4 asym", None, None, CONVERT),
    ("of ModelOpt", "modelopt", None, None, CONVERT),
    # What config.json says of the model.
    ("no model_type", "plain", drop("model_type"), None, NO), ("an unknown model_type", "plain", put(model_type="wonder"), None, UNKNOWN),
    ("a number as model_type", "plain", put(model_type=3), None, NO), ("no architectures", "plain", drop("architectures"), None, YES),
    ("another class", "plain", put(architectures=["LlamaForSequenceClassification"]), None, UNKNOWN),
    *((f"no {key}", "plain", drop(key), None, NO) for key in ("num_hidden_layers", "hidden_size", "intermediate_size", "vocab_size", "num_attention_heads", "num_key_value_heads")),
    ("no head_dim", "plain", drop("head_dim"), None, YES),
    ("too few layers", "plain", put(num_hidden_layers=2), None, NO), ("too many layers", "plain", put(num_hidden_layers=4), None, NO),
    ("very many layers", "plain", put(num_hidden_layers=300), None, NO),
    ("a text as a number", "plain", put(num_hidden_layers="3"), None, NO),
    ("half as wide", "plain", put(hidden_size=64), None, NO), ("half the words", "plain", put(vocab_size=32), None, NO),
    ("heads of no width", "plain", put(num_attention_heads=4), None, NO),
    ("Qwen2, which has biases", "plain", put(model_type="qwen2", architectures=["Qwen2ForCausalLM"]), None, NO),
    ("Mistral, which has the same tensors", "plain", put(model_type="mistral", architectures=["MistralForCausalLM"]), None, YES),
    ("biases said", "plain", put(attention_bias=True), None, NO),
    # The tensors.
    ("no q_proj in one layer", "plain", None, without(f"{Q1}.weight"), NO), ("no norm", "plain", None, without("model.norm.weight"), NO),
    ("no output layer", "plain", None, without("lm_head.weight"), NO), ("something else", "plain", None, add("foo.weight", 2, 2), UNKNOWN),
    ("a bias left over", "plain", None, add(f"{Q1}.bias", 128), NO),
    ("no q_proj, quantized", "int8", None, lambda tensors: [tensors.pop(f"{Q1}.weight"), tensors.pop(f"{Q1}.weight_scale")], NO),
    *((f"scale lost of {name}", name, None, without("q_proj.weight_scale"), NO) for name in ("int8", "int4", "fp8", "nvfp4", "mxfp8")),
    ("scale lost of deepseek", "deepseek", None, without("o_proj.weight_scale_inv"), NO),
    ("all scales lost", "int8", None, lambda tensors: [tensors.pop(name) for name in list(tensors) if name.endswith("_scale")], NO),
    ("codes without words", "plain", None, lambda tensors: tensors.update({f"{Q1}.weight": tensors[f"{Q1}.weight"].to(torch.int8)}), UNKNOWN),
    # What config.json says of quantization, over plain weights.
    *((f"{method} over plain", "plain", over_plain(method), None, NO) for method in ("gptq", "awq", "torchao", "hqq", "quanto", "aqlm", "quark", "nvfp4", "bitnet", "auto-round")),
    *((f"{method} over plain", "plain", over_plain(method), None, UNKNOWN) for method in ("fp8", "mxfp8", "mxfp4", "compressed-tensors", "gguf")),
    *((f"{method} over plain", "plain", over_plain(method), None, YES) for method in ("wonder", "modelopt", "GPTQ", "bitsandbytes")),
    ("4 bits over plain", "plain", put(quantization_config={"load_in_4bit": True, "quant_method": "bitsandbytes"}), None, NO),
    ("no method", "plain", put(quantization_config={"bits": 4}), None, NO), ("nothing said", "plain", put(quantization_config={}), None, NO),
    ("null said", "plain", put(quantization_config=None), None, YES), ("a text said", "plain", put(quantization_config="int8"), None, NO),
    ("a list said", "plain", put(quantization_config=[1]), None, NO),
    # Over codes.
    ("an unknown method over codes", "int8", put(quantization_config={"quant_method": "wonder"}), None, NO),
    ("nothing said of codes", "int8", drop("quantization_config"), None, CONVERT),
    ("the early key", "int8", lambda config: config.update(compression_config=config.pop("quantization_config")), None, CONVERT),
    ("an unknown format", "int8", group(format="whatever"), None, NO), ("an unknown format above", "int8", said(format="whatever"), None, YES),
    ("no format in groups", "int8", lambda config: [one.pop("format") for one in config["quantization_config"]["config_groups"].values()], None, YES),
    ("another format", "int4", group(format="int-quantized"), None, UNKNOWN), ("another format of fp4", "nvfp4", group(format="mxfp4-pack-quantized"), None, UNKNOWN),
    ("another status", "int8", said(quantization_status="frozen"), None, NO), ("no status", "int8", unsaid("quantization_status"), None, NO),
    ("no groups", "int8", said(config_groups={}), None, NO), ("all ignored", "int8", said(ignore=["re:.*"]), None, NO),
    ("a coded layer ignored", "int8", said(ignore=["lm_head", Q1]), None, NO), ("no target", "int8", group(targets=["re:nothing"]), None, NO),
    ("targets of another class", "int8", group(targets=["Embedding"]), None, UNKNOWN), ("plain output layer not ignored", "int8", said(ignore=[]), None, UNKNOWN),
    ("other bits", "int8", weights(num_bits=4), None, UNKNOWN), ("other groups", "int4", weights(group_size=64), None, UNKNOWN),
    ("one scale said", "int8", weights(strategy="tensor"), None, UNKNOWN), ("integers said", "fp8", weights(type="int"), None, UNKNOWN),
    ("another key", "int8", said(foo=1), None, YES), ("an unknown activation scheme", "deepseek", said(activation_scheme="weird"), None, NO),
]  # fmt: skip


def change(source: Path, out: Path, config: Change | None, tensors: Change | None) -> Path:
    shutil.copytree(source, out)
    if config is not None:
        stated = json.loads((out / "config.json").read_text())
        config(stated)
        (out / "config.json").write_text(json.dumps(stated))
    if tensors is not None:
        held = load_file(out / "model.safetensors")
        tensors(held)
        save_file(held, out / "model.safetensors", {"format": "pt"})
    return out


@pytest.mark.parametrize(
    ("what", "base", "config", "tensors", "answer"), CASES, ids=[case[0] for case in CASES]
)
def test_answers_are_what_transformers_does(
    what: str, base: str, config: Change | None, tensors: Change | None, answer: str,
    bases: dict[str, Path], expected: torch.Tensor, tmp_path: Path,
) -> None:  # fmt: skip
    out = change(bases[base], tmp_path / "model", config, tensors)
    verdict = diagnose(out).of("transformers")
    assert (verdict.answer, bool(verdict.why or answer == YES)) == (answer, True), verdict
    found = logits(out)
    loads = found is not None and float(torch.corrcoef(torch.stack([found, expected]))[0, 1]) > 0.8
    if answer != UNKNOWN:
        assert loads == (answer == YES), verdict


@pytest.mark.parametrize("index", [True, False])
def test_shards_need_their_index(index: bool, bases: dict[str, Path], tmp_path: Path) -> None:
    """vLLM and SGLang read what files there are."""
    shutil.copytree(bases["plain"], out := tmp_path / "model")
    held = load_file(out / "model.safetensors")
    (out / "model.safetensors").unlink()
    files = {}
    for number, names in enumerate((sorted(held)[:10], sorted(held)[10:]), 1):
        file = f"model-{number:05d}-of-00002.safetensors"
        save_file({name: held[name] for name in names}, out / file, {"format": "pt"})
        files |= dict.fromkeys(names, file)
    if index:
        (out / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))
    assert (diagnose(out).of("transformers").answer == YES) is index
    assert (logits(out) is not None) is index
    assert diagnose(out).of("vllm").answer == YES


@pytest.mark.parametrize("name", ["model.safetensors", "model.fp16.safetensors", "pytorch_model.safetensors", "x.safetensors", "model.bin", "pytorch_model.bin"])  # fmt: skip
def test_names_of_files(name: str, bases: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(bases["plain"], out := tmp_path / "model")
    if name.endswith(".bin"):
        torch.save(load_file(out / "model.safetensors"), out / name)
        (out / "model.safetensors").unlink()
    else:
        (out / "model.safetensors").rename(out / name)
    assert (diagnose(out).of("transformers").answer == YES) == (logits(out) is not None)


WAN = {
    "num_layers": 3,
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "ffn_dim": 32,
    "text_dim": 16,
    "freq_dim": 8,
}

DIFFUSERS: list[tuple[str, Change | None, Change | None, str]] = [
    ("as it is", None, None, YES), ("no class", drop("_class_name"), None, UNKNOWN),
    ("too many layers", put(num_layers=4), None, NO), ("too few layers", put(num_layers=2), None, NO),
    ("no to_q in one block", None, without("blocks.1.attn1.to_q.weight"), NO), ("wider", put(ffn_dim=64), None, NO),
    ("a text as a number", put(num_layers="3"), None, NO), ("something else", None, add("foo", 2), UNKNOWN),
    *((f"{method} over plain", put(quantization_config={"quant_method": method}), None, NO) for method in ("gptq", "torchao", "wonder")),
]  # fmt: skip


@pytest.mark.parametrize(
    ("what", "config", "tensors", "answer"), DIFFUSERS, ids=[case[0] for case in DIFFUSERS]
)
def test_answers_are_what_diffusers_does(
    what: str, config: Change | None, tensors: Change | None, answer: str, tmp_path: Path
) -> None:
    diffusers = pytest.importorskip("diffusers")
    diffusers.WanTransformer3DModel(**WAN).save_pretrained(tmp_path / "base")
    source = tmp_path / "base"
    (source / "diffusion_pytorch_model.safetensors").rename(source / "model.safetensors")
    out = change(source, tmp_path / "model", config, tensors)
    (out / "model.safetensors").rename(out / "diffusion_pytorch_model.safetensors")
    verdict = diagnose(out).of("diffusers")
    assert verdict.answer == answer, verdict
    try:
        _, info = diffusers.WanTransformer3DModel.from_pretrained(out, output_loading_info=True)
        loads = not any(info.values())
    except Exception:  # whatever it is that a loader raises
        loads = False
    if answer != UNKNOWN:
        assert loads == (answer == YES)


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", '{"model_type": "../llama"}', '{"model_type": "llama", "num_hidden_layers": 1000000000000}',
                                  '{"model_type": "llama", "hidden_size": NaN}', '{"model_type": "llama", "num_hidden_layers": -1}'])  # fmt: skip
def test_malformed_configs_are_never_a_yes(text: str, bases: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(bases["plain"], out := tmp_path / "model")
    (out / "config.json").write_text(text)
    assert {diagnose(out).of(name).answer for name in ("transformers", "vllm", "sglang")} <= {NO, UNKNOWN}


def test_an_adapter_beside_it(bases: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(bases["plain"], out := tmp_path / "model")
    (out / "adapter_config.json").write_text("{}")
    assert diagnose(out).of("transformers").answer == UNKNOWN
