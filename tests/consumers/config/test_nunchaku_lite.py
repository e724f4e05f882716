"""Layers of nunchaku as Diffusers keeps them are decoded by its formulas, and loaded by its own classes.

Orders inside the parts are written out by index formulas (``tests/numerics/test_nunchaku_layouts.py``).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import transcode as tc
from tests.numerics.test_nunchaku_layouts import (
    lowrank_by_formula,
    micro_by_formula,
    scale_by_formula,
    w4x4_by_formula,
    w4x16_by_formula,
)
from transcode.errors import PlanError

E2M1 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])
BF16 = torch.bfloat16
FILE = "diffusion_pytorch_model.safetensors"
Layer = tuple[dict[str, Any], Any, Any]
Q, K, MOD = "blocks.0.to_q", "blocks.0.to_k", "blocks.0.mod"


def bits(values: torch.Tensor) -> Any:
    return values.contiguous().view(torch.int16).numpy()


def ordered(values: torch.Tensor) -> torch.Tensor:
    """A vector of 16 bits in the order of the kernels."""
    return torch.from_numpy(scale_by_formula(bits(values.reshape(-1, 1))).reshape(-1)).view(BF16)


def svdq(kind: str, rows: int, columns: int, rank: int, random: torch.Generator) -> Layer:
    """The parts of a layer, the weight that they stand for, and its bias."""

    def some(*shape: int) -> torch.Tensor:
        return torch.rand(shape, generator=random) + 0.5

    up, down, smooth, bias = (
        some(*shape).to(BF16) for shape in ((rows, rank), (rank, columns), (columns,), (rows,))
    )
    codes = torch.randint(0, 16, (rows, columns), generator=random)
    if kind == "int4":
        scales = some(rows, columns // 64).to(BF16)
        values = torch.where(codes > 7, codes - 16, codes) * scales.float().repeat_interleave(64, 1)
        parts = {"wscales": torch.from_numpy(scale_by_formula(bits(scales))).view(BF16)}
    else:
        micro = some(rows, columns // 16).to(torch.float8_e4m3fn)
        outer, whole = some(rows).to(BF16), some(1).to(BF16)
        scales = micro.float() * outer.float()[:, None] * whole.float()
        values = E2M1[codes] * scales.repeat_interleave(16, 1)
        packed = micro_by_formula(micro.view(torch.uint8).numpy())
        parts = {"wscales": torch.from_numpy(packed).view(torch.float8_e4m3fn), "wtscale": whole}
        parts["wcscales"] = ordered(outer)
    for name, factor, turned in (("proj_down", down.T, True), ("proj_up", up, False)):
        parts[name] = torch.from_numpy(lowrank_by_formula(bits(factor), turned)).view(BF16)
    parts["qweight"] = torch.from_numpy(w4x4_by_formula(codes.numpy()))
    parts |= {"smooth_factor": ordered(smooth), "bias": ordered(bias)}
    branch = up.double() @ down.double()
    return parts, (values.float() / smooth.float()).double() + branch, bias


def awq(rows: int, columns: int, random: torch.Generator) -> Layer:
    codes = torch.randint(0, 16, (rows, columns), generator=random)
    scales, zeros, bias = (
        torch.randn(shape, generator=random).to(BF16)
        for shape in ((rows, columns // 64), (rows, columns // 64), (rows,))
    )
    values = codes * scales.float().repeat_interleave(64, 1) + zeros.float().repeat_interleave(64, 1)
    parts = {"qweight": torch.from_numpy(w4x16_by_formula(codes.numpy())).view(torch.int32)}
    return (
        parts | {"wscales": scales.T.contiguous(), "wzeros": zeros.T.contiguous(), "bias": bias},
        values,
        bias,
    )


@pytest.fixture(scope="module", params=["int4", "nvfp4"])
def lite(request, tmp_path_factory) -> tuple[Path, dict[str, torch.Tensor]]:
    random = torch.Generator().manual_seed(5)
    folder, kind = tmp_path_factory.mktemp(request.param), request.param
    stored, wanted = {"kept.weight": torch.ones(4, 8, dtype=BF16)}, {}
    layers = {
        Q: svdq(kind, 256, 128, 16, random),
        K: svdq(kind, 128, 256, 32, random),
        MOD: awq(128, 64, random),
    }
    for module, (parts, weight, bias) in layers.items():
        stored |= {f"{module}.{name}": value.contiguous() for name, value in parts.items()}
        wanted |= {f"{module}.weight": weight, f"{module}.bias": bias}
    save_file(stored, folder / FILE, {"format": "pt"})
    said = {
        "quant_method": "nunchaku_lite", "compute_dtype": "bfloat16",
        "svdq_w4a4": {
            "precision": kind, "group_size": 64 if kind == "int4" else 16, "rank": 16, "targets": [Q, K],
        },
        "awq_w4a16": {"precision": "int4", "group_size": 64, "targets": [MOD]},
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps({"_class_name": "Toy", "quantization_config": said}))
    return folder, wanted


def same(values: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    for name, value in wanted.items():
        if name.endswith("bias"):
            assert torch.equal(values[name], value), name
        else:  # sums of the branch are of float32
            assert (values[name].double() - value).abs().max() < 3e-6 * value.abs().max(), name


def test_values_are_those_of_the_formulas_and_biases_in_order(lite, tmp_path):
    source, wanted = lite
    tc.open(source) | tc.dequantize("F32") | tc.write(tmp_path / "d")
    values = load_file(tmp_path / "d" / FILE)
    assert values.keys() == {*wanted, "kept.weight"}
    same(values, wanted)
    assert "quantization_config" not in json.loads((tmp_path / "d" / "config.json").read_text())


def test_it_is_encoded_for_others(lite, tmp_path):
    source, wanted = lite
    flow = tc.open(source) | tc.quantize("int8", include=["mod"], exclude=["to_k"])
    flow | tc.write(tmp_path / "q.safetensors", convention="comfyui")
    parts = load_file(tmp_path / "q.safetensors")
    scale, biases = parts[f"{Q}.weight_scale"], {name: one for name, one in wanted.items() if "bias" in name}
    apart = (parts[f"{Q}.weight"] * scale - wanted[f"{Q}.weight"]).abs()
    assert (apart <= 0.51 * scale + wanted[f"{Q}.weight"].abs() / 256).all()  # decoded to BF16 between
    same(parts, biases)
    assert parts[f"{K}.weight"].dtype == BF16  # decoded: its bias could not be put back


def test_what_is_decoded_is_no_target_any_more(lite, tmp_path):
    source, wanted = lite
    (
        tc.open(source)
        | tc.dequantize("BF16", only=["to_q"])
        | tc.write(tmp_path / "d", convention="nunchaku_lite")
    )
    said = json.loads((tmp_path / "d" / "config.json").read_text())["quantization_config"]
    assert (said["svdq_w4a4"]["targets"], said["awq_w4a16"]["targets"]) == ([K], [MOD])
    before = load_file(source / FILE)
    after = load_file(tmp_path / "d" / FILE)
    assert torch.equal(after[f"{K}.bias"], before[f"{K}.bias"])
    assert torch.equal(after[f"{Q}.bias"], wanted[f"{Q}.bias"])


def test_a_list_that_is_none_is_refused():
    from transcode.consumers.config.nunchaku_lite import NunchakuLite

    with pytest.raises(PlanError, match="awq_w4a16 has no list of targets"):
        NunchakuLite().covers({"awq_w4a16": {"targets": MOD}}, MOD)


def test_what_is_written_has_the_shapes_that_its_class_makes(tmp_path):
    """Of ``AWQW4A16Linear``; that class itself loads it in ``tools/check_consumers.py``."""
    random = torch.Generator().manual_seed(1)
    weights = {f"net.{one}.weight": torch.randn(128, 256, generator=random).to(BF16) for one in "ab"}
    (tmp_path / "m").mkdir()
    save_file(weights | {"net.a.bias": torch.ones(128).to(BF16)}, tmp_path / "m" / "model.safetensors")
    (tmp_path / "m" / "config.json").write_text('{"_class_name": "Toy"}')
    flow = tc.open(tmp_path / "m") | tc.quantize("affine", exclude=["b"])
    flow | tc.write(tmp_path / "q", convention="nunchaku_lite")
    said = json.loads((tmp_path / "q" / "config.json").read_text())["quantization_config"]
    awq = {"precision": "int4", "group_size": 64, "targets": ["net.a"]}
    assert said == {"quant_method": "nunchaku_lite", "compute_dtype": "bfloat16", "awq_w4a16": awq}
    stored = load_file(tmp_path / "q" / "model.safetensors")
    assert {name: (one.dtype, tuple(one.shape)) for name, one in stored.items()} == {
        "net.a.qweight": (torch.int32, (32, 128)), "net.a.wscales": (BF16, (4, 128)),
        "net.a.wzeros": (BF16, (4, 128)), "net.a.bias": (BF16, (128,)), "net.b.weight": (BF16, (128, 256)),
    }  # fmt: skip
    tc.open(tmp_path / "q") | tc.dequantize("F32") | tc.write(tmp_path / "d")
    back = load_file(tmp_path / "d" / "model.safetensors")["net.a.weight"]
    assert (back - weights["net.a.weight"]).norm() < 0.12 * weights["net.a.weight"].norm()
