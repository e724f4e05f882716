"""FP8 in blocks is decoded by transformers as it is here."""

from __future__ import annotations

import pytest
import torch

import transcode as tc
from tests.consumers.config.reading import config_of, same, weights

pytest.importorskip("transformers")
pytest.importorskip(
    "compressed_tensors", reason="needs compressed-tensors, which is a development dependency"
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
