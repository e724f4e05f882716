"""The doctor's verdicts are those of the programs themselves, and what it says to type leads to a yes."""

# ruff: noqa: E501  tables of cases read better in long lines

from __future__ import annotations

import json
import shlex

import pytest
import torch
from safetensors.torch import load_file, save_file

import transcode as tc
from transcode import catalog
from transcode.catalog.programs import program, programs
from transcode.consumers.doctor import CONVERT, NO, UNKNOWN, YES, diagnose
from transcode.errors import FormatError, NoWeights, RecipeError
from transcode.schemes import SCHEMES

LAYER = "model.layers.0"
LLAMA = {
    "model.embed_tokens.weight": (64, 256), "model.norm.weight": (256,), "lm_head.weight": (64, 256),
    f"{LAYER}.input_layernorm.weight": (256,), f"{LAYER}.post_attention_layernorm.weight": (256,),
    **{f"{LAYER}.self_attn.{one}_proj.weight": (256, 256) for one in "qkvo"},
    **{f"{LAYER}.mlp.{one}_proj.weight": (256, 256) for one in ("gate", "up", "down")},
}  # fmt: skip

CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "bfloat16", "hidden_size": 256,
    "intermediate_size": 256, "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 4, "vocab_size": 64,
}  # fmt: skip


def answers(path):
    return {one.program: one.answer for one in diagnose(path).verdicts}


@pytest.fixture
def llama(tmp_path):
    """A folder as transformers saves a language model."""
    folder = tmp_path / "llama"
    folder.mkdir()
    tensors = {name: torch.randn(shape).bfloat16() for name, shape in LLAMA.items()}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder


def test_every_rule_names_what_there_is():
    """Programs speak of conventions, schemes, families and spellings that exist; conventions of programs."""
    from transcode.catalog.foreign import foreign

    titles = {*foreign().methods.values(), *foreign().parts}
    for name in programs():
        one = program(name)
        for way in one.ways:
            for convention, schemes in way.conventions.items():
                assert set(schemes or ()) <= catalog.convention(convention).schemes.keys()
            for family, spellings in way.families.items():
                assert set(spellings) <= catalog.family(family).spellings.keys()
            assert set(way.foreign) <= titles
            assert way.writes is None or catalog.convention(way.writes)
            assert way.statements is None or way.config
        assert set(one.never) <= set(catalog.families())
    for convention in catalog.every_convention():
        for rule in convention.schemes.values():
            for limit in rule.limits:
                assert set(limit.concerns) <= set(programs())
            for partly in rule.partly:
                assert set(partly.spares) <= set(programs())


def test_transformers_and_diffusers_say_the_same_of_quantizers():
    """Their own tables of quantizers, against what the catalog says that they load."""
    auto = pytest.importorskip("transformers.quantizers.auto").AUTO_QUANTIZER_MAPPING
    assert program("transformers").ways[0].statements.methods.keys() == auto.keys()
    assert {"compressed-tensors", "fp8", "mxfp4"} <= auto.keys()
    assert "modelopt" not in auto
    (way,) = program("transformers").ways
    assert "modelopt" not in way.conventions
    assert {"gptq", "awq"} <= auto.keys() & way.conventions.keys()
    assert {"quark", "torchao"} <= auto.keys() & way.conventions.keys()
    named = {"AutoRound": "auto-round", "torchao": "torchao", "HQQ": "hqq",
             "AQLM": "aqlm", "VPTQ": "vptq", "EETQ": "eetq", "HIGGS": "higgs", "SpQR": "spqr", "BitNet": "bitnet",
             "FBGEMM fp8": "fbgemm_fp8", "FP-Quant": "fp_quant", "SINQ": "sinq",
             "bitsandbytes (4 bit)": "bitsandbytes_4bit", "bitsandbytes (8 bit)": "bitsandbytes_8bit"}  # fmt: skip
    for title, key in named.items():
        assert (title in way.foreign) == (key in auto)
    pretrained = next(way for way in program("diffusers").ways if way.by == "from_pretrained")
    auto = pytest.importorskip("diffusers.quantizers.auto").AUTO_QUANTIZER_MAPPING
    assert pretrained.statements.methods.keys() == auto.keys()
    for title, key in (
        ("torchao", "torchao"),
        ("HQQ", "hqq"),
    ):
        assert (title in pretrained.foreign) == (key in auto)


def test_transformers_reads_gguf_of_these():
    known = pytest.importorskip("transformers.modeling_gguf_pytorch_utils").GGUF_SUPPORTED_ARCHITECTURES
    rule = program("transformers").gguf
    assert set(known) - {"general", "tokenizer"} <= set(rule.architectures)
    # Written otherwise in files: load_gguf_checkpoint of the same module.
    assert set(rule.architectures) - set(known) == {
        "qwen2moe",
        "qwen3moe",
        "gpt-oss",
        "minimax-m2",
        "t5encoder",
    }


@pytest.mark.parametrize(
    ("convention", "scheme"),
    [(one.name, scheme) for one in catalog.every_convention() if not one.unwritten for scheme, rule in one.schemes.items() if scheme in SCHEMES and not rule.needs and one.name not in ("nunchaku", "gguf")],
)  # fmt: skip
def test_who_loads_each_output(convention, scheme, llama, tmp_path, wan):
    diffusion = convention in ("lightx2v", "comfyui", "comfyui_scaled")
    source = tmp_path / "wide.safetensors"
    if diffusion:  # the fixture's names, with rows and columns that every scheme can take
        shapes = {
            n: v.shape for shard in sorted(wan.glob("*.safetensors")) for n, v in load_file(shard).items()
        }
        save_file(
            {n: torch.randn(*([256] * len(s) if len(s) == 2 else s)).bfloat16() for n, s in shapes.items()},
            source,
        )
    out = tmp_path / ("out.safetensors" if diffusion else "out")
    tc.open(source if diffusion else llama) | tc.quantize(scheme) | tc.write(out, convention=convention)
    told = answers(out)
    by = {"lightx2v": {"lightx2v"}, "comfyui": {"comfyui"}, "comfyui_scaled": {"comfyui"}, "neutral": set(),
          "compressed_tensors": {"vllm", "transformers", "sglang"}, "modelopt": {"vllm"},
          "deepseek": {"vllm", "transformers", "sglang"}, "gptq": {"vllm", "transformers", "sglang"},
          "gptq_v2": {"vllm", "transformers", "sglang"}, "awq": {"vllm", "transformers", "sglang"}, "mlx": set(),
          "bitsandbytes": {"transformers"}, "quark": {"transformers"}, "bfl": set(),
          "torchao": {"transformers"}, "quanto": set(),
          "sdnq": set(), "hqq": set(), "nunchaku_lite": set()}[convention]  # fmt: skip
    if convention == "modelopt" and scheme == "nvfp4":
        by = {"vllm", "sglang"}
    if convention == "quark" and scheme != "int8":
        by = {"vllm", "transformers"} | ({"sglang"} if scheme == "fp8" else set())
    if convention == "compressed_tensors" and scheme in ("mxfp8", "mxfp4"):
        by = {"vllm", "transformers"}  # SGLang 0.5.23 has no scheme for either
    assert {name for name, answer in told.items() if answer == YES} == by
    surely = {
        "llama_cpp",
        "nunchaku",
        *(("vllm", "sglang", "transformers") if diffusion else ("comfyui", "lightx2v")),
    }
    assert all(told[name] == NO for name in surely)


@pytest.mark.parametrize("scheme", [None, "int8", "fp8", "nvfp4"])
def test_what_it_says_to_type_leads_to_a_yes(scheme, wan, llama, tmp_path, cli, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sources = [wan, llama]
    if scheme is not None:
        sources = []
        for source, conventions in (
            (wan, ["lightx2v", "comfyui"]),
            (llama, ["compressed_tensors", "neutral"]),
        ):
            for convention in conventions:
                out = tmp_path / f"{source.name}_{convention}"
                tc.open(source) | tc.quantize(scheme) | tc.write(out, convention=convention)
                sources.append(out)
    typed = 0
    for source in sources:
        for verdict in diagnose(source).verdicts:
            assert (verdict.answer == CONVERT) <= (verdict.do or "").startswith("transcode run ")
            if verdict.answer == CONVERT:
                words = shlex.split(verdict.do)
                cli(*words[1:], "-f", "-q")
                assert answers(words[3])[verdict.program] == YES, verdict
                typed += 1
    assert typed > 1


def test_names_of_another_program(wan):
    told = diagnose(wan)
    assert told.of("llama_cpp").do is None  # its converter knows no video model
    assert told.of("diffusers").answer == CONVERT
    assert "spelled lightx2v, not diffusers" in told.of("diffusers").why[0]
    assert "one file, these are 2" in told.of("comfyui").why[0]
    assert told.of("lightx2v").answer == YES
    assert "it runs no Wan" in told.of("vllm").why[0]
    with pytest.raises(RecipeError, match=r"unknown program 'vlm'.*did you mean vllm\?"):
        told.of("vlm")


def test_what_vllm_and_transformers_do_not_read_of_one_convention(llama, tmp_path):
    """As their loaders do, see test_loaders.py: groups of int8 are transformers' alone, ModelOpt is vLLM's alone."""
    (
        tc.open(llama)
        | tc.quantize("int8", granularity="group")
        | tc.write(tmp_path / "a", convention="compressed_tensors")
    )
    told = diagnose(tmp_path / "a")
    assert told.of("transformers").answer == YES
    assert told.of("vllm").answer != YES
    assert "read by transformers, not by vLLM" in " ".join(told.of("vllm").why)
    (
        tc.open(llama)
        | tc.quantize("int4", symmetric=False)
        | tc.write(tmp_path / "b", convention="compressed_tensors")
    )
    told = diagnose(tmp_path / "b")
    assert [told.of(name).answer for name in ("vllm", "transformers", "sglang")] == [YES, CONVERT, YES]
    assert "dequantize=True" in " ".join(told.of("transformers").why)


@pytest.fixture
def experts(tmp_path):
    """A folder as transformers saves a language model with experts."""
    folder = tmp_path / "moe"
    folder.mkdir()
    experts = {
        f"{LAYER}.mlp.experts.{i}.{one}_proj.weight": (256, 256)
        for i in range(2)
        for one in ("gate", "up", "down")
    }
    dense = {name: shape for name, shape in LLAMA.items() if ".mlp." not in name}
    dense |= {f"{LAYER}.self_attn.{one}_norm.weight": (64,) for one in "qk"}
    tensors = {name: torch.randn(shape).bfloat16() for name, shape in {**dense, **experts}.items()}
    save_file(
        {**tensors, f"{LAYER}.mlp.gate.weight": torch.randn(2, 256).bfloat16()}, folder / "model.safetensors"
    )
    (folder / "config.json").write_text(
        json.dumps(
            CONFIG
            | {"architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "head_dim": 64}
            | {"num_experts": 2, "moe_intermediate_size": 256}
        )
    )
    return folder


@pytest.mark.parametrize(
    ("convention", "scheme", "said"),
    [
        ("compressed_tensors", "nvfp4", "which decodes them to noise"),
        ("quark", "fp8", "not by transformers 5, which answers otherwise"),
        ("quark", "mxfp4", "not by transformers 5"),
        ("bitsandbytes", "nf4", "not by transformers 5"),
    ],
)
def test_experts(convention, scheme, said, experts, tmp_path):
    """What ``tools/check_logits.py`` saw transformers 5 refuse, or decode to noise."""
    tc.open(experts) | tc.quantize(scheme) | tc.write(tmp_path / "q", convention=convention)
    told = diagnose(tmp_path / "q")
    assert (told.of("vllm").answer == YES) == (convention == "compressed_tensors")
    assert told.of("transformers").answer == CONVERT
    assert said in told.of("transformers").why[0]


# What becomes of it in vLLM 0.33.0 and SGLang 0.5.23 on CUDA, for linear layers and for experts: y, n or, where
# their sources do not say, ?. Of compressed_tensors: _get_scheme_from_parts and get_moe_method (vLLM), get_moe_scheme
# (SGLang); ModelOpt: LINEAR_ALGOS of modelopt.py, from_config of ModelOptFp8Config and ModelOptFp4Config of SGLang;
# GPTQ: TYPE_MAP of AutoGPTQConfig and GPTQMarlinConfig; AWQ: AutoAWQConfig, AWQMarlinConfig; fp8: Fp8Config of both.
# Experts in fp8 of ModelOpt are left as they are.
SERVERS = [
    ("compressed_tensors", "int8", {}, "yy", "yn"), ("compressed_tensors", "int8", {"symmetric": False}, "nn", "nn"),
    ("compressed_tensors", "int8", {"granularity": "group"}, "nn", "nn"),
    ("compressed_tensors", "int4", {}, "yy", "yy"), ("compressed_tensors", "int4", {"symmetric": False}, "yy", "yy"),
    ("compressed_tensors", "int4", {"group_size": 32}, "yy", "yy"),
    ("compressed_tensors", "fp8", {}, "yy", "yy"), ("compressed_tensors", "fp8", {"granularity": "block"}, "yy", "yy"),
    ("compressed_tensors", "mxfp4", {}, "yy", "nn"), ("compressed_tensors", "mxfp8", {}, "yy", "nn"),
    ("compressed_tensors", "nvfp4", {}, "yy", "yy"),
    ("modelopt", "fp8", {}, "yy", "nn"), ("modelopt", "mxfp8", {}, "yy", "??"), ("modelopt", "nvfp4", {}, "yy", "y?"),
    ("deepseek", "fp8", {}, "yy", "yy"),
    ("gptq", "int4", {}, "yy", "yy"), ("gptq", "int4", {"symmetric": False}, "nn", "nn"),
    ("gptq_v2", "int4", {}, "yy", "yy"), ("gptq_v2", "int4", {"symmetric": False}, "nn", "nn"),
    ("awq", "int4", {}, "yy", "yy"), ("awq", "int4", {"symmetric": False}, "yy", "yy"),
    ("quark", "fp8", {}, "y?", "y?"), ("quark", "mxfp4", {}, "y?", "??"),
]  # fmt: skip


@pytest.mark.parametrize(("convention", "scheme", "options", "vllm", "sglang"), SERVERS, ids=lambda v: str(v))
def test_what_servers_take_by_their_sources(
    convention, scheme, options, vllm, sglang, llama, experts, tmp_path
):
    letters = {YES: "y", CONVERT: "n", NO: "n", UNKNOWN: "?"}
    for i, source in enumerate((llama, experts)):
        tc.open(source) | tc.quantize(scheme, **options) | tc.write(tmp_path / f"q{i}", convention=convention)
        told = diagnose(tmp_path / f"q{i}")
        assert letters[told.of("vllm").answer] == vllm[i]
        assert letters[told.of("sglang").answer] == sglang[i]


def test_every_scheme_that_servers_take_is_tried():
    """No yes without a source: what the catalog says of vLLM and SGLang stands in the table above."""
    tried = {(convention, scheme) for convention, scheme, *_ in SERVERS} | {("gpt_oss", "mxfp4")}
    for name in ("vllm", "sglang"):
        (way,) = program(name).ways
        assert program(name).version
        for convention, schemes in way.conventions.items():
            assert schemes is not None  # "all" would take what is added here later
            assert {(convention, scheme) for scheme in schemes} <= tried
            refused = way.refuses.get(convention, {})
            assert refused.keys() <= catalog.convention(convention).schemes.keys() - set(schemes)
            assert way.tiles.get(convention, {}).keys() | way.experts.get(convention, {}).keys() <= set(
                schemes
            )


def test_columns_in_the_order_of_activations(llama, tmp_path):
    """normalize_and_validate_gptq_desc_act of vLLM 0.33.0 raises; GPTQMarlinConfig of SGLang 0.5.23 takes it."""
    tc.open(llama) | tc.quantize("int4") | tc.write(tmp_path / "q", convention="gptq")
    config = json.loads((tmp_path / "q" / "config.json").read_text())
    config["quantization_config"]["desc_act"] = True
    (tmp_path / "q" / "config.json").write_text(json.dumps(config))
    told = diagnose(tmp_path / "q")
    assert told.of("vllm").answer == CONVERT
    assert "desc_act is True" in told.of("vllm").why[0]
    assert told.of("vllm").do.startswith("transcode run ")
    assert told.of("sglang").answer == YES


def test_sizes_that_no_source_speaks_of(tmp_path, llama):
    """Marlin's tiles, GPTQ_MARLIN_MIN_THREAD_N and _K of SGLang 0.5.23: 64 rows, 128 columns."""
    shapes = {**LLAMA, f"{LAYER}.mlp.gate_proj.weight": (160, 256), f"{LAYER}.mlp.up_proj.weight": (160, 256),
              f"{LAYER}.mlp.down_proj.weight": (256, 160)}  # fmt: skip
    save_file(
        {n: torch.randn(s).bfloat16() for n, s in shapes.items()},
        llama / "model.safetensors",
        {"format": "pt"},
    )
    (llama / "config.json").write_text(json.dumps(CONFIG | {"intermediate_size": 160}))
    flow = tc.open(llama) | tc.quantize("int4", group_size=32)
    flow | tc.write(tmp_path / "q", convention="compressed_tensors")
    told = diagnose(tmp_path / "q")
    assert told.of("sglang").answer == UNKNOWN
    assert "multiples of 64 and 128" in " ".join(told.of("sglang").why)
    assert told.of("vllm").answer == YES


def test_rows_that_only_some_loaders_refuse(llama, tmp_path):
    """DeepSeek's own kv_a_proj_with_mqa has 576 rows in blocks of 128: vLLM loads it, transformers on a GPU."""
    tc.open(llama) | tc.quantize("fp8") | tc.write(tmp_path / "q", convention="deepseek")
    path = tmp_path / "q" / "model.safetensors"
    tensors = load_file(path)
    name = f"{LAYER}.self_attn.o_proj.weight"
    tensors[name] = tensors[name].view(torch.uint8)[:192].view(torch.float8_e4m3fn)
    save_file(tensors, path, {"format": "pt"})
    config = json.loads((tmp_path / "q" / "config.json").read_text())
    config |= {"model_type": "deepseek_v3", "architectures": ["DeepseekV3ForCausalLM"]}
    (tmp_path / "q" / "config.json").write_text(json.dumps(config))
    told = diagnose(tmp_path / "q")
    assert told.of("vllm").answer == UNKNOWN  # which tensors that has is not known here
    assert "192 rows" not in " ".join(told.of("vllm").why)
    assert told.of("transformers").answer == UNKNOWN
    assert "192 rows are not a multiple of 128" in " ".join(told.of("transformers").why)
    assert "with a GPU" in " ".join(told.of("transformers").why)


def test_what_config_json_does_not_say(llama, tmp_path):
    tc.open(llama) | tc.quantize("fp8") | tc.write(tmp_path / "q", convention="compressed_tensors")
    config = tmp_path / "q" / "config.json"
    stated = json.loads(config.read_text())
    config.write_text(
        json.dumps({key: value for key, value in stated.items() if key != "quantization_config"})
    )
    verdict = diagnose(tmp_path / "q").of("vllm")
    assert verdict.answer == CONVERT
    assert "no quantization_config" in verdict.why[0]
    config.unlink()
    verdict = diagnose(tmp_path / "q").of("vllm")
    assert verdict.answer == NO
    assert "no config.json beside it" in verdict.why
    assert "put the model's config.json" in verdict.do


def gguf_header(architecture):
    """The beginning of a GGUF file, by llama.cpp's docs/gguf.md of ggml."""
    import struct

    text = [struct.pack("<Q", len(part)) + part for part in (b"general.architecture", architecture.encode())]
    return b"GGUF" + struct.pack("<IQQ", 3, 1, 1) + text[0] + struct.pack("<I", 8) + text[1]


def _gguf_programs():
    return {name for name in programs() if program(name).gguf}


def test_what_hurts(tmp_path, wan, save):
    """Missing shards, LoRAs, GGUF, mixed dtypes, other models inside, formats of others."""
    import shutil

    broken = tmp_path / "broken"
    shutil.copytree(wan, broken)
    (broken / "diffusion_pytorch_model-00002-of-00002.safetensors").unlink()
    assert set(answers(broken).values()) == {NO}
    assert "is missing" in diagnose(broken).verdicts[0].why[0]
    alone = diagnose(wan / "diffusion_pytorch_model-00001-of-00002.safetensors")
    assert {one.answer for one in alone.verdicts} == {NO}
    assert "one of 2 shards" in alone.verdicts[0].why[0]
    lora = save(
        {f"blocks.{i}.ffn.0.lora_{ab}.weight": torch.zeros(4, 4) for i in range(3) for ab in "AB"},
        "lora.safetensors",
    )
    told = diagnose(lora)
    assert {one.answer for one in told.verdicts} == {NO}
    assert told.verdicts[0].do == f"transcode run MODEL DST --lora {lora}"
    gguf = tmp_path / "x.gguf"
    gguf.write_bytes(b"GGUF" + bytes(60))
    assert set(answers(gguf).values()) == {NO}
    for architecture, knows in (("llama", {*_gguf_programs()}), ("wan", _gguf_programs() - {"transformers"})):
        gguf.write_bytes(gguf_header(architecture))
        assert answers(gguf) == {name: UNKNOWN if name in knows else NO for name in programs()}
        assert diagnose(gguf).what == (f"GGUF of {architecture}",)
    mixed = save(
        {"blocks.0.a.weight": torch.zeros(4, 4), "blocks.1.a.weight": torch.zeros(4, 4).half()},
        "mixed.safetensors",
    )
    assert diagnose(mixed).remarks == ("matrices of several dtypes: 1 F32, 1 F16",)
    assert set(answers(mixed).values()) <= {UNKNOWN, NO}
    whole = save(
        {"model.diffusion_model.blocks.0.attn.weight": torch.zeros(4, 4), "first_stage_model.decoder.conv.weight": torch.zeros(4, 4),
         "cond_stage_model.layers.0.weight": torch.zeros(4, 4)}, "whole.safetensors",
    )  # fmt: skip
    assert "other models are inside" in diagnose(whole).remarks[0]
    parts = {
        "W_q": torch.zeros(4, 4, dtype=torch.uint8),
        "scale_q": torch.ones(4, 1),
        "zero": torch.ones(4, 1),
    }
    hqq = save(
        {f"model.layers.0.mlp.up_proj.{part}": value for part, value in parts.items()}, "hqq.safetensors"
    )
    assert any("HQQ" in text for text in diagnose(hqq).what)
    assert "which it does not load" in " ".join(diagnose(hqq).of("comfyui").why)
    with pytest.raises(FormatError, match="no such file"):
        diagnose(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    (tmp_path / "above" / "one").mkdir(parents=True)
    shutil.copy(lora, tmp_path / "above" / "one")
    for name in (
        "pair/high_noise_model",
        "pair/low_noise_model",
        "pipeline/transformer",
        "pipeline/transformer_2",
    ):
        (tmp_path / name).mkdir(parents=True)
        shutil.copy(lora, tmp_path / name)
    (tmp_path / "two").mkdir()
    for name in ("wan_high_noise.safetensors", "wan_low_noise.safetensors"):
        shutil.copy(lora, tmp_path / "two" / name)
    for name, said in (
        ("empty", "no weights found"), ("above", "holds weights in one/"), ("pair", "low_noise_model/ that of"),
        ("pipeline", "transformer/ and transformer_2/"), ("two", "point SRC at one of them"),
    ):  # fmt: skip
        with pytest.raises(NoWeights, match=said):
            diagnose(tmp_path / name)


def test_the_command(cli, refused, wan, llama, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    shown = cli("doctor", wan).out
    assert max(len(line) for line in shown.splitlines() if not line.startswith("    ")) <= 80
    for name in programs():
        assert program(name).title in shown
    entries = {one["program"]: one for one in cli("doctor", wan, "--json").json["verdicts"]}
    assert entries.keys() == set(programs())
    assert entries["comfyui"]["answer"] == "convert"
    assert entries["comfyui"]["do"] in shown
    cli("doctor", wan, "--for", "lightx2v")
    cli("doctor", wan, "--for", "vllm", code=1)
    cli("doctor", wan, "--for", "comfyui", code=1)
    cli("doctor", llama, "--for", "vllm")
    assert "did you mean vllm" in refused("doctor", llama, "--for", "vlm")
    assert "no such file" in refused("doctor", wan / "nothing")


@pytest.mark.parametrize("title", ["llama.cpp", "ComfyUI", "vLLM"])
def test_a_program_is_known_by_what_the_table_prints(title, wan, cli):
    assert title in cli("doctor", wan).out
    verdicts = cli("doctor", wan, "--for", title, "--json", code=1).json["verdicts"]
    assert [one["title"] for one in verdicts] == [title]


def test_codes_whose_scale_is_lost_are_loaded_by_nobody(llama, tmp_path, cli):
    """Loaders fill in what they miss: NaN, and no error."""
    out = tmp_path / "q"
    cli("run", llama, out, "--scheme", "int8", "--convention", "compressed_tensors")
    (file,) = out.glob("*.safetensors")
    assert answers(out)["transformers"] == "yes"
    tensors = load_file(file)
    del tensors[next(name for name in tensors if name.endswith("down_proj.weight_scale"))]
    save_file(tensors, file, {"format": "pt"})
    for index in out.glob("*.index.json"):
        index.unlink()
    assert set(answers(out).values()) == {"no"}
    assert "the scale of model.layers.0.mlp.down_proj.weight is missing" in " ".join(
        cli("doctor", out).out.split()
    )
