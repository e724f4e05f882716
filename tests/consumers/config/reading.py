"""Models as transformers loads them, for tests of what it reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

CT = "compressed_tensors"


def config_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return found


def weights(folder: Path, **how: Any) -> dict[str, torch.Tensor]:
    """All weights of a model that transformers loads, without a name missing, unknown or of another shape."""
    from transformers import AutoModelForCausalLM

    model, said = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.bfloat16, output_loading_info=True, **how
    )
    assert not any(said[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return dict(model.state_dict())


def same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert [name for name in found if not torch.equal(found[name], expected[name])] == []
