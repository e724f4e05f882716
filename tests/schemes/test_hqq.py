"""Layers that hqq saved are decoded to what hqq decodes them to, to the bit, whatever it computes in.

``fixtures/hqq`` is by hqq itself, the decoded values too (``tools/make_hqq.py``).
"""

from __future__ import annotations

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


def test_it_is_not_encoded(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="hqq is decoded, not encoded"):
        tc.open(FIXTURES / "decoded.safetensors") | tc.quantize("hqq")
    flow = tc.open(FIXTURES / "decoded.safetensors") | tc.quantize("int8")
    with pytest.raises(RecipeError, match="has no spelling for scheme 'int8'"):
        flow | tc.write(tmp_path / "o.safetensors", convention="hqq")
