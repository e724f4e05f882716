"""Layers that hqq saved are decoded to what hqq decodes them to, to the bit, whatever it computes in.

``fixtures/hqq`` is by hqq itself, the decoded values too (``tools/make_hqq.py``).
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import transcode as tc
from transcode.errors import DataError, PlanError, RecipeError

FIXTURES = Path(__file__).parents[2] / "fixtures" / "hqq"
STORED, DECODED = (load_file(FIXTURES / f"{name}.safetensors") for name in ("stored", "decoded"))


@pytest.fixture(scope="module")
def values(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    out = tmp_path_factory.mktemp("hqq") / "o.safetensors"
    flow = tc.open(FIXTURES / "stored.safetensors") | tc.dequantize("F32")
    flow | tc.write(out, workers=2)
    return load_file(out)


@pytest.mark.parametrize("name", DECODED)
def test_values_are_those_of_hqq(name: str, values: dict[str, torch.Tensor]) -> None:
    assert torch.equal(values[name], DECODED[name].float())


def test_what_says_how_layers_were_made_goes_with_the_codes(values: dict[str, torch.Tensor]) -> None:
    assert values.keys() == {name.replace("weight", end) for name in DECODED for end in ("weight", "bias")}


def changed(folder: Path, **parts: torch.Tensor | None) -> Path:
    """One layer with some parts replaced, or left out."""
    layer = {name: one for name, one in STORED.items() if name.startswith("blocks.rows4.")}
    layer |= {f"blocks.rows4.{role}": one for role, one in parts.items() if one is not None}
    kept = {name: one for name, one in layer.items() if parts.get(name.rpartition(".")[2], one) is not None}
    save_file(kept, folder / "s.safetensors")
    return folder / "s.safetensors"


def text(words: str) -> torch.Tensor:
    return torch.tensor(list(words.encode()), dtype=torch.uint8)


def test_steps_are_rounded_to_what_torch_computes_two_floats_in(tmp_path: Path) -> None:
    """Codes become F16; the difference to a zero point in BF16, and the product with it, are F32."""
    source = changed(tmp_path, compute_dtype=text("torch.float16"))
    tc.open(source) | tc.dequantize("F32") | tc.write(tmp_path / "d.safetensors")
    packed = STORED["blocks.rows4.W_q"]
    codes = torch.cat([packed >> 4, packed & 15]).half()
    wanted = (codes - STORED["blocks.rows4.zero"]) * STORED["blocks.rows4.scale"]
    assert wanted.dtype == torch.float32
    found = load_file(tmp_path / "d.safetensors")["blocks.rows4.weight"]
    assert torch.equal(found.reshape(-1), wanted.reshape(-1))


@pytest.mark.parametrize(
    ("parts", "error", "words"),
    [
        ({"compute_dtype": text("torch.int8")}, DataError, "computes in 'torch.int8'"),
        ({"shape": torch.tensor([48, 79])}, PlanError, "hqq stores no scheme so"),
        ({"shape": None}, PlanError, "hqq stores no scheme so"),
        ({"scale": None, "scale_q": torch.zeros(60, 1, dtype=torch.uint8)}, PlanError, "is quantized as HQQ"),
        ({"lora": torch.ones(3)}, PlanError, "lora' stands beside it"),
    ],
)
def test_what_is_not_certain_is_refused(
    parts: dict[str, torch.Tensor | None], error: type[Exception], words: str, tmp_path: Path
) -> None:
    source = changed(tmp_path, **parts)
    with pytest.raises(error, match=words):
        tc.open(source) | tc.dequantize("F32") | tc.write(tmp_path / "d.safetensors")


UNPACKED = {
    8: lambda packed: packed,
    4: lambda packed: torch.cat([packed >> 4, packed & 15]),
    3: lambda packed: torch.cat([packed >> 27 - 3 * place & 7 for place in range(10)]),
    2: lambda packed: torch.cat([packed >> 6 - 2 * place & 3 for place in range(4)]),
    1: lambda packed: torch.cat([packed >> 7 - place & 1 for place in range(8)]),
}
"""``unpack_*`` of ``hqq/core/bitpack.py``, by bits."""


@pytest.mark.parametrize(
    ("kind", "bits", "group", "dtype"),
    [
        ("rows8", 8, 64, torch.float32), ("rows4", 4, 64, torch.bfloat16), ("rows3", 3, 32, torch.float16),
        ("rows2", 2, 16, torch.float16), ("rows1", 1, 8, torch.bfloat16),
    ],
)  # fmt: skip
def test_a_layer_that_is_written_stands_as_hqq_saves_it(
    kind: str, bits: int, group: int, dtype: torch.dtype, tmp_path: Path
) -> None:
    """All that stands beside a layer is what hqq itself saved of one of that kind; codes say the values."""
    torch.manual_seed(1)
    weight = torch.randn(48, 128, dtype=torch.float64).to(dtype)
    save_file({f"blocks.{kind}.weight": weight}, tmp_path / "s.safetensors")
    kept = "F16" if dtype is torch.float16 else "source"
    flow = tc.open(tmp_path / "s.safetensors") | tc.quantize(
        "hqq", bits=bits, group_size=group, scale_dtype=kept
    )
    flow | tc.write(tmp_path / "o.safetensors", convention="hqq")
    made = {name.rpartition(".")[2]: one for name, one in load_file(tmp_path / "o.safetensors").items()}
    theirs = {
        name.rpartition(".")[2]: one for name, one in STORED.items() if name.startswith(f"blocks.{kind}.")
    }
    del theirs["bias"]
    assert made.keys() == theirs.keys()
    for name, one in theirs.items():
        assert made[name].dtype == one.dtype
        if name not in ("W_q", "scale", "zero", "shape", "compute_dtype", "round_zero"):
            assert torch.equal(made[name], one), name
    assert made["shape"].tolist() == [48, 128]
    assert bytes(made["compute_dtype"]).decode().strip() == str(dtype)
    codes = UNPACKED[bits](made["W_q"])[: 48 * 128 // group]
    values = ((codes.to(dtype) - made["zero"]) * made["scale"]).reshape(48, 128)
    tc.open(tmp_path / "o.safetensors") | tc.dequantize("F32") | tc.write(tmp_path / "d.safetensors")
    assert torch.equal(load_file(tmp_path / "d.safetensors")[f"blocks.{kind}.weight"], values.float())
    gap, span = (values.double() - weight).norm(), weight.double().reshape(-1, group)
    steps = (span.amax(1) - span.amin(1)) / (2**bits - 1)
    assert gap < 1.05 * (group * steps.square() / 12).sum().sqrt()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_groups_far_from_zero_are_not_lost(dtype: torch.dtype, tmp_path: Path) -> None:
    """Their zero point is so large that rounding it moves all values by steps, or by all of the range."""
    torch.manual_seed(2)
    weight = torch.stack([1000 + torch.randn(64) * size for size in (0, 1e-4, 1, 30, 200)]).to(dtype)
    save_file({"a.weight": weight.repeat(8, 1)}, tmp_path / "s.safetensors")
    (
        tc.open(tmp_path / "s.safetensors")
        | tc.quantize("hqq")
        | tc.write(tmp_path / "o.safetensors", convention="hqq")
    )
    tc.open(tmp_path / "o.safetensors") | tc.dequantize("F32") | tc.write(tmp_path / "d.safetensors")
    values = load_file(tmp_path / "d.safetensors")["a.weight"][:5]
    step = (weight.float().amax(1) - weight.float().amin(1)) / 15
    coarse = weight.float().abs().amax(1) * torch.finfo(dtype).eps
    assert ((values - weight.float()).abs().amax(1) <= 1.5 * step + coarse).all()


def test_config_says_what_transformers_reads(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    save_file(
        {"a.q.weight": torch.ones(8, 64), "b.weight": torch.ones(8, 8)}, tmp_path / "s" / "m.safetensors"
    )
    (tmp_path / "s" / "config.json").write_text('{"model_type": "toy"}')
    flow = tc.open(tmp_path / "s") | tc.quantize("hqq", include=["a.*"])
    flow | tc.write(tmp_path / "o", convention="hqq")
    said = json.loads((tmp_path / "o" / "config.json").read_text())["quantization_config"]
    assert said["quant_method"] == "hqq"
    assert "b" in said["skip_modules"]
    assert said["quant_config"]["weight_quant_params"]["nbits"] == 4
    assert said["quant_config"]["weight_quant_params"]["group_size"] == 64


def test_what_cannot_be_packed_is_refused(tmp_path: Path) -> None:
    save_file({"a.weight": torch.ones(3, 64)}, tmp_path / "s.safetensors")
    flow = tc.open(tmp_path / "s.safetensors") | tc.quantize("hqq", include=["a.weight"])
    with pytest.raises(PlanError, match="3 groups are not a multiple of 2"):
        flow | tc.write(tmp_path / "o.safetensors", convention="hqq")
    with pytest.raises(RecipeError, match="hqq_columns is decoded, not encoded"):
        tc.open(tmp_path / "s.safetensors") | tc.quantize("hqq_columns")
    flow = tc.open(FIXTURES / "decoded.safetensors") | tc.quantize("int8")
    with pytest.raises(RecipeError, match="has no spelling for scheme 'int8'"):
        flow | tc.write(tmp_path / "o.safetensors", convention="hqq")
