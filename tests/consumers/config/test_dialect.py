"""What all dialects have to do: heads, routers, layers that are decoded, files that stay."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

import transcode as tc
from tests.consumers.config.reading import CT, config_of, same, weights
from transcode.errors import PlanError

pytest.importorskip("transformers")
pytest.importorskip(
    "compressed_tensors", reason="needs compressed-tensors, which is a development dependency"
)


@pytest.mark.parametrize("convention", [CT, "deepseek"])
def test_a_tied_head_is_no_quantized_layer(convention, llama, tmp_path):
    """It is stored nowhere, but a linear layer of the model: not ignored, it would be missed."""
    scheme = "int4" if convention == CT else "fp8"
    tc.open(llama(True)) | tc.quantize(scheme) | tc.write(tmp_path / "q", convention=convention)
    assert "lm_head.weight" not in load_file(tmp_path / "q" / "model.safetensors")
    stated = config_of(tmp_path / "q")["quantization_config"]
    assert stated["ignore" if convention == CT else "modules_to_not_convert"] == ["lm_head"]
    weights(tmp_path / "q")


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


@pytest.mark.parametrize("value", ["lm_head", [{"x": 1}], [None, "lm_head"], {"a": 1}, 0])
@pytest.mark.parametrize(
    ("convention", "file", "holder", "key"),
    [
        (CT, "config.json", "quantization_config", "ignore"),
        ("deepseek", "config.json", "quantization_config", "modules_to_not_convert"),
        ("modelopt", "hf_quant_config.json", "quantization", "exclude_modules"),
    ],
)  # fmt: skip
def test_lists_that_are_none_are_not_written_over(convention, file, holder, key, value, llama, tmp_path):
    """What they would say of other layers would be lost; one was a traceback."""
    tc.open(llama()) | tc.quantize("fp8") | tc.write(tmp_path / "q", convention=convention)
    stated = json.loads((tmp_path / "q" / file).read_text())
    stated[holder][key] = value
    (tmp_path / "q" / file).write_text(json.dumps(stated))
    flow = tc.open(tmp_path / "q") | tc.dequantize("BF16", only=["layers.1"])
    with pytest.raises(PlanError, match=f"{file}: {key} is .*, not a list of names"):
        flow.plan(tc.write(tmp_path / "some"))


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
