"""What stands beside the weights says what is true of them."""

from __future__ import annotations

import json

import pytest
import torch

import transcode as tc

NAMES = [f"model.layers.{n}.mlp.{m}.weight" for n in range(2) for m in ("up_proj", "down_proj")]


@pytest.fixture
def folder(save):
    def call(config: object, **more: object):
        tensors = {name: torch.randn(128, 128, generator=torch.Generator().manual_seed(1)) for name in NAMES}
        path = save(
            {name: x.to(torch.bfloat16) for name, x in tensors.items()}, "in/model.safetensors"
        ).parent
        (path / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
        for name, content in more.items():
            (path / f"{name}.json").write_text(json.dumps(content))
        return path

    return call


def written(path) -> dict:
    return json.loads((path / "config.json").read_text())


@pytest.mark.parametrize("value", [["fp8"], "fp8"])
@pytest.mark.parametrize("part", [False, True])
def test_a_claim_that_is_no_object(value, part, folder, tmp_path, cli, refused) -> None:
    """Decoding refuses it, a copy warns, and what states the truth anew replaces it."""
    claim = {"quantization_config": value}
    config = {"model_type": "llama", **({"text_config": claim} if part else claim)}
    source = folder(config)
    copied = cli("run", source, tmp_path / "copy")
    assert "config.json: quantization_config is " in copied.err
    assert "not a JSON object: loaders refuse it" in copied.err
    assert written(tmp_path / "copy") == config
    replaced = cli("run", source, tmp_path / "q", "--scheme", "fp8", "--convention", "deepseek")
    assert "config.json: quantization_config of the source is replaced" in replaced.err
    assert written(tmp_path / "q")["quantization_config"]["quant_method"] == "fp8"
    (tmp_path / "q" / "config.json").write_text(json.dumps(config))
    told = refused("run", tmp_path / "q", tmp_path / "d", "--dequantize", "bf16")
    assert "config.json: quantization_config is " in told
    assert "how its tensors are quantized is not certain" in told
    assert not (tmp_path / "d").exists()


def test_null_says_nothing(folder, tmp_path, cli) -> None:
    source = folder({"model_type": "llama", "quantization_config": None})
    assert cli("run", source, tmp_path / "copy").err == ""


def test_a_config_that_is_no_json_goes_along_with_a_warning(folder, tmp_path, cli) -> None:
    told = cli("run", folder("{"), tmp_path / "o", "--scheme", "fp8", "--convention", "deepseek")
    assert "config.json is no JSON object: it goes along as it is" in told.err
    assert (tmp_path / "o" / "config.json").read_text() == "{"


def test_all_other_files_come_along_and_config_is_told_the_truth(folder, tmp_path) -> None:
    config = {"model_type": "llama", "torch_dtype": "float32", "quantization_config": {"quant_method": "fp8"}}
    source = folder(config, tokenizer={"a": 1}, hf_quant_config={"quantization": {}})
    plan = (tc.open(source) | tc.quantize("fp8")).plan(tc.write(tmp_path / "o", convention="deepseek"))
    side = {one.name: one.content for one in plan.side_files}
    assert side.keys() == {"config.json", "tokenizer.json"}
    stated = json.loads(side["config.json"])
    assert stated.pop("quantization_config")["weight_block_size"] == [128, 128]
    assert stated == {"model_type": "llama", "torch_dtype": "float32"}


def test_a_cast_changes_the_dtype_that_config_says(folder, tmp_path) -> None:
    source = folder({"torch_dtype": "bfloat16", "n": 1})
    tc.open(source) | tc.cast("F16") | tc.write(tmp_path / "o")
    assert written(tmp_path / "o") == {"torch_dtype": "float16", "n": 1}


def test_a_file_is_told_what_it_will_miss(folder, tmp_path) -> None:
    flow = tc.open(folder({})) | tc.quantize("fp8")
    plan = flow.plan(tc.write(tmp_path / "o.safetensors", convention="deepseek"))
    assert plan.side_files == ()
    assert any(
        "loaders need a config.json with the quantization_config" in str(one) for one in plan.log.notes
    )


def test_the_index_sums_up_what_it_names(folder, tmp_path) -> None:
    tc.open(folder({})) | tc.write(tmp_path / "o", max_tensors=1)
    index = json.loads((tmp_path / "o" / "model.safetensors.index.json").read_text())
    assert index["weight_map"].keys() == set(NAMES)
    assert index["metadata"]["total_size"] == 4 * 128 * 128 * 2
    for name, file in index["weight_map"].items():
        assert name in {tensor.name for tensor in tc.open(tmp_path / "o" / file)}
