"""Made checkpoints have the published names and shapes, load elsewhere, and come out the same every time."""

from __future__ import annotations

import json
from math import prod
from pathlib import Path

import make_checkpoint
import numpy as np
import pytest
import safetensors
import torch
from safetensors.torch import load_file

from transcode.core.dtypes import DTYPES

FIXTURE = Path(__file__).parent.parent.parent / "fixtures" / "wan_tiny"
TINY = ["--blocks", "2", "--dim", "64", "--ffn", "176", "--text-dim", "64", "--image-dim", "32"]


def test_full_size_is_that_of_the_published_model():
    shapes = make_checkpoint.wan(task="t2v")
    # total_size and number of tensors in the published F32 index of Wan2.1-T2V-14B
    assert 4 * sum(prod(shape) for shape in shapes.values()) == 57_153_966_336
    assert len(shapes) == 1095
    # each block: k_img, v_img, their biases, norm_k_img; the image embedding: two norms and two linears
    assert len(make_checkpoint.wan(task="i2v")) == 1095 + 40 * 5 + 8


def test_shapes():
    shapes = make_checkpoint.wan(blocks=2)
    assert shapes["patch_embedding.weight"] == (5120, 36, 1, 2, 2)
    assert shapes["blocks.1.ffn.0.weight"] == (13824, 5120)
    assert shapes["blocks.1.cross_attn.norm_k_img.weight"] == (5120,)
    assert shapes["blocks.0.modulation"] == (1, 6, 5120)
    assert shapes["time_projection.1.weight"] == (30720, 5120)
    assert shapes["head.head.weight"] == (64, 5120)
    assert not any("img" in name for name in make_checkpoint.wan(task="t2v"))


def test_the_fixture_is_what_the_tool_makes(tmp_path):
    assert make_checkpoint.main([str(tmp_path / "made"), *TINY, "--max-shard-size", "250KB"]) == 0
    made = {path.name: path.read_bytes() for path in (tmp_path / "made").iterdir()}
    assert len(made) == 4
    assert made == {path.name: path.read_bytes() for path in FIXTURE.iterdir()}


def test_shards_and_index_agree(tmp_path):
    make_checkpoint.main([str(tmp_path / "made"), *TINY, "--max-shard-size", "60KB"])
    index = json.loads((tmp_path / "made" / "diffusion_pytorch_model.safetensors.index.json").read_text())
    shapes = make_checkpoint.wan(2, 64, 176, text_dim=64, image_dim=32)
    assert set(index["weight_map"]) == set(shapes)
    found = {}
    for file in sorted((tmp_path / "made").glob("*.safetensors")):
        tensors = load_file(file)
        assert {index["weight_map"][name] for name in tensors} == {file.name}
        assert sum(t.nbytes for t in tensors.values()) <= 60_000 or len(tensors) == 1
        found.update(tensors)
    assert {name: tuple(t.shape) for name, t in found.items()} == shapes
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in found.values())
    assert all(t.isfinite().all() for t in found.values())
    datas = [t.view(torch.uint8).numpy().tobytes() for t in found.values()]
    assert len(set(datas)) == len(datas)


@pytest.mark.parametrize("name", ["F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"])
def test_dtypes_hold_the_same_values(tmp_path, name):
    files = {}
    for kind in ("F64", name):
        files[kind] = tmp_path / f"{kind}.safetensors"
        make_checkpoint.main([str(files[kind]), *TINY, "--dtype", kind, "--force"])
    wide, narrow = load_file(files["F64"]), load_file(files[name])
    step = {"F64": 0, "F32": 0, "F16": 2**-11, "BF16": 2**-7, "F8_E4M3": 2**-4, "F8_E5M2": 2**-3}[name]
    least = {"F16": 2**-25, "F8_E4M3": 2**-10, "F8_E5M2": 2**-17}.get(name, 0)
    for key, exact in wide.items():
        assert str(narrow[key].dtype).removeprefix("torch.") == (
            DTYPES[name].ml_dtype or DTYPES[name].carrier
        )
        assert bool(((narrow[key].double() - exact).abs() <= exact.abs() * step + least).all()), key


def test_threads_tiles_and_alignment_change_no_value(tmp_path, monkeypatch):
    one, two, page = (tmp_path / f"{name}.safetensors" for name in ("one", "two", "page"))
    make_checkpoint.main([str(one), *TINY, "--threads", "1"])
    monkeypatch.setattr(make_checkpoint, "_TILE", 1000)
    make_checkpoint.main([str(two), *TINY, "--threads", "3"])
    assert one.read_bytes() == two.read_bytes()
    make_checkpoint.main([str(page), *TINY, "--align", "4096"])
    length = int.from_bytes(page.read_bytes()[:8], "little")
    assert (8 + length) % 4096 == 0
    assert (
        one.read_bytes()[8 + int.from_bytes(one.read_bytes()[:8], "little") :]
        == page.read_bytes()[8 + length :]
    )


def test_seed(tmp_path):
    for seed in ("0", "1"):
        make_checkpoint.main([str(tmp_path / f"{seed}.safetensors"), *TINY, "--seed", seed])
    a, b = (load_file(tmp_path / f"{seed}.safetensors") for seed in ("0", "1"))
    assert all(not torch.equal(a[name], b[name]) for name in a)


def test_values_look_trained():
    values = make_checkpoint.values("blocks.0.ffn.0.weight", (2048, 1024))
    rows = np.empty((2048, 1024), np.float32)
    values.fill(0, rows, make_checkpoint._pool(0))
    spread = rows.std()
    assert 10 < np.abs(rows).max() / spread < 300  # outliers
    by_row, by_column = np.abs(rows).max(1), rows.std(0)
    assert by_row.max() > 4 * np.median(by_row)
    assert by_column.max() > 2.5 * np.median(by_column)
    assert abs(rows.mean()) < spread / 100
    assert len(np.unique(rows[:, 0])) > 2000


def test_giant(tmp_path):
    make_checkpoint.main([str(tmp_path / "giant.safetensors"), "--giant", "3MiB"])
    with safetensors.safe_open(tmp_path / "giant.safetensors", "pt") as file:
        assert list(file.keys()) == ["giant.weight"]
        tensor = file.get_tensor("giant.weight")
        assert tensor.shape == (96, 16384)
        assert len({row.numpy().tobytes() for row in tensor.view(torch.int16)}) == 96


def test_what_is_there_stays(tmp_path, capsys):
    path = tmp_path / "there.safetensors"
    path.write_text("mine")
    assert make_checkpoint.main([str(path), *TINY]) == 2
    assert path.read_text() == "mine"
    assert "--force" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [["--dtype", "I8"], ["--dtype", "e8m0"], ["--giant", "8 apples"], ["--align", "5"]]
)
def test_bad_arguments(tmp_path, arguments):
    with pytest.raises(SystemExit):
        make_checkpoint.main([str(tmp_path / "x.safetensors"), *arguments])
    assert list(tmp_path.iterdir()) == []
