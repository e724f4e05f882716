"""LoRAs into quantized models: what is changed is encoded as it was, everything else keeps its bytes."""

from __future__ import annotations

import json

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import transcode as tc
from tests.files import raw
from transcode.errors import PlanError, RecipeError

BLOCKS = [f"model.layers.{block}.self_attn" for block in (0, 1)]
NAMES = [f"{block}.{part}_proj.weight" for block in BLOCKS for part in "qkvo"]
CHANGED = f"{BLOCKS[0]}.o_proj.weight"
NORM = "model.layers.0.input_layernorm.weight"


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain")
    rng = np.random.default_rng(0)
    tensors = {
        name: (rng.standard_normal((256, 128)) * 0.05).astype(np.float32).astype(ml_dtypes.bfloat16)
        for name in NAMES
    }
    tensors[NORM] = np.ones(128, ml_dtypes.bfloat16)
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "dtype": "bfloat16"}))
    return folder


def lora(path, modules, size=0.02):
    rng = np.random.default_rng(1)
    tensors = {}
    for module in modules:
        tensors[f"{module}.lora_A.weight"] = (rng.standard_normal((4, 128)) * size).astype(np.float32)
        tensors[f"{module}.lora_B.weight"] = (rng.standard_normal((256, 4)) * size).astype(np.float32)
    save_file(tensors, path)
    return path


CASES = [
    ("int8", "lightx2v", "stochastic"), ("fp8", "deepseek", "nearest"),
    ("fp8", "compressed_tensors", "stochastic"),
    ("int4", "compressed_tensors", "stochastic"), ("mxfp4", "compressed_tensors", "nearest"),
    ("mxfp8", "modelopt", "stochastic"), ("nvfp4", "comfyui", "stochastic"), ("nvfp4", "modelopt", "nearest"),
    ("int4", "gptq", "stochastic"), ("int4", "awq", "nearest"), ("mxfp4", "mlx", "stochastic"),
    ("affine", "mlx", "nearest"), ("nf4", "bitsandbytes", "nearest"), ("int8", "torchao", "stochastic"),
    ("int8", "quark", "stochastic"), ("int4", "sdnq", "stochastic"), ("fp8", "quanto", "stochastic"),
    ("hqq", "hqq", "nearest"), ("w4a8", "comfyui", "nearest"),
]  # fmt: skip


@pytest.mark.parametrize(("scheme", "convention", "rounding"), CASES)
def test_only_what_was_changed_changes(scheme, convention, rounding, plain, tmp_path):
    tc.open(plain) | tc.quantize(scheme) | tc.write(tmp_path / "q", convention=convention)
    adapter = lora(tmp_path / "l.safetensors", [CHANGED.removesuffix(".weight")])
    flow = tc.open(tmp_path / "q") | tc.lora(adapter) | tc.requantize(rounding)
    report = flow | tc.write(tmp_path / "o", workers=1)
    assert report.plan.summary["convention"] == convention
    before, after = raw(tmp_path / "q"), raw(tmp_path / "o")
    assert before.keys() == after.keys()
    differing = {name for name in before if before[name] != after[name]}
    own = CHANGED.removesuffix("weight")
    assert differing
    assert all(name.startswith(own) or name == f"{own}weight" for name in differing)
    assert json.loads((tmp_path / "o" / "config.json").read_text()) == json.loads(
        (tmp_path / "q" / "config.json").read_text()
    )
    again = flow | tc.write(tmp_path / "o2", workers=3, tile=70_000)
    assert raw(again.plan.destination) == after
    # by the explicit way: decoded, merged, encoded with the same scheme
    if rounding == "nearest":
        steps = tc.dequantize("BF16") | tc.lora(adapter) | tc.quantize(scheme, include=["o_proj"])
        tc.open(tmp_path / "q") | steps | tc.write(tmp_path / "x", convention=convention)
        there = raw(tmp_path / "x")
        assert all(there[name] == after[name] for name in differing)


def test_joined_layers_go_together(plain, tmp_path):
    tc.open(plain) | tc.quantize("nvfp4") | tc.write(tmp_path / "q", convention="modelopt")
    adapter = lora(tmp_path / "l.safetensors", [f"{BLOCKS[0]}.q_proj"])
    report = tc.open(tmp_path / "q") | tc.lora(adapter) | tc.requantize() | tc.write(tmp_path / "o")
    said = "; ".join(map(str, report.plan.log.warnings))
    assert "2 tensors that nobody changed are encoded anew too" in said
    before, after = raw(tmp_path / "q"), raw(tmp_path / "o")
    assert len({after[f"{BLOCKS[0]}.{part}_proj.weight_scale_2"][2] for part in "qkv"}) == 1
    assert all(before[name] == after[name] for name in before if name.startswith(BLOCKS[1]))


def test_seeds_and_names_make_the_random_numbers(plain, tmp_path):
    tc.open(plain) | tc.quantize("int8") | tc.write(tmp_path / "q", convention="lightx2v")
    adapter = lora(tmp_path / "l.safetensors", [CHANGED.removesuffix(".weight")])
    flow = tc.open(tmp_path / "q") | tc.lora(adapter)
    codes = []
    for number, seed in enumerate((1, 2, 1)):
        out = tmp_path / f"o{number}"
        flow | tc.requantize("stochastic", seed=seed) | tc.write(out)
        codes.append(raw(out)[CHANGED][2])
    assert codes[0] == codes[2] != codes[1]


def test_small_changes_do_not_vanish(plain, tmp_path):
    """A LoRA of a tenth of a step is lost by rounding to the nearest, and is there on average otherwise."""
    tc.open(plain) | tc.quantize("int4", group_size=32) | tc.write(tmp_path / "q", convention="neutral")
    tc.open(tmp_path / "q") | tc.dequantize("F32") | tc.write(tmp_path / "qf")
    before = load_file(next((tmp_path / "qf").glob("*.safetensors")))[CHANGED].astype(np.float64)
    adapter = lora(tmp_path / "l.safetensors", [CHANGED.removesuffix(".weight")], size=0.03)
    pair = load_file(adapter)
    wanted = np.float64(pair[f"{BLOCKS[0]}.o_proj.lora_B.weight"]) @ pair[f"{BLOCKS[0]}.o_proj.lora_A.weight"]
    share = {}
    for rounding in ("nearest", "stochastic"):
        out = tmp_path / rounding
        tc.open(tmp_path / "q") | tc.lora(adapter) | tc.requantize(rounding) | tc.write(out)
        tc.open(out) | tc.dequantize("F32") | tc.write(tmp_path / f"{rounding}f")
        after = load_file(next((tmp_path / f"{rounding}f").glob("*.safetensors")))[CHANGED].astype(np.float64)
        share[rounding] = float(((after - before) * wanted).sum() / (wanted**2).sum())
    assert abs(share["stochastic"] - 1) < 0.15
    assert abs(share["stochastic"] - 1) < abs(share["nearest"] - 1)


def test_nothing_of_a_change_is_lost_between(plain, tmp_path):
    """A tenth of a step of int8 is less than half a step of BF16 for the larger codes: a fifth was lost."""
    tc.open(plain) | tc.quantize("int8") | tc.write(tmp_path / "q", convention="neutral")
    scale = load_file(tmp_path / "q" / "model.safetensors")[f"{CHANGED}_scale"].astype(np.float32)
    module, one = CHANGED.removesuffix(".weight"), np.ones((1, 128), np.float32)
    pair = {f"{module}.lora_A.weight": one, f"{module}.lora_B.weight": scale.reshape(-1, 1) / 8}
    save_file(pair, tmp_path / "l.safetensors")
    flow = tc.open(tmp_path / "q") | tc.lora(tmp_path / "l.safetensors") | tc.requantize("stochastic")
    flow | tc.write(tmp_path / "o")
    share = []
    for folder in ("q", "o"):
        held = load_file(tmp_path / folder / "model.safetensors")
        share.append(held[CHANGED] * held[f"{CHANGED}_scale"].astype(np.float64).reshape(-1, 1))
    steps = (share[1] - share[0]) / scale.reshape(-1, 1)
    inner = np.abs(share[0] / scale.reshape(-1, 1)) < 100  # the ends move with the scale, or saturate
    assert abs(steps[inner].mean() - 1 / 8) < 0.006


def test_what_does_nothing_is_an_error(plain, tmp_path):
    adapter = lora(tmp_path / "l.safetensors", [CHANGED.removesuffix(".weight")])
    write = tc.write(tmp_path / "o")
    with pytest.raises(PlanError, match="holds nothing that is quantized"):
        (tc.open(plain) | tc.lora(adapter) | tc.requantize()).plan(write)
    tc.open(plain) | tc.quantize("int8") | tc.write(tmp_path / "q", convention="lightx2v")
    with pytest.raises(PlanError, match="no quantized tensor was changed"):
        (tc.open(tmp_path / "q") | tc.requantize()).plan(write)
    with pytest.raises(RecipeError, match="seed does nothing"):
        tc.requantize(seed=5)
    with pytest.raises(RecipeError, match="says what codes mean"):
        (tc.open(tmp_path / "q") | tc.lora(adapter) | tc.requantize(granularity="tensor")).plan(write)
    with pytest.raises(RecipeError, match="no scheme of the source has an option nonsense"):
        (tc.open(tmp_path / "q") | tc.lora(adapter) | tc.requantize(nonsense=1)).plan(write)
