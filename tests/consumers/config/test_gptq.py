"""GPTQ in both layouts: what is written is decoded by GPTQModel's layer and by its formula, and back."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import transcode as tc
from transcode.errors import DataError, PlanError

NAME = "model.layers.0.mlp.up_proj"
LAYOUTS = ["gptq", "gptq_v2"]


def nibbles(words: torch.Tensor) -> np.ndarray:
    """``[.., W]`` words to ``[.., 8 W]`` numbers, the lowest first."""
    unsigned = words.numpy().astype(np.int64) & 0xFFFF_FFFF
    return np.stack([unsigned >> 4 * i & 15 for i in range(8)], -1).reshape(*words.shape[:-1], -1)


def words(numbers: np.ndarray) -> torch.Tensor:
    eights = numbers.reshape(*numbers.shape[:-1], -1, 8).astype(np.int64)
    packed = sum(eights[..., i] << 4 * i for i in range(8))
    return torch.from_numpy(packed.astype(np.uint32).view(np.int32))


def formula(parts: dict[str, torch.Tensor], layout: str, module: str = NAME) -> np.ndarray:
    """``[N, K]``, in float32: (code - zero point) * scale of the group that ``g_idx`` names."""
    codes = nibbles(parts[f"{module}.qweight"].T.contiguous())  # [N, K]
    zeros = nibbles(parts[f"{module}.qzeros"]) + (layout == "gptq")  # [G, N]
    group = parts[f"{module}.g_idx"].numpy()
    scales = parts[f"{module}.scales"].float().numpy()
    return ((codes - zeros[group].T) * scales[group].T).astype(np.float32)


def owner(parts: dict[str, torch.Tensor], layout: str, group_size: int, symmetric: bool) -> torch.Tensor:
    """The weight as GPTQModel's layer for any device has it, F16 ``[N, K]``."""
    pytest.importorskip("gptqmodel", reason="needs gptqmodel")
    from gptqmodel.nn_modules.qlinear.torch import TorchLinear
    from gptqmodel.utils.model import convert_gptq_v1_to_v2_format_module

    out, columns = parts[f"{NAME}.scales"].shape[1], parts[f"{NAME}.g_idx"].shape[0]
    layer = TorchLinear(
        bits=4, group_size=group_size, sym=symmetric, desc_act=False, in_features=columns, out_features=out,
        bias=False, pack_dtype=torch.int32, register_buffers=True,
    )  # fmt: skip
    own = {name.rpartition(".")[2]: value for name, value in parts.items() if name.startswith(f"{NAME}.")}
    layer.load_state_dict(own, strict=True)
    if layout == "gptq":
        convert_gptq_v1_to_v2_format_module(layer, 4, torch.int32)
    layer.post_init()
    return layer.dequantize_weight().T.contiguous()


def drawn(rows: int = 64, columns: int = 256) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(rows)).bfloat16() + 0.1


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    def call(tensors: dict[str, torch.Tensor], stated: dict[str, Any] | None = None, name: str = "m") -> Path:
        made = tmp_path / name
        made.mkdir()
        save_file(tensors, made / "model.safetensors", {"format": "pt"})
        config = {"model_type": "toy", **({} if stated is None else {"quantization_config": stated})}
        (made / "config.json").write_text(json.dumps(config))
        return made

    return call


def said(**more: Any) -> dict[str, Any]:
    return {"quant_method": "gptq", "bits": 4, "group_size": 64, "sym": False, "desc_act": False, **more}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("size", [32, 64, 128])
def test_what_is_written_decodes_alike(size, symmetric, layout, folder, tmp_path):
    source = folder({f"{NAME}.weight": drawn()})
    flow = tc.open(source) | tc.quantize("int4", group_size=size, symmetric=symmetric)
    flow | tc.write(tmp_path / "q", convention=layout)
    parts = load_file(tmp_path / "q" / "model.safetensors")
    assert {name.rpartition(".")[2] for name in parts} == {"qweight", "qzeros", "scales", "g_idx"}
    tc.open(tmp_path / "q") | tc.dequantize("F32") | tc.write(tmp_path / "d")
    decoded = load_file(tmp_path / "d" / "model.safetensors")[f"{NAME}.weight"]
    np.testing.assert_array_equal(decoded.numpy(), formula(parts, layout))
    assert (decoded - drawn().float()).norm() < 0.15 * drawn().float().norm()
    stated = json.loads((tmp_path / "q" / "config.json").read_text())["quantization_config"]
    assert (stated["quant_method"], stated["checkpoint_format"]) == ("gptq", layout)
    assert (stated["bits"], stated["group_size"], stated["sym"], stated["desc_act"]) == (
        4,
        size,
        symmetric,
        False,
    )
    flow | tc.write(tmp_path / "w", convention=layout, workers=2, memory="2MB")
    again = load_file(tmp_path / "w" / "model.safetensors")
    assert all(torch.equal(again[name], value) for name, value in parts.items())


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("symmetric", [True, False])
def test_the_layer_of_gptqmodel_takes_it(symmetric, layout, folder, tmp_path):
    source = folder({f"{NAME}.weight": drawn()})
    flow = tc.open(source) | tc.quantize("int4", group_size=64, symmetric=symmetric)
    flow | tc.write(tmp_path / "q", convention=layout)
    tc.open(tmp_path / "q") | tc.dequantize("F16") | tc.write(tmp_path / "d")
    ours = load_file(tmp_path / "d" / "model.safetensors")[f"{NAME}.weight"]
    parts = load_file(tmp_path / "q" / "model.safetensors")
    assert torch.equal(owner(parts, layout, 64, symmetric), ours)


def packed(layout: str, order: np.ndarray | None = None, *, symmetric: bool = False, rows: int = 32):
    """Parts of 128 columns in groups of 64, from numbers; and their values."""
    random = np.random.default_rng(5)
    codes, zeros = random.integers(0, 16, (rows, 128)), random.integers(1, 16, (2, rows))
    zeros = np.full_like(zeros, 8) if symmetric else zeros
    scales = torch.from_numpy(random.uniform(0.01, 0.1, (2, rows))).half()
    group = np.arange(128) // 64 if order is None else order
    parts = {
        f"{NAME}.qweight": words(codes).T.contiguous(),
        f"{NAME}.qzeros": words(zeros - (layout == "gptq")),
        f"{NAME}.scales": scales,
        f"{NAME}.g_idx": torch.from_numpy(group.astype(np.int32)),
    }
    values = (codes - zeros[group].T) * scales.float().numpy()[group].T
    return parts, values.astype(np.float32)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", ["whole", "without g_idx", "in order of activations"])
def test_what_others_packed_is_read(kind, layout, folder, tmp_path):
    order = np.random.default_rng(1).permutation(np.arange(128) // 64) if "order" in kind else None
    parts, values = packed(layout, order)
    if kind == "without g_idx":
        parts.pop(f"{NAME}.g_idx")
    source = folder(parts, said(checkpoint_format=layout, desc_act=order is not None))
    tc.open(source) | tc.dequantize("F32") | tc.write(tmp_path / "d", memory="2MB")
    found = load_file(tmp_path / "d" / "model.safetensors")[f"{NAME}.weight"]
    np.testing.assert_array_equal(found.numpy(), values)
    if order is not None:
        with pytest.raises(PlanError, match="in another order than their groups"):
            tc.open(source) | tc.write(tmp_path / "o", convention="compressed_tensors")
        tc.open(source) | tc.quantize("int8") | tc.write(tmp_path / "o", convention="neutral")
        assert f"{NAME}.weight_scale" in load_file(tmp_path / "o" / "model.safetensors")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("symmetric", [True, False])
def test_there_and_back_is_the_same_file(symmetric, layout, folder, tmp_path):
    """By compressed-tensors and by AWQ: the same codes and scales each time."""
    parts, values = packed(layout, symmetric=symmetric)
    source = folder(parts, said(checkpoint_format=layout, sym=symmetric))
    for by in ("compressed_tensors", "awq"):
        tc.open(source) | tc.write(tmp_path / by, convention=by)
        tc.open(tmp_path / by) | tc.dequantize("F32") | tc.write(tmp_path / f"{by}-d")
        found = load_file(tmp_path / f"{by}-d" / "model.safetensors")[f"{NAME}.weight"]
        np.testing.assert_array_equal(found.numpy(), values)
        tc.open(tmp_path / by) | tc.write(tmp_path / f"{by}-b", convention=layout)
        back = load_file(tmp_path / f"{by}-b" / "model.safetensors")
        assert back.keys() == parts.keys()
        assert all(torch.equal(back[name], value) for name, value in parts.items())
    packed_zeros = load_file(tmp_path / "compressed_tensors" / "model.safetensors").keys()
    assert (f"{NAME}.weight_zero_point" in packed_zeros) == (not symmetric)


def test_what_config_says_is_looked_at(folder, tmp_path):
    parts, _ = packed("gptq")
    lying = folder(parts, said(sym=True))
    for stage in (tc.dequantize("F32"), None):
        flow = tc.open(lying) if stage is None else tc.open(lying) | stage
        with pytest.raises(DataError, match="stated to have no zero points"):
            flow | tc.write(tmp_path / "o", convention="compressed_tensors" if stage is None else None)
    unsaid = folder(parts, None, "u")
    with pytest.raises(PlanError, match="gptq or gptq_v2"):
        tc.open(unsaid) | tc.dequantize() | tc.write(tmp_path / "o")
    tc.open(unsaid) | tc.dequantize("F32", convention="gptq_v2") | tc.write(tmp_path / "o")
    short = {name: value for name, value in parts.items() if not name.endswith("g_idx")}
    with pytest.raises(PlanError, match="desc_act true"):
        tc.open(folder(short, said(desc_act=True), "s")) | tc.dequantize() | tc.write(tmp_path / "p")
    uneven = {**parts, f"{NAME}.g_idx": torch.zeros(128, dtype=torch.int32)}
    with pytest.raises(PlanError, match="does not put 128 columns into groups of 64"):
        tc.open(folder(uneven, said(), "g")) | tc.dequantize() | tc.write(tmp_path / "p")
    with pytest.raises(PlanError, match="num_bits 8"):
        tc.open(folder(parts, said(bits=8), "b")) | tc.dequantize() | tc.write(tmp_path / "p")


def test_a_zero_point_of_0_has_no_place_in_the_first_layout(folder, tmp_path):
    source = folder({f"{NAME}.weight": drawn().abs() + 1})
    flow = tc.open(source) | tc.quantize("int4", group_size=32, symmetric=False)
    made = flow.plan(tc.write(tmp_path / "v2", convention="gptq_v2"))
    assert made
    parts, _ = packed("gptq_v2")
    parts[f"{NAME}.qzeros"][0, 0] &= ~0xF0
    second = folder(parts, said(checkpoint_format="gptq_v2"), "z")
    with pytest.raises(DataError, match=r"holds a number of 0.*gptq_v2"):
        tc.open(second) | tc.write(tmp_path / "v1", convention="gptq")


def test_layers_that_stay_are_named_as_readers_ask(llama, tmp_path):
    flow = tc.open(llama()) | tc.quantize(
        "int4", group_size=64, exclude=["layers.1.self_attn.*", "layers.0.*.down_proj"]
    )
    plan = flow.plan(tc.write(tmp_path / "q", convention="gptq"))
    assert any("dynamic" in str(one) for one in plan.log.warnings)
    flow | tc.write(tmp_path / "q", convention="gptq")
    stated = json.loads((tmp_path / "q" / "config.json").read_text())["quantization_config"]["dynamic"]
    attention = [
        f"model.layers.1.self_attn.{one}" for one in ("k_proj", "o_proj", "q_proj", "v_proj", "qkv_proj")
    ]
    dynamic = pytest.importorskip("gptqmodel.quantization.config", reason="needs gptqmodel").dynamic_get
    for module in ("lm_head", "model.layers.0.mlp.down_proj", *attention):
        assert dynamic(stated, module) is False
    for module in (
        "model.layers.0.mlp.up_proj",
        "model.layers.0.self_attn.qkv_proj",
        "model.layers.11.self_attn.q_proj",
    ):
        assert dynamic(stated, module) is None


def test_two_kinds_of_groups_are_refused(llama, tmp_path):
    flow = tc.open(llama()) | tc.quantize(
        "int4", group_size=64, overrides={"layers.1.mlp": "int4:group_size=32"}
    )
    with pytest.raises(PlanError, match="groups of one kind, here are 32 symmetric and 64 symmetric"):
        flow | tc.write(tmp_path / "q", convention="gptq")


@pytest.mark.parametrize(
    ("convention", "symmetric"), [("gptq", True), ("gptq", False), ("gptq_v2", False), ("awq", False)]
)
def test_transformers_computes_with_it_what_it_computes_with_our_values(
    convention, symmetric, llama, tmp_path
):
    pytest.importorskip("gptqmodel", reason="needs gptqmodel")
    pytest.importorskip("optimum.gptq", reason="needs optimum")
    from transformers import AutoModelForCausalLM

    flow = tc.open(llama()) | tc.quantize("int4", group_size=64, symmetric=symmetric)
    flow | tc.write(tmp_path / "q", convention=convention)
    tc.open(tmp_path / "q") | tc.dequantize("F16") | tc.write(tmp_path / "d")
    theirs, loading = AutoModelForCausalLM.from_pretrained(
        tmp_path / "q", dtype=torch.float16, output_loading_info=True
    )
    assert not any(loading.values())
    assert type(theirs.model.layers[0].mlp.up_proj).__name__ != "Linear"
    ours = AutoModelForCausalLM.from_pretrained(tmp_path / "d", dtype=torch.float16)
    found, wanted = (model(torch.arange(12)[None]).logits.float() for model in (theirs, ours))
    assert (found - wanted).abs().max() < 0.003 * wanted.abs().max()
