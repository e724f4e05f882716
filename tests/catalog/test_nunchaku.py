"""The maps of nunchaku's modules, and how their mistakes are told."""

from __future__ import annotations

from pathlib import Path

import pytest

from transcode.catalog.nunchaku import modules, modules_for
from transcode.errors import RecipeError

LAYER = "model: toy\ntitle: t\nblocks:\n  b:\n    qkv: "


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TRANSCODE_FORMATS", str(tmp_path))
    (tmp_path / "nunchaku").mkdir()

    def make(text: str, name: str = "toy") -> str:
        (tmp_path / "nunchaku" / f"{name}.yaml").write_text(text)
        return name

    return make


def test_flux_is_the_published_map() -> None:
    found = modules("flux")
    assert list(found.blocks) == ["transformer_blocks", "single_transformer_blocks"]
    double, single = ({layer.name: layer for layer in layers} for layers in found.blocks.values())
    assert (len(double), len(single)) == (14, 7)
    assert double["qkv_proj_context"].of == ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj")
    assert double["qkv_proj_context"].smooth == double["qkv_proj_context"].branch == "attn.add_k_proj"
    assert (double["out_proj_context"].smooth, double["out_proj_context"].branch) == (
        "attn.to_out.0",
        "attn.to_add_out",
    )
    assert (single["mlp_fc1"].smooth, single["mlp_fc1"].branch) == ("attn.to_q", "proj_mlp")
    fusing = {layer.name for layers in found.blocks.values() for layer in layers if layer.fuses_smooth}
    assert fusing == {"out_proj", "out_proj_context"}
    assert [layer.splits for layer in (double["norm1.linear"], single["norm.linear"])] == [6, 3]


@pytest.mark.parametrize("name", ["flux", "flux.1-dev", "FLUX.1-Canny-dev", "my-flux"])
def test_model_by_name(name: str) -> None:
    assert modules_for(name).model == "flux"


def test_the_longest_name_wins(write) -> None:
    write(LAYER.replace("toy", "flux.1-toy") + "{kind: copy, of: [a]}\n", "flux.1-toy")
    assert modules_for("flux.1-toy-dev").model == "flux.1-toy"
    assert modules_for("flux.1-dev").model == "flux"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{kind: linear, of: []}", "names no module"),
        ("{kind: matrix, of: [a]}", "'matrix' is not allowed"),
        ("{kind: linear, of: [a], splits: 3}", "splits belong to an adanorm"),
        ("{kind: adanorm, of: [a]}", "splits belong to an adanorm"),
        ("{kind: adanorm, of: [a], splits: 1}", "at least 2"),
        ("{kind: linear, of: [a, b], wrapped: true}", "joined modules cannot be wrapped"),
        ("{kind: linear, of: [a], smoth: a}", "unknown key 'smoth'"),
    ],
)
def test_mistakes(write, text: str, told: str) -> None:
    with pytest.raises(RecipeError, match=told) as caught:
        modules(write(LAYER + text))
    assert "toy.yaml:" in str(caught.value)


def test_file_and_model_agree(write) -> None:
    with pytest.raises(RecipeError, match="is not the name of the file"):
        modules(write(LAYER + "{kind: copy, of: [a]}", "other"))
