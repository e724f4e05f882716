"""``recipe show`` and what it refuses; that it means the same is proven in tests/test_recipe.py."""

from __future__ import annotations

import pytest
import torch
import yaml


def test_of_a_command_line(cli, wan):
    shown = yaml.safe_load(cli("recipe", "show", "transcode", "run", wan, "out", "-s", "int8", "--force").out)
    assert shown["steps"] == [{"quantize": {"scheme": "int8"}}]
    assert shown["output"] == {"path": "out", "force": True}


@pytest.mark.parametrize("suffix", ["yaml", "yml"])
def test_of_a_file_in_full(cli, tmp_path, suffix):
    file = tmp_path / f"r.{suffix}"
    file.write_text(
        "source: {type: wan_dit, path: x}\nquantization: {method: int8, options: {per_channel: true}}\n"
    )
    shown = yaml.safe_load(cli("recipe", "show", file).out)
    assert shown["steps"] == [
        {"quantize": {"scheme": "int8", "options": {"granularity": "channel"}, "model": "wan_dit"}}
    ]


def test_refusals(refused, save, tmp_path):
    assert "no record" in refused("recipe", "show", save({"a": torch.ones(1)}))
    bad = save({"a": torch.ones(1)}, "b.safetensors", {"transcode": "{"})
    assert "is not valid JSON" in refused("recipe", "show", bad)
    odd = save({"a": torch.ones(1)}, "c.safetensors", {"transcode": "[]"})
    assert "is a JSON array, not an object" in refused("recipe", "show", odd)
    for text in ("{}", '{"recipe": 1}', '{"recipe": {"steps": {}}}'):
        odd = save({"a": torch.ones(1)}, "c.safetensors", {"transcode": text})
        assert "tells no recipe" in refused("recipe", "show", odd)
    assert "no such file" in refused("recipe", "show", tmp_path / "none.safetensors")
    assert "none.yaml" in refused("recipe", "show", tmp_path / "none.yaml")
    assert "int9" in refused("recipe", "show", "run", "a", "b", "--scheme", "int9")
    refused("recipe", "show", "run", "a")
    refused("recipe", "show", "a", "b")
