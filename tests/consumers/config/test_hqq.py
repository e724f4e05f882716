"""What transformers says of a model that HQQ quantized is understood, and left out with the codes."""

from __future__ import annotations

import json
from pathlib import Path

import transcode as tc

FIXTURES = Path(__file__).parents[3] / "fixtures" / "hqq"
SAID = {
    "quant_method": "hqq",
    "skip_modules": ["lm_head"],
    "quant_config": {"weight_quant_params": {"nbits": 4}},
}


def test_a_statement_of_hqq_is_understood_and_left_out(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    stored = (FIXTURES / "stored.safetensors").read_bytes()
    (tmp_path / "m" / "model.safetensors").write_bytes(stored)
    (tmp_path / "m" / "config.json").write_text(
        json.dumps({"model_type": "toy", "quantization_config": SAID})
    )
    tc.open(tmp_path / "m") | tc.dequantize(only=["rows4"]) | tc.write(tmp_path / "some")
    some = json.loads((tmp_path / "some" / "config.json").read_text())
    assert some["quantization_config"]["skip_modules"] == ["lm_head", "blocks.rows4"]
    tc.open(tmp_path / "m") | tc.dequantize() | tc.write(tmp_path / "all")
    assert "quantization_config" not in json.loads((tmp_path / "all" / "config.json").read_text())
