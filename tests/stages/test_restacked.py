"""Experts in one tensor, one by one, gate and up together or apart: by codes and scales, there and back.

Stacks of ModelOpt are made by the formulas of its export (``modelopt/torch/export/unified_export_hf.py``).
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import transcode as tc
from tests.files import raw
from transcode.errors import PlanError

EXPERTS, HIDDEN, INNER = 3, 64, 96
STEPS = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])
LLAMA4 = "language_model.model.layers.0."
QWEN = "model.layers.0."


def nvfp4(weights: torch.Tensor, shared: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Codes, block scales and float32 values of ``[.., K]`` under a scale that is multiplied by, as ModelOpt
    decodes them.
    """
    blocks = weights.unflatten(-1, (-1, 16))
    scales = (blocks.abs().amax(-1) / (6 * shared)).clamp(2**-9, 448).to(torch.float8_e4m3fn)
    scaled = (blocks / (scales.float() * shared)[..., None]).flatten(-2)
    codes = (scaled.abs()[..., None] - STEPS).abs().argmin(-1) | ((scaled < 0) << 3)
    values = torch.cat([STEPS, -STEPS])[codes].unflatten(-1, (-1, 16)) * (scales.float() * shared)[..., None]
    pairs = codes.to(torch.uint8).unflatten(-1, (-1, 2))
    return pairs[..., 0] | pairs[..., 1] << 4, scales, values.flatten(-2)


def turned(stack: torch.Tensor) -> torch.Tensor:
    return (
        stack.view(torch.uint8).transpose(1, 2).contiguous().view(stack.dtype)
        if stack.itemsize == 1
        else (stack.transpose(1, 2).contiguous())
    )


def model(folder: Path, layer: str, tensors: dict[str, torch.Tensor], **config: object) -> Path:
    around = {f"self_attn.{one}_proj": (HIDDEN, HIDDEN) for one in "qkvo"}
    around |= {"input_layernorm": (HIDDEN,), "post_attention_layernorm": (HIDDEN,)}
    outside = layer.removesuffix("layers.0.")
    tensors |= {f"{layer}{name}.weight": torch.randn(shape).bfloat16() for name, shape in around.items()}
    tensors |= {f"{outside}{one}.weight": torch.ones(HIDDEN).bfloat16() for one in ("norm",)}
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def converted(source: Path, to: str, out: Path) -> dict[str, tuple[str, list[int], bytes]]:
    tc.open(source) | tc.convert(to) | tc.write(out)
    return raw(out)


@pytest.mark.parametrize("each", [False, True], ids=["one scale", "one to each"])
@pytest.mark.parametrize("kind", ["nvfp4", "fp8"])
def test_stacks_of_modelopt(kind: str, each: bool, tmp_path: Path) -> None:
    torch.manual_seed(3)
    stored, values = {f"{LLAMA4}feed_forward.router.weight": torch.randn(EXPERTS, HIDDEN).bfloat16()}, {}
    for name, (rows, columns) in {"gate_up_proj": (HIDDEN, 2 * INNER), "down_proj": (INNER, HIDDEN)}.items():
        weights = torch.randn(EXPERTS, rows, columns) * torch.tensor([1, 4, 0.5])[:, None, None]
        peaks = weights.abs().amax((1, 2) if each else None, keepdim=True)
        label = f"{LLAMA4}feed_forward.experts.{name}"
        if kind == "nvfp4":
            codes, scales, found = map(turned, nvfp4(turned(weights), peaks / 2688))
            stored |= {label: codes, f"{label}_weight_scale": scales}
        else:
            codes = (weights / (peaks / 448)).to(torch.float8_e4m3fn)
            stored[label], found = codes, codes.float() * (peaks / 448)
        values[label] = found
        last, most = ("_weight_scale_2", 2688) if kind == "nvfp4" else ("_weight_scale", 448)
        stored[label + last] = (peaks / most).reshape((EXPERTS,) if each else ()).clone()
        stored[f"{label}_input_scale"] = torch.tensor(0.01)
    stated = {"quant_method": "modelopt", "quant_algo": kind.upper()}
    source = model(tmp_path / "m", LLAMA4, stored, model_type="llama4", quantization_config=stated)

    tc.open(source) | tc.dequantize("F32") | tc.write(tmp_path / "d")
    decoded = load_file(tmp_path / "d" / "model.safetensors")
    assert all(torch.equal(decoded[name], one) for name, one in values.items())
    assert not [name for name in decoded if "scale" in name]

    listed = converted(source, "listed_llava", tmp_path / "l")
    assert len([name for name in listed if name.endswith(".input_scale")]) == 3 * EXPERTS
    tc.open(tmp_path / "l") | tc.dequantize("F32") | tc.write(tmp_path / "ld")
    apart = load_file(tmp_path / "ld" / "model.safetensors")
    for expert in range(EXPERTS):
        names = [f"{LLAMA4}feed_forward.experts.{expert}.{one}_proj.weight" for one in ("gate", "up", "down")]
        both, down = (
            values[f"{LLAMA4}feed_forward.experts.{one}_proj"][expert].T for one in ("gate_up", "down")
        )
        assert all(map(torch.equal, [apart[name] for name in names], [*both.chunk(2), down]))

    back, before = converted(tmp_path / "l", "llava", tmp_path / "b"), raw(source)
    assert back.keys() == before.keys()
    if not each:  # one to each, all of them the same
        assert {name: len(one[2]) for name, one in back.items() if one != before[name]} == {
            name: 4 * EXPERTS for name, one in before.items() if one[1] == [] and "weight_scale" in name
        }
    else:
        assert back == before

    with pytest.raises(PlanError, match="matrices that lie transposed"):
        tc.open(source) | tc.write(tmp_path / "n", convention="neutral")
    flow = tc.open(source) | tc.quantize("fp8", include=["self_attn"], exclude=["experts"])
    with pytest.raises(PlanError, match="cannot stay as it is beside what is encoded"):
        flow | tc.write(tmp_path / "n", convention="modelopt")


SCHEMES = [
    ("int8", {}), ("int4", {"group_size": 32}), ("mxfp4", {}), ("mxfp6", {}),
    ("fp8", {"granularity": "block", "block": [32, 32]}),
]  # fmt: skip


@pytest.mark.parametrize(("scheme", "options"), SCHEMES, ids=str)
def test_a_list_becomes_a_stack_with_gate_above_up_and_comes_back(scheme, options, tmp_path: Path) -> None:
    torch.manual_seed(4)
    plain = {f"{QWEN}mlp.gate.weight": torch.randn(EXPERTS, HIDDEN).bfloat16()}
    for expert in range(EXPERTS):
        for part, shape in {"gate": (INNER, HIDDEN), "up": (INNER, HIDDEN), "down": (HIDDEN, INNER)}.items():
            plain[f"{QWEN}mlp.experts.{expert}.{part}_proj.weight"] = torch.randn(shape).bfloat16()
    source = model(tmp_path / "m", QWEN, plain, model_type="qwen3_moe")
    tc.open(source) | tc.quantize(scheme, **options) | tc.write(tmp_path / "q", convention="neutral")
    for way, folder in {"plain": source, "quantized": tmp_path / "q"}.items():
        stack = converted(folder, "stacked", tmp_path / f"{way} s")
        listed = raw(folder)
        for name in ("", "_scale")[: 1 + (way == "quantized")]:
            rows = [
                listed[f"{QWEN}mlp.experts.{e}.{p}_proj.weight{name}"]
                for e in range(EXPERTS)
                for p in ("gate", "up")
            ]
            dtype, shape, content = stack[f"{QWEN}mlp.experts.gate_up_proj{name}"]
            assert (dtype, shape[0], content) == (rows[0][0], EXPERTS, b"".join(one[2] for one in rows))
        assert converted(tmp_path / f"{way} s", "transformers", tmp_path / f"{way} b") == listed
    (tmp_path / "flat").mkdir()
    tc.open(source) | tc.quantize("nvfp4") | tc.write(tmp_path / "flat", convention="neutral", force=True)
    with pytest.raises(PlanError, match="scales of whole tensors differ that become one"):
        converted(tmp_path / "flat", "stacked", tmp_path / "no")


def test_rows_of_gpt_oss_that_alternate_are_listed_with_their_scales(tmp_path: Path) -> None:
    torch.manual_seed(5)
    experts = f"{QWEN}mlp.experts."
    codes, scales = (
        torch.randint(0, 256, (EXPERTS, 2 * INNER, 2, 16)).byte(),
        torch.randint(120, 130, (EXPERTS, 2 * INNER, 2)).byte(),
    )
    down, down_scales = (
        torch.randint(0, 256, (EXPERTS, HIDDEN, 3, 16)).byte(),
        torch.randint(120, 130, (EXPERTS, HIDDEN, 3)).byte(),
    )
    stored = {
        f"{experts}gate_up_proj_blocks": codes, f"{experts}gate_up_proj_scales": scales,
        f"{experts}gate_up_proj_bias": torch.randn(EXPERTS, 2 * INNER).bfloat16(),
        f"{experts}down_proj_blocks": down, f"{experts}down_proj_scales": down_scales,
        f"{experts}down_proj_bias": torch.randn(EXPERTS, HIDDEN).bfloat16(),
        f"{QWEN}mlp.router.weight": torch.randn(EXPERTS, HIDDEN).bfloat16(),
        f"{QWEN}self_attn.sinks": torch.ones(2).bfloat16(),
    }  # fmt: skip
    source = model(
        tmp_path / "m", QWEN, stored, model_type="gpt_oss", quantization_config={"quant_method": "mxfp4"}
    )
    converted(source, "listed", tmp_path / "l")
    listed = load_file(tmp_path / "l" / "model.safetensors")
    for expert in range(EXPERTS):
        for number, part in enumerate(("gate", "up")):
            stem = f"{experts}{expert}.{part}_proj"
            assert torch.equal(listed[f"{stem}.weight_blocks"], codes[expert, number::2])
            assert torch.equal(listed[f"{stem}.weight_scales"], scales[expert, number::2])
            assert torch.equal(
                listed[f"{stem}.bias"], stored[f"{experts}gate_up_proj_bias"][expert, number::2]
            )
    assert converted(tmp_path / "l", "transformers", tmp_path / "b") == raw(source)
    # Decoded they lie as transformers has them, so that they are listed alike then.
    tc.open(source) | tc.dequantize("bf16") | tc.write(tmp_path / "d")
    tc.open(source) | tc.convert("listed") | tc.dequantize("bf16") | tc.write(tmp_path / "ld")
    assert converted(tmp_path / "d", "listed", tmp_path / "dl") == raw(tmp_path / "ld")
    (
        tc.open(source)
        | tc.convert("listed")
        | tc.write(tmp_path / "c", convention="compressed_tensors", lossless=True)
    )
    packed = load_file(tmp_path / "c" / "model.safetensors")
    assert torch.equal(packed[f"{experts}1.up_proj.weight_packed"], codes[1, 1::2].flatten(1))
    assert torch.equal(packed[f"{experts}1.down_proj.weight_scale"], down_scales[1])
    stated = json.loads((tmp_path / "c" / "config.json").read_text())["quantization_config"]
    assert stated["config_groups"]["group_0"]["format"] == "mxfp4-pack-quantized"
