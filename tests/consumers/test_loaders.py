"""Every output for vLLM and transformers, as their loaders read it, computes what the model computes; or it is refused.

transformers loads compressed-tensors and fp8 itself, on a CPU. ModelOpt's tensors are decoded by the formulas of
vLLM's loader (``vllm/model_executor/layers/quantization/modelopt.py``), and :func:`read_by_vllm` repeats what vLLM
checks before it runs: that joined layers are quantized alike, and their shapes.
"""

# ruff: noqa: E501  tables of cases read better in long lines

from __future__ import annotations

import json
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import transcode as tc

transformers = pytest.importorskip("transformers")
pytest.importorskip(
    "compressed_tensors", reason="needs compressed-tensors, which is a development dependency"
)

NAMES = ["llama", "llama odd", "qwen2", "qwen2 moe", "mixtral"]
MOE = ("qwen2 moe", "mixtral")

G32: dict[str, Any] = {"group_size": 32}
CASES: list[tuple[str, str, dict[str, Any]]] = [
    ("compressed_tensors", "int8", {}), ("compressed_tensors", "int8", {"granularity": "tensor"}),
    ("compressed_tensors", "int8", {"granularity": "group", **G32}), ("compressed_tensors", "int8", {"symmetric": False}),
    ("compressed_tensors", "int4", {}), ("compressed_tensors", "int4", G32),
    ("compressed_tensors", "int4", {**G32, "symmetric": False}),
    ("compressed_tensors", "fp8", {}), ("compressed_tensors", "fp8", {"granularity": "tensor"}),
    ("compressed_tensors", "fp8", {"granularity": "block"}),
    ("compressed_tensors", "mxfp8", {}), ("compressed_tensors", "mxfp4", {}), ("compressed_tensors", "nvfp4", {}),
    ("deepseek", "fp8", {}),
    ("modelopt", "fp8", {}), ("modelopt", "mxfp8", {}), ("modelopt", "nvfp4", {}),
]  # fmt: skip

IDS = torch.randint(0, 64, (2, 24), generator=torch.Generator().manual_seed(3))
STEPS = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])


def log_probabilities(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(IDS).logits.float().log_softmax(-1).flatten()
    return found


def loaded(folder: Path, **how: Any) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(folder, **how)


@lru_cache(maxsize=8)
def expected(folder: Path) -> torch.Tensor:
    return log_probabilities(loaded(folder, dtype=torch.float32))


def correlation(found: torch.Tensor, folder: Path) -> float:
    return float(torch.corrcoef(torch.stack([found, expected(folder)]))[0, 1])


def bound(source: Path, decoded: dict[str, torch.Tensor], *, inputs: float = 0) -> float:
    """What a format may cost at most, from the share of noise that it puts into the weights and the inputs.

    The noise of the weights is measured; what reaches the log-probabilities of these models is 3 to 30 times as
    much, most where experts are chosen. Codes taken for others leave less than the smallest bound, a half.
    """
    original = load_file(source / "model.safetensors")
    noise = [
        float((decoded[name].float() - value.float()).pow(2).sum() / value.float().pow(2).sum())
        for name, value in original.items()
        if name in decoded
    ]
    return max(0.5, 0.998 - 32 * (max(noise, default=0.0) + inputs))


def convert(source: Path, out: Path, name: str, convention: str, scheme: str, options: dict[str, Any]) -> Any:
    """The plan of what was written; None if it was refused, or nothing could be quantized."""
    exclude = ["block_sparse_moe.gate"] if name == "mixtral" else []
    flow = tc.open(source) | tc.quantize(scheme, exclude=exclude, **options)
    try:
        plan = flow.plan(tc.write(out, convention=convention))
    except tc.TranscodeError:
        assert not out.exists()
        return None
    flow | tc.write(out, convention=convention)
    return plan if "quantization_config" in json.loads((out / "config.json").read_text()) else None


def decode(folder: Path, convention: str) -> dict[str, torch.Tensor]:
    """Weights in float32, by the formulas of the loaders: vLLM's modelopt.py for ``modelopt``, README_WEIGHTS.md of
    DeepSeek-V3 for ``deepseek``, compressors/*/base.py of compressed-tensors for the other.
    """
    stored = load_file(folder / "model.safetensors")
    made = {}
    for name, value in stored.items():
        stem = name.removesuffix("_packed")
        scale = stored.get(f"{stem}_scale", stored.get(f"{stem}_scale_inv"))
        if scale is None or not stem.endswith(".weight"):
            continue
        if value.dtype is torch.int32:
            nibbles = torch.stack([(value >> (4 * i)) & 15 for i in range(8)], -1).flatten(-2).float()
            zero = stored.get(f"{stem}_zero_point")
            if zero is not None:
                zero = torch.stack([(zero >> (4 * i)) & 15 for i in range(8)], 1).flatten(0, 1)[: len(scale)]
            wide = spread(scale.float(), nibbles.shape)
            made[stem] = (nibbles - (8 if zero is None else spread(zero.float(), nibbles.shape))) * wide
            continue
        if value.dtype is torch.uint8:
            codes = STEPS[torch.stack([value & 15, value >> 4], -1).flatten(-2).long()]
        else:
            codes = value.float()
        if scale.dtype is torch.uint8:
            scale = torch.exp2(scale.float() - 127)
        if f"{stem}_scale_2" in stored:
            scale = scale.float() * stored[f"{stem}_scale_2"]
        if f"{stem}_global_scale" in stored:
            scale = scale.float() / stored[f"{stem}_global_scale"]
        if f"{stem}_zero_point" in stored:
            codes = codes - spread(stored[f"{stem}_zero_point"].float(), codes.shape)
        made[stem] = codes * spread(scale.float(), codes.shape)
    return made


def spread(scale: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """Scales for each element: of the tensor, of rows, of groups of columns, or of blocks of 128x128."""
    rows, columns = shape
    if scale.numel() == 1:
        return scale.reshape(1, 1)
    if scale.dim() == 1:
        return scale[:, None]
    if len(scale) == rows:
        return scale.repeat_interleave(columns // scale.shape[1], 1)
    assert scale.shape == (-(-rows // 128), -(-columns // 128))
    return scale.repeat_interleave(128, 0)[:rows].repeat_interleave(128, 1)[:, :columns]


GROUPS = [("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"), ("w1", "w3")]


def read_by_vllm(folder: Path, *, blocks: bool) -> None:
    """What vLLM checks: ``is_layer_skipped`` and ``should_ignore_layer`` of what it joins, ``get_moe_method`` of
    experts, ``validate_fp8_block_shape``, ``validate_fp8_block_shape_moe``, and ``create_weights`` of each scheme.
    """
    stored = load_file(folder / "model.safetensors")
    stated = json.loads((folder / "config.json").read_text())["quantization_config"]
    kept = set(stated.get("ignore", stated.get("modules_to_not_convert")))
    modules = {
        re.sub(r"\.weight(_packed)?$", "", n)
        for n, v in stored.items()
        if re.search(r"\.weight(_packed)?$", n) and v.dim() > 1
    }
    coded = {m for m in modules if any(f"{m}.weight_scale{end}" in stored for end in ("", "_inv"))}
    assert not coded & kept
    routers = {m for m in modules if m.endswith((".gate", ".shared_expert_gate"))}
    assert {m for m in modules if "layers" in m} - coded - routers <= kept
    for module in coded:
        prefix, _, leaf = module.rpartition(".")
        weight = stored.get(f"{module}.weight", stored.get(f"{module}.weight_packed"))
        group = next((g for g in GROUPS if leaf in g), (leaf,))
        expert = re.match(r"(.*\.experts)\.\d+$", prefix)
        mates = [f"{prefix}.{one}" for one in group]
        assert coded.issuperset(mates)
        if expert:
            assert all(m in coded for m in modules if m.startswith(f"{expert[1]}."))
        if blocks and (leaf != group[-1] or expert):
            assert len(weight) % 128 == 0 or (expert and leaf in ("down_proj", "w2"))
        if blocks:
            assert weight.shape[1] % 128 == 0
        for part in ("global_scale", "scale_2"):
            if (one := f"{module}.weight_{part}") in stored:
                assert all(stored[f"{mate}.weight_{part}"] == stored[one] for mate in mates)


@pytest.mark.parametrize("name", NAMES)
def test_noise_fails(name, model_of):
    """The models depend on what is tested: with shuffled weights nothing is left of them."""
    model = loaded(model_of(name), dtype=torch.float32)
    draw = torch.Generator().manual_seed(5)
    for weight_name, value in model.named_parameters():
        if "layers" in weight_name and value.dim() > 1:
            value.data = value.flatten()[torch.randperm(value.numel(), generator=draw)].reshape(value.shape)
    assert correlation(log_probabilities(model), model_of(name)) < 0.4


@pytest.mark.parametrize(("convention", "scheme", "options"), CASES, ids=lambda v: str(v))
@pytest.mark.parametrize("name", NAMES)
def test_it_computes_what_the_model_computes_or_is_refused(
    name, convention, scheme, options, model_of, tmp_path
):
    source, out = model_of(name), tmp_path / "q"
    plan = convert(source, out, name, convention, scheme, options)
    if plan is None:
        # Only where groups or blocks fit nothing: hidden_size 144, and heads of 48 rows.
        whole = {"fp8": 128, "mxfp8": 32, "mxfp4": 32, "int4": options.get("group_size", 128), "int8": 32}
        assert name in ("llama odd", "qwen2")
        assert any(n % whole[scheme] for n in (144, 208)) or convention == "deepseek"
        return
    decoded = decode(out, convention)
    assert decoded
    if not any("not by vLLM" in text for text in map(str, plan.log.warnings)):
        read_by_vllm(out, blocks=convention == "deepseek" or options.get("granularity") == "block")
    inputs = {"fp8": 0.0015, "int8": 0.0005}.get(scheme, 0) if convention == "compressed_tensors" else 0
    least = bound(source, decoded, inputs=inputs)
    said = [text for text in map(str, plan.log.warnings) if re.search(r"experts .* by vLLM, not by", text)]
    assert not said or name in MOE
    found = []
    if convention == "modelopt" or said:
        model = loaded(source, dtype=torch.float32)
        found.append(log_probabilities(with_weights(model, decoded)))
    elif convention == "deepseek":
        found.append(log_probabilities(loaded(out)))  # without a GPU transformers decodes it
    else:
        how = transformers.CompressedTensorsConfig(dequantize=True)
        found.append(log_probabilities(loaded(out, quantization_config=how)))
        if scheme == "int4" and options.get("symmetric") is False:
            assert any(
                "transformers with CompressedTensorsConfig(dequantize=True)" in w
                for w in map(str, plan.log.warnings)
            )
        else:
            found.append(log_probabilities(loaded(out)))
    for one in found:
        assert correlation(one, source) > least


def with_weights(model: Any, decoded: dict[str, torch.Tensor]) -> Any:
    """The model with other weights. Experts are held as transformers merges them: gate over up, then stacked."""
    held = dict(model.named_parameters())
    for name, value in decoded.items():
        if name in held:
            held[name].data = value
    pattern = re.compile(
        r"^(model\.layers\.\d+)\.\w+\.experts\.(\d+)\.(gate_proj|up_proj|down_proj|w[123])\.weight$"
    )
    for name, value in decoded.items():
        if (match := pattern.match(name)) is None:
            assert name in held
            continue
        layer, expert, leaf = match.groups()
        target = held[f"{layer}.mlp.experts.{'down_proj' if leaf in ('down_proj', 'w2') else 'gate_up_proj'}"]
        half = target.shape[1] // 2
        rows = {
            "gate_proj": slice(half),
            "w1": slice(half),
            "up_proj": slice(half, None),
            "w3": slice(half, None),
        }
        target.data[int(expert)][rows.get(leaf, slice(None))] = value
    return model
