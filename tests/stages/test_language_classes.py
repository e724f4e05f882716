"""Language models whose names do not change, or are converted by lists: small models of their classes are
recognised, quantized where the published ones are, decoded, loaded strictly, and compute the same.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import transcode as tc
from transcode import catalog

pytest.importorskip("transformers", reason="transformers is not installed")

from .test_language_names import tiny

KINDS = ("mistral", "qwen3_5")
FURTHER = ("glm4v", "glm4v_moe", "llama4_text", "phi")


@pytest.mark.parametrize("kind", [*KINDS, *(pytest.param(kind, marks=pytest.mark.whole) for kind in FURTHER)])
def test_a_small_model_of_its_class(kind: str, tmp_path: Path) -> None:
    model = tiny(kind).float()
    state = {name: one.to(torch.bfloat16).contiguous() for name, one in model.state_dict().items()}
    known = catalog.detect(list(state), {name: tuple(one.shape) for name, one in state.items()})
    assert known is not None
    assert known.name == "decoder_llm"
    save_file(state, tmp_path / "model.safetensors")
    (
        tc.open(tmp_path / "model.safetensors")
        | tc.quantize("int8")
        | tc.write(tmp_path / "q.safetensors", convention="lightx2v")
    )
    stored = load_file(tmp_path / "q.safetensors")
    codes = {name for name, one in stored.items() if one.dtype == torch.int8}
    linears = {f"{name}.weight" for name, one in model.named_modules() if isinstance(one, torch.nn.Linear)}
    assert codes
    stacks = {name for name, one in state.items() if one.dim() == 3}
    assert codes <= linears | stacks
    assert not any(word in name for name in codes for word in ("vision", "visual", "lm_head", "router"))
    tc.open(tmp_path / "q.safetensors") | tc.dequantize("f32") | tc.write(tmp_path / "d.safetensors")
    wanted = {
        name: stored[name].float() * stored[f"{name}_scale"] if name in codes else one.float()
        for name, one in state.items()
    }
    outs = []
    for tensors in (wanted, load_file(tmp_path / "d.safetensors")):
        model.load_state_dict({name: one.float() for name, one in tensors.items()}, strict=True)
        with torch.no_grad():
            outs.append(model(input_ids=torch.tensor([[3, 5, 9]])).logits)
    assert outs[0].isfinite().all()
    assert outs[0].any()
    assert torch.equal(*outs)
