"""Other projects' ways between quantized formats give what transcode gives; and what is measured of them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import bench_recode
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

import transcode as tc

sys.path.insert(0, str(Path(bench_recode.__file__).parent / "baselines"))
import recoders


def test_deepseek_decodes_to_the_same_bytes(tmp_path):
    plain = tmp_path / "plain"
    plain.mkdir()
    random = np.random.default_rng(0)
    tensors = {
        f"model.layers.0.{name}_proj.weight": random.standard_normal((256, 384)).astype(ml_dtypes.bfloat16)
        for name in ("mlp.gate", "mlp.up", "self_attn.q")
    }
    save_file(tensors, plain / "model.safetensors")
    (plain / "config.json").write_text('{"torch_dtype": "bfloat16"}')
    source, theirs, ours = tmp_path / "fp8", tmp_path / "theirs", tmp_path / "ours"
    tc.open(plain) | tc.quantize("fp8") | tc.write(source, convention="deepseek", max_shard_size="150kB")
    recoders.deepseek(source, theirs)
    tc.open(source) | tc.dequantize("BF16") | tc.write(ours)
    assert bench_recode.same(ours, theirs) == (3, 3)
    assert "quantization_config" not in json.loads((theirs / "config.json").read_text())


def test_a_missing_package_is_no_failure(tmp_path):
    cost = bench_recode.measure([sys.executable, "-c", "raise SystemExit(3)"], tmp_path, tmp_path / "o")
    assert cost is None
    cost = bench_recode.measure([sys.executable, "-c", "print('{src}')"], tmp_path, tmp_path / "o")
    assert cost is not None
    assert cost.rss > 1_000_000
    with pytest.raises(bench_recode.subprocess.CalledProcessError):
        bench_recode.measure([sys.executable, "-c", "raise SystemExit(1)"], tmp_path, tmp_path / "o")
