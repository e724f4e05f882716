"""What is written for vLLM and transformers is read by the code of compressed-tensors and of transformers."""

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
from transcode.stages.calibrate import Calibrate

pytest.importorskip("transformers")
pytest.importorskip(
    "compressed_tensors", reason="needs compressed-tensors, which is a development dependency"
)

CT = "compressed_tensors"

CASES: list[tuple[str, dict[str, Any]]] = [
    ("int8", {}), ("int8", {"granularity": "tensor"}), ("int8", {"granularity": "group", "group_size": 32}),
    ("int8", {"symmetric": False}), ("int4", {}), ("int4", {"group_size": 32, "symmetric": False}),
    ("fp8", {}), ("fp8", {"granularity": "tensor"}), ("fp8", {"granularity": "block"}),
    ("mxfp8", {}), ("mxfp4", {}), ("nvfp4", {}),
]  # fmt: skip

# compressed-tensors' own name of what a case is: quant_scheme.py.
PRESETS: list[tuple[str, dict[str, Any], str, str]] = [
    ("int8", {}, "W8A8", "int-quantized"),
    ("int4", {}, "W4A16", "pack-quantized"),
    ("int4", {"symmetric": False}, "W4A16_ASYM", "pack-quantized"),
    ("fp8", {}, "FP8_DYNAMIC", "float-quantized"),
    ("fp8", {"granularity": "block"}, "FP8_BLOCK", "float-quantized"),
    ("mxfp8", {}, "MXFP8A16", "mxfp8-quantized"),
    ("mxfp4", {}, "MXFP4A16", "mxfp4-pack-quantized"),
    ("nvfp4", {}, "NVFP4A16", "nvfp4-pack-quantized"),
]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A small Llama as transformers saves it."""
    from transformers import LlamaConfig, LlamaForCausalLM

    made: dict[bool, Path] = {}

    def call(tied: bool = False) -> Path:
        if tied not in made:
            torch.manual_seed(1)
            config = LlamaConfig(
                hidden_size=256, intermediate_size=384, num_hidden_layers=2, num_attention_heads=4,
                num_key_value_heads=2, vocab_size=96, tie_word_embeddings=tied,
            )  # fmt: skip
            made[tied] = tmp_path_factory.mktemp("llama")
            LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(made[tied])
        return made[tied]

    return call


def config_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return found


def weights(folder: Path, **how: Any) -> dict[str, torch.Tensor]:
    """All weights of a model that transformers loads, without a name missing, unknown or of another shape."""
    from transformers import AutoModelForCausalLM

    model, said = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.bfloat16, output_loading_info=True, **how
    )
    assert not any(said[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return dict(model.state_dict())


def same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert [name for name in found if not torch.equal(found[name], expected[name])] == []


@pytest.mark.parametrize(
    ("scheme", "options", "tied"), [*((*case, False) for case in CASES), ("int4", {}, True)]
)
def test_transformers_decodes_it_as_we_do(scheme, options, tied, llama, tmp_path):
    from transformers import CompressedTensorsConfig

    source = llama(tied)
    tc.open(source) | tc.quantize(scheme, **options) | tc.write(tmp_path / "q", convention=CT)
    tc.open(tmp_path / "q") | tc.dequantize("BF16", convention=CT) | tc.write(tmp_path / "d")
    found = weights(tmp_path / "q", quantization_config=CompressedTensorsConfig(dequantize=True))
    same(found, weights(tmp_path / "d"))
    # Both could be wrong alike: the values are those of the source, but for the steps of the scheme.
    step = 0.3 if "4" in scheme and scheme != "fp8" else 0.07
    for name, value in weights(source).items():
        error = (found[name].float() - value.float()).norm() / value.float().norm()
        assert error < step, name
        assert (error > 0) == ("_proj" in name), name


@pytest.mark.parametrize(("scheme", "options"), [c for c in CASES if c != CASES[5]])
def test_the_layers_that_compressed_tensors_makes_take_the_tensors(scheme, options, llama, tmp_path):
    """Names, dtypes, shapes. Not of asymmetric int4: there 0.20 expects zero points that are not packed."""
    tc.open(llama()) | tc.quantize(scheme, **options) | tc.write(tmp_path / "q", convention=CT)
    weights(tmp_path / "q")


@pytest.mark.parametrize("convention", [CT, "deepseek"])
def test_a_tied_head_is_no_quantized_layer(convention, llama, tmp_path):
    """It is stored nowhere, but a linear layer of the model: not ignored, it would be missed."""
    scheme = "int4" if convention == CT else "fp8"
    tc.open(llama(True)) | tc.quantize(scheme) | tc.write(tmp_path / "q", convention=convention)
    assert "lm_head.weight" not in load_file(tmp_path / "q" / "model.safetensors")
    stated = config_of(tmp_path / "q")["quantization_config"]
    assert stated["ignore" if convention == CT else "modules_to_not_convert"] == ["lm_head"]
    weights(tmp_path / "q")


@pytest.mark.parametrize(("scheme", "options", "preset", "form"), PRESETS)
def test_a_group_is_the_preset_of_that_name(scheme, options, preset, form, llama, tmp_path):
    from compressed_tensors.quantization import QuantizationConfig
    from compressed_tensors.quantization.quant_scheme import preset_name_to_scheme

    tc.open(llama()) | tc.quantize(scheme, **options) | tc.write(tmp_path / "q", convention=CT)
    stated = config_of(tmp_path / "q")["quantization_config"]
    read = QuantizationConfig.model_validate(stated)
    assert (read.format, read.quantization_status.value, read.ignore) == (form, "compressed", ["lm_head"])
    (group,) = read.config_groups.values()
    expected = preset_name_to_scheme(preset, ["Linear"])
    assert group.model_copy(update={"format": None}) == expected
    assert group.format == form


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("rows", "columns"), [(8, 128), (37, 384), (1, 128), (2051, 1024)])
def test_int4_is_packed_as_compressed_tensors_packs(rows, columns, symmetric, save, tmp_path):
    from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32

    x = torch.randn(rows, columns, generator=torch.Generator().manual_seed(rows)) + 0.3
    flow = tc.open(save({"layers.0.q.weight": x})) | tc.quantize("int4", group_size=64, symmetric=symmetric)
    flow | tc.write(tmp_path / "n.safetensors", convention="neutral")
    neutral, name = load_file(tmp_path / "n.safetensors"), "layers.0.q.weight"
    nibbles = torch.stack((neutral[name] & 15, neutral[name] >> 4), -1).reshape(rows, columns)
    codes = torch.where(nibbles > 7, nibbles.int() - 16, nibbles.int()).to(torch.int8)
    for threads in (1, 2):
        path = tmp_path / f"{threads}.safetensors"
        flow | tc.write(path, convention=CT, workers=threads, memory="2MB")
        found = load_file(path)
        assert torch.equal(found["layers.0.q.weight_packed"], pack_to_int32(codes, 4))
        assert torch.equal(found["layers.0.q.weight_shape"], torch.tensor([rows, columns]))
        assert torch.equal(found["layers.0.q.weight_scale"], neutral[f"{name}_scale"])
        if not symmetric:
            zeros = pack_to_int32(neutral[f"{name}_zero_point"], 4, packed_dim=0)
            assert torch.equal(found["layers.0.q.weight_zero_point"], zeros)
    for convention, path in (("neutral", "n.safetensors"), (CT, "1.safetensors")):
        out = tmp_path / f"{convention}-d.safetensors"
        tc.open(tmp_path / path) | tc.dequantize("F32", convention=convention) | tc.write(out)
    same(load_file(tmp_path / f"{CT}-d.safetensors"), load_file(tmp_path / "neutral-d.safetensors"))


@pytest.mark.parametrize("preset", ["W4A16", "W4A16_ASYM"])
def test_what_compressed_tensors_packed_is_read(preset, save, tmp_path):
    """Its own scales, codes and packing; decoded by it and by us."""
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization.quant_scheme import preset_name_to_scheme
    from compressed_tensors.quantization.utils import calculate_qparams

    scheme = preset_name_to_scheme(preset, ["Linear"])
    x = torch.randn(45, 512, generator=torch.Generator().manual_seed(7)) + 0.2
    groups = x.reshape(45, 4, 128)
    scale, zero = calculate_qparams(groups.amin(-1), groups.amax(-1), scheme.weights)
    compressor = BaseCompressor.get_value_from_registry("pack-quantized")
    given = {"weight": x, "weight_scale": scale, "weight_zero_point": zero.to(torch.int8)}
    packed = compressor.compress(given, scheme)
    save({f"a.{name}": value for name, value in packed.items()})
    flow = tc.open(tmp_path / "model.safetensors") | tc.dequantize("F32", convention=CT)
    flow | tc.write(tmp_path / "out" / "d.safetensors")
    found = load_file(tmp_path / "out" / "d.safetensors")
    same(found, {"a.weight": compressor.decompress(packed, scheme)["weight"]})


def test_mixed_schemes_are_told_by_name(llama, tmp_path):
    from transformers import AutoModelForCausalLM

    flow = tc.open(llama()) | tc.quantize(
        "int4", overrides={"layers.1.mlp": "fp8", "down_proj": "keep"}, exclude=["layers.0.*.v_proj"]
    )
    plan = flow.plan(tc.write(tmp_path / "q", convention=CT))
    flow | tc.write(tmp_path / "q", convention=CT)
    assert not any("quantization_config" in said for said in map(str, plan.log.warnings))
    stated = config_of(tmp_path / "q")["quantization_config"]
    assert stated["format"] == "mixed-precision"
    assert stated["ignore"] == ["lm_head", "model.layers.0.mlp.down_proj", "model.layers.0.self_attn.v_proj"]
    first, second = stated["config_groups"].values()
    assert (first["targets"], first["format"]) == (["Linear"], "pack-quantized")
    mlp = [f"model.layers.1.mlp.{name}" for name in ("down_proj", "gate_proj", "up_proj")]
    assert (second["targets"], second["format"]) == (mlp, "float-quantized")
    tc.open(tmp_path / "q") | tc.dequantize("BF16", convention=CT) | tc.write(tmp_path / "d")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "q", dtype=torch.bfloat16)
    model(torch.arange(4)[None])  # decodes; dequantize=True of transformers 5 knows one scheme to a model
    found = {name: value for name, value in model.state_dict().items() if "weight_" not in name}
    same(found, weights(tmp_path / "d"))


def test_calibrated_nvfp4_says_that_inputs_are_quantized(llama, tmp_path):
    """W4A4, with the scale that the calibration gave; alpha is computed by the consumer."""
    from compressed_tensors.quantization import QuantizationConfig
    from compressed_tensors.quantization.quant_scheme import preset_name_to_scheme

    names = [name for name in load_file(llama() / "model.safetensors") if "_proj" in name]
    torch.save({"absmax": {name: torch.tensor(5.25) for name in names}}, tmp_path / "calib.pt")
    flow = tc.open(llama()) | tc.quantize("nvfp4") | Calibrate(str(tmp_path / "calib.pt"))
    flow | tc.write(tmp_path / "ct", convention=CT)
    stated = config_of(tmp_path / "ct")["quantization_config"]
    (group,) = QuantizationConfig.model_validate(stated).config_groups.values()
    expected = preset_name_to_scheme("NVFP4", ["Linear"])
    assert group.weights == expected.weights
    found, told = group.input_activations.model_dump(), expected.input_activations.model_dump()
    assert {**found, "observer": None} == {**told, "observer": None}
    stored = load_file(tmp_path / "ct" / "model.safetensors")
    stem = names[0].removesuffix(".weight")
    assert torch.equal(stored[f"{stem}.input_global_scale"], torch.tensor([512.0]))  # 2688 / 5.25
    assert not any(name.endswith(".alpha") for name in stored)

    flow | tc.write(tmp_path / "mo", convention="modelopt")
    assert config_of(tmp_path / "mo")["quantization_config"]["quant_algo"] == "NVFP4"
    stored = load_file(tmp_path / "mo" / "model.safetensors")
    assert torch.equal(stored[f"{stem}.input_scale"], torch.tensor(1 / 512))
    with pytest.raises(tc.TranscodeError, match="the consumer computes alpha itself"):
        (
            tc.open(llama())
            | tc.quantize("nvfp4")
            | Calibrate(str(tmp_path / "calib.pt"), keep_global_scale=False)
            | tc.write(tmp_path / "no", convention=CT)
        )


def test_transformers_reads_deepseeks_fp8(llama, tmp_path):
    source = llama()
    tc.open(source) | tc.quantize("fp8", exclude=["o_proj"]) | tc.write(tmp_path / "q", convention="deepseek")
    stated = config_of(tmp_path / "q")["quantization_config"]
    kept = ["lm_head", *(f"model.layers.{n}.self_attn.o_proj" for n in (0, 1))]
    assert stated == {
        "activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8",
        "weight_block_size": [128, 128], "modules_to_not_convert": kept,
    }  # fmt: skip
    before = config_of(source)
    assert {**before, "quantization_config": stated} == config_of(tmp_path / "q")
    tc.open(tmp_path / "q") | tc.dequantize("BF16", convention="deepseek") | tc.write(tmp_path / "d")
    found = weights(tmp_path / "q")  # without a GPU it is decoded while it is loaded
    same(found, weights(tmp_path / "d"))
    assert torch.equal(found[f"{kept[1]}.weight"], weights(source)[f"{kept[1]}.weight"])


ALGORITHMS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("fp8", {}, {"quant_algo": "FP8_PER_CHANNEL_PER_TOKEN"}),
    ("nvfp4", {}, {"quant_algo": "W4A16_NVFP4", "group_size": 16}),
    ("mxfp8", {}, {"quant_algo": "MXFP8", "group_size": 32}),
]


@pytest.mark.parametrize(("scheme", "options", "told"), ALGORITHMS)
def test_modelopt_names_the_algorithm_twice(scheme, options, told, llama, tmp_path):
    """In config.json and in hf_quant_config.json: vllm/model_executor/layers/quantization/modelopt.py."""
    flow = tc.open(llama()) | tc.quantize(scheme, **options)
    flow | tc.write(tmp_path / "q", convention="modelopt")
    beside = json.loads((tmp_path / "q" / "hf_quant_config.json").read_text())
    assert beside["producer"]["name"] == "modelopt"
    assert beside["quantization"] == {**told, "kv_cache_quant_algo": None, "exclude_modules": ["lm_head"]}
    stated = config_of(tmp_path / "q")["quantization_config"]
    assert (stated["quant_method"], stated["ignore"]) == ("modelopt", ["lm_head"])
    assert {key: stated[key] for key in told} == told
    assert stated["config_groups"]["group_0"]["targets"] == ["Linear"]
    assert ("input_activations" in stated["config_groups"]["group_0"]) == (scheme != "nvfp4")
    if told["quant_algo"] == "FP8_PER_CHANNEL_PER_TOKEN":
        scale = load_file(tmp_path / "q" / "model.safetensors")["model.layers.0.mlp.up_proj.weight_scale"]
        assert (scale.shape, scale.dtype) == ((384,), torch.float32)
    tc.open(tmp_path / "q") | tc.dequantize("F32", convention="modelopt") | tc.write(tmp_path / "d")
    tc.open(llama()) | tc.quantize(scheme, **options) | tc.write(tmp_path / "n", convention="neutral")
    tc.open(tmp_path / "n") | tc.dequantize("F32", convention="neutral") | tc.write(tmp_path / "nd")
    found, neutral = (load_file(tmp_path / at / "model.safetensors") for at in ("d", "nd"))
    if scheme == "mxfp8":
        same(found, neutral)
    for name, value in load_file(llama() / "model.safetensors").items():
        error = (found[name].float() - value.float()).norm() / value.float().norm()
        assert error < (0.3 if scheme == "nvfp4" else 0.07), name


def test_modelopt_mixed(llama, tmp_path):
    flow = tc.open(llama()) | tc.quantize("nvfp4", overrides={"layers.1": "mxfp8"})
    flow | tc.write(tmp_path / "q", convention="modelopt")
    stated = json.loads((tmp_path / "q" / "hf_quant_config.json").read_text())["quantization"]
    assert stated["quant_algo"] == "MIXED_PRECISION"
    layers = stated["quantized_layers"]
    assert len(layers) == 14
    assert layers["model.layers.0.self_attn.q_proj"] == {"quant_algo": "W4A16_NVFP4", "group_size": 16}
    assert layers["model.layers.1.mlp.up_proj"] == {"quant_algo": "MXFP8", "group_size": 32}
    groups = config_of(tmp_path / "q")["quantization_config"]["config_groups"]
    assert sorted(name for group in groups.values() for name in group["targets"]) == sorted(layers)


def test_decoding_takes_the_words_back(llama, tmp_path):
    source = llama()
    tc.open(source) | tc.quantize("fp8") | tc.write(tmp_path / "q", convention="modelopt")
    decoded = tc.open(tmp_path / "q") | tc.dequantize("BF16", convention="modelopt")
    decoded | tc.write(tmp_path / "d")
    assert config_of(tmp_path / "d") == config_of(source)
    assert not (tmp_path / "d" / "hf_quant_config.json").exists()
    decoded | tc.quantize("int4") | tc.write(tmp_path / "again", convention=CT)
    assert config_of(tmp_path / "again")["quantization_config"]["format"] == "pack-quantized"
    assert not (tmp_path / "again" / "hf_quant_config.json").exists()


@pytest.mark.parametrize(("convention", "scheme"), [(CT, "fp8"), ("modelopt", "fp8"), ("deepseek", "fp8")])
def test_a_config_stays_true_where_some_are_decoded(convention, scheme, llama, tmp_path):
    tc.open(llama()) | tc.quantize(scheme) | tc.write(tmp_path / "q", convention=convention)
    tc.open(tmp_path / "q") | tc.dequantize("BF16", only=["layers.1"]) | tc.write(tmp_path / "some")
    stored = load_file(tmp_path / "some" / "model.safetensors")
    plain = {
        name.removesuffix(".weight")
        for name, tensor in stored.items()
        if name.endswith("_proj.weight") and tensor.dtype == torch.bfloat16
    }
    assert len(plain) == 7
    before, after = (config_of(tmp_path / name)["quantization_config"] for name in ("q", "some"))
    key = "modules_to_not_convert" if convention == "deepseek" else "ignore"
    assert set(after[key]) == {*before[key], *plain}
    assert {k: v for k, v in after.items() if k != key} == {k: v for k, v in before.items() if k != key}
    if convention == "modelopt":
        said = json.loads((tmp_path / "some" / "hf_quant_config.json").read_text())["quantization"]
        assert plain <= set(said["exclude_modules"])
    if convention == CT:
        from transformers import CompressedTensorsConfig

        tc.open(tmp_path / "q") | tc.dequantize("BF16") | tc.write(tmp_path / "all")
        found = weights(tmp_path / "some", quantization_config=CompressedTensorsConfig(dequantize=True))
        same(found, weights(tmp_path / "all"))


def test_other_side_files_stay(llama, tmp_path):
    source = tmp_path / "src"
    shutil.copytree(llama(), source)
    (source / "tokenizer.json").write_text('{"é": 1 }')
    tc.open(source) | tc.quantize("int8") | tc.write(tmp_path / "q", convention=CT)
    for name in ("tokenizer.json", "generation_config.json"):
        assert (tmp_path / "q" / name).read_bytes() == (source / name).read_bytes()
    # a consumer that needs no quantization_config gets config.json to the byte
    tc.open(source) | tc.quantize("int8") | tc.write(tmp_path / "l", convention="lightx2v")
    assert (tmp_path / "l" / "config.json").read_bytes() == (source / "config.json").read_bytes()


def test_without_a_config_there_is_a_note(llama, tmp_path):
    source = tmp_path / "src"
    source.mkdir()
    shutil.copy(llama() / "model.safetensors", source)
    plan = (tc.open(source) | tc.quantize("int8")).plan(tc.write(tmp_path / "q", convention=CT))
    assert [side.name for side in plan.side_files] == []
    assert any("loaders need one with the quantization_config" in said for said in map(str, plan.log.notes))
    for write in (
        tc.write(tmp_path / "q.safetensors", convention=CT),
        tc.write(tmp_path / "q", convention=CT, copy_metadata=False),
    ):
        notes = (tc.open(llama()) | tc.quantize("int8")).plan(write).log.notes
        assert any("loaders need a config.json" in str(said) for said in notes)
        notes = tc.open(llama()).plan(write).log.notes
        assert not any("config.json" in str(said) for said in notes)
    (source / "config.json").write_text("[1]")
    plan = (tc.open(source) | tc.quantize("int8")).plan(tc.write(tmp_path / "q", convention=CT))
    assert any("config.json is no JSON object" in said for said in map(str, plan.log.warnings))
    assert [side.content for side in plan.side_files] == [source / "config.json"]


def test_a_router_hides_no_layer(tmp_path):
    """Loaders of these two take the names of what is not quantized for beginnings of names."""
    source = tmp_path / "src"
    source.mkdir()
    at = "model.layers.0"
    names = [f"{at}.self_attn.o_proj", f"{at}.mlp.gate", f"{at}.mlp.gate_proj", "lm_head"]
    tensors = {f"{name}.weight": torch.randn(128, 128) for name in names}
    save_file({**tensors, f"{at}.input_layernorm.weight": torch.ones(128)}, source / "model.safetensors")
    (source / "config.json").write_text("{}")
    ignored = {}
    for convention, key in (("deepseek", "modules_to_not_convert"), ("modelopt", "ignore"), (CT, "ignore")):
        flow = tc.open(source) | tc.quantize("fp8")
        plan = flow.plan(tc.write(tmp_path / convention, convention=convention))
        flow | tc.write(tmp_path / convention, convention=convention)
        ignored[convention] = config_of(tmp_path / convention)["quantization_config"][key]
        hidden = [said for said in map(str, plan.log.warnings) if f"{at}.mlp.gate is not listed" in said]
        assert len(hidden) == (convention != CT)
    assert ignored == {
        "deepseek": ["lm_head"], "modelopt": ["lm_head"], CT: ["lm_head", f"{at}.mlp.gate"],
    }  # fmt: skip
