"""Edited files load in the libraries that people use them with, and give the same weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from transcode.containers.edit import edit
from transcode.io import insert_range


@pytest.mark.parametrize("way", ["overwrite", "insert", "copy"])
@pytest.mark.parametrize("library", ["transformers", "diffusers"])
def test_a_saved_model_loads_after_edits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str, way: str
) -> None:
    module = pytest.importorskip(library)
    model = small(library, module)
    model.save_pretrained(tmp_path)
    (file,) = tmp_path.glob("*.safetensors")
    if way == "insert" and not insert_range.can_insert(str(tmp_path)):
        pytest.skip("this file system cannot insert ranges")
    if way == "copy":
        monkeypatch.setattr(insert_range, "can_insert", lambda folder: False)
    edit.edit(file, lambda m: {**m, "k": "v" * 9000})
    if way == "overwrite":
        done = edit.edit(file, lambda m: {**m, "k": "w"})
        assert done.way == "overwrite"
    else:
        done = edit.edit(file, lambda m: {**m, "k": "v" * 50_000})
        assert done.way == way
    loaded = type(model).from_pretrained(tmp_path)
    before, after = model.state_dict(), loaded.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def small(library: str, module: Any) -> Any:
    torch.manual_seed(0)
    if library == "transformers":
        config = module.BertConfig(
            vocab_size=64, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
        )
        return module.BertModel(config)
    return module.FluxTransformer2DModel(
        num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2, in_channels=4,
        joint_attention_dim=32, pooled_projection_dim=32, axes_dims_rope=(4, 4, 8),
    )  # fmt: skip
