"""Outputs that are compared with their sources: what is right is, and one bit of difference is found."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import transcode as tc
from transcode.errors import RecipeError


@pytest.fixture
def source(tmp_path: Path) -> Path:
    draw = torch.Generator().manual_seed(0)
    tensors = {
        f"blocks.{block}.{name}.weight": torch.randn(shape, generator=draw).bfloat16()
        for block in range(2)
        for name, shape in {"ffn.0": (64, 256), "attn.q": (32, 256)}.items()
    }
    tensors |= {"head.bias": torch.randn(1000, generator=draw), "none": torch.zeros(0, 5)}
    path = tmp_path / "src" / "model.safetensors"
    path.parent.mkdir()
    save_file(tensors, path)
    return path


def weights(place: Path) -> list[Path]:
    return [place] if place.is_file() else sorted(place.glob("*.safetensors"))


def spans(path: Path) -> dict[str, tuple[int, int, int]]:
    """Where each tensor lies in a file, and the bytes of a row; read without the code under test."""
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    table = json.loads(raw[8 : 8 + length])
    table.pop("__metadata__", None)
    found = {}
    for name, facts in table.items():
        begin, end = (8 + length + at for at in facts["data_offsets"])
        found[name] = begin, end, (end - begin) // max(facts["shape"][0] if facts["shape"] else 1, 1)
    return found


FLOWS = {
    "int8": ([tc.quantize("int8", include=["blocks.*"])], "o.safetensors", {"convention": "neutral"}),
    "nvfp4": ([tc.quantize("nvfp4", include=["blocks.*"])], "o.safetensors", {"convention": "comfyui"}),
    "mxfp8, chunks": ([tc.quantize("mxfp8", include=["blocks.*"])], "out", {"max_tensors": 3}),
    "cast": ([tc.cast("f16")], "o.safetensors", {}),
    "names": ([tc.rename([("blocks", "layers")]), tc.drop("none")], "o.safetensors", {}),
    "moved": ([], "out", {}),
}


@pytest.mark.parametrize("kind", FLOWS)
def test_one_bit_of_any_tensor_is_found(kind, source, tmp_path):
    stages, name, options = FLOWS[kind]
    flow = tc.open(source)
    for stage in stages:
        flow = flow | stage
    out = tmp_path / name
    flow | tc.write(out, **options)
    right = tc.verify(out, source)
    assert right.right
    number = sum(len(spans(file)) for file in weights(out))
    assert right.tensors == (number, number)
    assert right.bytes_compared == sum(
        end - at for file in weights(out) for at, end, _ in spans(file).values()
    )
    dice = random.Random(kind)
    for file in weights(out):
        raw = file.read_bytes()
        for tensor, (begin, end, row) in spans(file).items():
            if begin == end:
                continue
            at = dice.randrange(begin, end)
            damaged = bytearray(raw)
            damaged[at] ^= 1 << dice.randrange(8)
            file.write_bytes(damaged)
            found = tc.verify(out, source)
            assert [(one.name, one.row) for one in found.differences] == [
                (tensor, (at - begin) // max(row, 1))
            ]
            file.write_bytes(raw)


def test_tensors_that_lack_are_too_many_or_of_another_kind(source, tmp_path, cli):
    out = tmp_path / "o.safetensors"
    tc.open(source) | tc.write(out)
    tensors = load_file(out)
    tensors["more"] = torch.ones(3)
    del tensors["head.bias"]
    tensors["blocks.0.attn.q.weight"] = tensors["blocks.0.attn.q.weight"].half()
    with safe_open(out, "pt") as file:
        metadata = file.metadata()
    save_file(tensors, out, metadata)
    found = tc.verify(out, source)
    assert {one.name: one.what for one in found.differences} == {
        "head.bias": "is missing",
        "more": "is not of it",
        "blocks.0.attn.q.weight": "is F16[32,256], should be BF16[32,256]",
    }
    shown = cli("verify", out, "--source", source, code=1)
    assert "IS NOT what" in shown.out
    assert "head.bias: is missing" in shown.out
    assert cli("verify", out, "--source", source, "--json", code=1).json["right"] is False


def test_metadata_may_change(source, tmp_path):
    out = tmp_path / "o.safetensors"
    tc.open(source) | tc.quantize("int8", include=["blocks.*"]) | tc.write(out, convention="neutral")
    tc.meta.set(out, {"author": "x" * 5000})
    assert tc.verify(out, source).right


def test_another_source_is_another_output(source, tmp_path):
    out, other = tmp_path / "o.safetensors", tmp_path / "other.safetensors"
    tc.open(source) | tc.write(out)
    tensors = load_file(source)
    tensors["head.bias"][999] += 1
    save_file(tensors, other)
    assert [one.name for one in tc.verify(out, other).differences] == ["head.bias"]


def test_a_sample(source, tmp_path):
    out = tmp_path / "o.safetensors"
    tc.open(source) | tc.write(out)
    seen = set()
    for seed in range(20):
        done = tc.verify(out, source, sample=0.4, seed=seed)
        assert done.tensors[0] in (2, 3)  # one is empty
        assert done.bytes_compared < out.stat().st_size / 2 + 40_000
        seen.add(done.bytes_compared)
    assert len(seen) > 1
    for share in (0, -1, 1.5):
        with pytest.raises(RecipeError, match="no share"):
            tc.verify(out, source, sample=share)


def test_a_file_of_another_tool_by_a_recipe(source, tmp_path):
    out, recipe = tmp_path / "theirs.safetensors", tmp_path / "r.yaml"
    save_file({name: tensor.half() for name, tensor in load_file(source).items()}, out)
    with pytest.raises(RecipeError, match=r"no record of how it was made; name its recipe with recipe=FILE"):
        tc.verify(out, source)
    recipe.write_text("source: {path: elsewhere}\nsteps:\n  - cast: f16\n")
    assert tc.verify(out, source, recipe=recipe).right
    recipe.write_text("steps:\n  - cast: bf16\n")
    assert not tc.verify(out, source, recipe=recipe).right


def test_a_lora_is_looked_for_by_its_name(source, tmp_path, monkeypatch):
    draw = torch.Generator().manual_seed(1)
    pair = {"A": (4, 256), "B": (64, 4)}
    save_file(
        {f"blocks.0.ffn.0.lora_{s}.weight": torch.randn(shape, generator=draw) for s, shape in pair.items()},
        tmp_path / "style.safetensors",
    )
    out = tmp_path / "o.safetensors"
    tc.open(source) | tc.lora(tmp_path / "style.safetensors", strength=0.5) | tc.write(out)
    monkeypatch.chdir(tmp_path)
    assert tc.verify(out, source).right
    assert not [one for one in tc.verify(out, source).notes if "version" in one]


def test_another_version_is_told(source, tmp_path, monkeypatch):
    out = tmp_path / "o.safetensors"
    tc.open(source) | tc.write(out)
    record = json.loads(tc.meta.get(out)["transcode"])
    tc.meta.set(out, {"transcode": json.dumps({**record, "version": "0.0.1"})})
    done = tc.verify(out, source)
    assert done.right
    assert "made by version 0.0.1" in done.notes[0]


def test_nothing_is_written(source, tmp_path):
    out = tmp_path / "out"
    tc.open(source) | tc.write(out)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    tc.verify(out, source)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
