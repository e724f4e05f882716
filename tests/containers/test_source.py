"""Sources: what a path stands for, what is refused and why, and what comes along."""

from __future__ import annotations

import json
import os
import shutil
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from transcode.containers.discover import MAX_SIDE_FILE
from transcode.containers.edit import undo
from transcode.containers.source import open_source
from transcode.core.context import Context
from transcode.errors import FormatError
from transcode.io import local

WAN = Path(__file__).parents[2] / "fixtures" / "wan_tiny"
W = torch.arange(6.0).reshape(2, 3)


def refusal(path: Path, **how: object) -> str:
    with pytest.raises(FormatError) as caught:
        open_source(path, **how)
    message = str(caught.value)
    assert "\n" not in message
    return message


def names(path: Path) -> list[str]:
    with open_source(path) as source:
        return [tensor.name for tensor in source.tensors]


def save(path: Path, *tensors: str, **metadata: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: W.clone() for name in tensors}, path, metadata or None)
    return path


def index(path: Path, **weight_map: str) -> Path:
    path.write_text(json.dumps({"metadata": {"total_size": 24 * len(weight_map)}, "weight_map": weight_map}))
    return path


@pytest.fixture
def sharded(tmp_path):
    """Two shards and their index."""
    folder = tmp_path / "model"
    save(folder / "m-00001-of-00002.safetensors", "a", "b")
    save(folder / "m-00002-of-00002.safetensors", "c")
    one, two = "m-00001-of-00002.safetensors", "m-00002-of-00002.safetensors"
    index(folder / "m.safetensors.index.json", a=one, b=one, c=two)
    return folder


# what is accepted


def test_one_file_of_every_dtype_reads_as_safe_open_does(tmp_path):
    kinds = [
        "float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "uint16",
        "uint32", "uint64", "bool", "complex64", "float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu",
        "float8_e4m3fnuz", "float8_e5m2fnuz",
    ]  # fmt: skip
    bits = torch.arange(1, 65, dtype=torch.uint8)
    value = {
        kind: (bits & 1 if kind == "bool" else bits.clone()).view(getattr(torch, kind)) for kind in kinds
    }
    value |= {"scalar": torch.tensor(2.5), "empty": torch.zeros(3, 0), "cube": torch.randn(2, 3, 4)}
    path = tmp_path / "m.safetensors"
    save_file(value, path, {"k": "v"})
    with open_source(path) as source, safe_open(path, "pt") as reference:
        assert {t.name for t in source.tensors} == set(reference.keys())
        assert dict(source.metadata) == reference.metadata()
        for tensor in source.tensors:
            like = reference.get_tensor(tensor.name)
            assert tensor.torch().dtype == like.dtype
            assert tensor.torch().shape == like.shape
            assert tensor.numpy().tobytes() == like.reshape(-1).view(torch.uint8).numpy().tobytes()
            assert tensor.shares is None
        (file,) = source.files
        assert (file.path, file.size, file.tensors) == (path, path.stat().st_size, len(value))
        assert source.stem == "m"


@pytest.mark.parametrize("mmap", [True, False])
def test_a_published_layout(mmap):
    with open_source(WAN, mmap=mmap) as source:
        assert source.stem == "diffusion_pytorch_model"
        assert [f.path.name for f in source.files] == sorted(p.name for p in WAN.glob("*.safetensors"))
        assert [p.name for p in source.side_files] == ["config.json"]
        assert source.notes == ()
        found = {t.name: t for t in source.tensors}
        for file in source.files:
            with safe_open(file.path, "pt") as reference:
                for name in reference.keys():  # noqa: SIM118
                    assert torch.equal(found.pop(name).torch(), reference.get_tensor(name))
        assert not found


def test_folder_index_and_folder_without_index_are_one(sharded):
    expected = ["a", "b", "c"]
    assert names(sharded) == expected
    assert names(sharded / "m.safetensors.index.json") == expected
    (sharded / "m.safetensors.index.json").unlink()
    assert names(sharded) == expected
    assert open_source(sharded).stem == "m"


def test_one_shard_alone_is_read_with_a_note(sharded):
    source = open_source(sharded / "m-00001-of-00002.safetensors")
    assert [t.name for t in source.tensors] == ["a", "b"]
    assert source.notes == ("m-00001-of-00002.safetensors is one of 2 shards; only this one is read",)
    assert source.side_files == ()


def test_tensors_come_by_file_then_offset(tmp_path):
    save(tmp_path / "m-00002-of-00002.safetensors", "a")
    one = '{"dtype":"U8","shape":[1],"data_offsets":'
    raw = f'{{"z":{one}[0,1]}},"y":{one}[1,2]}}}}'.encode()
    (tmp_path / "m-00001-of-00002.safetensors").write_bytes(struct.pack("<Q", len(raw)) + raw + b"ab")
    assert names(tmp_path) == ["z", "y", "a"]


def test_names_of_output_follow_the_source(tmp_path):
    save(tmp_path / "block_0.safetensors", "a")
    save(tmp_path / "non_block.safetensors", "b")
    assert open_source(tmp_path).stem == "model"
    assert open_source(save(tmp_path / "x" / "flux.1-dev.safetensors", "a")).stem == "flux.1-dev"


def test_a_snapshot_of_links_into_blobs(tmp_path):
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    save(blobs / "aa11", "a")
    (blobs / "cc33").write_text("{}")
    index(blobs / "bb22", a="model.safetensors")
    for name, blob in [
        ("model.safetensors", "aa11"), ("model.safetensors.index.json", "bb22"), ("config.json", "cc33"),
    ]:  # fmt: skip
        (snapshot / name).symlink_to(Path("../../blobs") / blob)
    source = open_source(snapshot)
    assert [t.name for t in source.tensors] == ["a"]
    assert source.files[0].path == snapshot / "model.safetensors"
    assert source.side_files == (snapshot / "config.json",)
    assert names(blobs / "aa11") == ["a"]
    (blobs / "aa11").unlink()
    assert "model.safetensors: is a link to ../../blobs/aa11, which does not exist" in refusal(snapshot)
    assert "which does not exist" in refusal(snapshot / "model.safetensors")


@pytest.mark.parametrize("component", ["transformer", "unet"])
def test_a_diffusers_folder(component, tmp_path):
    save(tmp_path / component / "diffusion_pytorch_model.safetensors", "a")
    (tmp_path / component / "config.json").write_text("{}")
    save(tmp_path / "vae" / "diffusion_pytorch_model.safetensors", "v")
    (tmp_path / "model_index.json").write_text("{}")
    source = open_source(tmp_path)
    assert [t.name for t in source.tensors] == ["a"]
    assert source.notes == (f"reads {component}/ of the Diffusers folder {tmp_path}",)
    assert source.side_files == (tmp_path / component / "config.json",)
    save(tmp_path / "flux1-dev.safetensors", "other")
    source = open_source(tmp_path)
    assert [t.name for t in source.tensors] == ["a"]
    assert f"does not read flux1-dev.safetensors beside {component}/" in source.notes
    save(tmp_path / "transformer_2" / "diffusion_pytorch_model.safetensors", "a")
    assert f"holds weights in {component}/ and transformer_2/; point SRC at one of them" in refusal(tmp_path)


def test_metadata_is_merged_and_disagreement_noted(tmp_path):
    save(tmp_path / "a_1.safetensors", "a", format="pt", k="1", only_a="x")
    save(tmp_path / "a_2.safetensors", "b", format="pt", k="2", only_b="y")
    source = open_source(tmp_path)
    assert dict(source.metadata) == {"format": "pt", "k": "1", "only_a": "x", "only_b": "y"}
    assert source.notes == ("metadata 'k' of a_2.safetensors differs from the first shard's and is left out",)
    assert [dict(f.metadata)["k"] for f in source.files] == ["1", "2"]


def test_a_wrong_total_size_is_noted(sharded):
    path = sharded / "m.safetensors.index.json"
    table = json.loads(path.read_text())
    table["metadata"]["total_size"] = 7
    path.write_text(json.dumps(table))
    expected = "m.safetensors.index.json claims a total_size of 7 bytes, the tensors have 72"
    assert open_source(sharded).notes == (expected,)
    for metadata in ({}, {"total_size": "many"}, {"total_size": float("inf")}, None, [1]):
        path.write_text(json.dumps(table | {"metadata": metadata}))
        assert names(sharded) == ["a", "b", "c"]


def test_side_files_are_small_and_belong_to_the_model(sharded):
    kept = [
        "LICENSE", "README.md", "chat_template.jinja", "config.json", "generation_config.json", "merges.txt",
        "modeling_x.py", "spiece.model", "tokenizer.json", "tokenizer_config.json", "vocab.txt",
    ]  # fmt: skip
    for name in kept:
        (sharded / name).write_text("x")
    for name in (".hidden.json", "pytorch_model.bin.index.json", "photo.png", "x.gguf", "training.log"):
        (sharded / name).write_text("x")
    (sharded / "assets.json").mkdir()
    with open(sharded / "huge.json", "wb") as file:
        file.truncate(MAX_SIDE_FILE + 1)
    source = open_source(sharded / "m.safetensors.index.json")
    assert [p.name for p in source.side_files] == kept
    assert source.notes == (f"huge.json is no side file: it has {MAX_SIDE_FILE + 1} bytes",)


def test_a_lone_file_takes_only_what_is_surely_its_own(tmp_path):
    path = save(tmp_path / "m.safetensors", "a")
    (tmp_path / "letter.txt").write_text("private")
    assert open_source(path).side_files == ()
    (tmp_path / "config.json").write_text("{}")
    assert [p.name for p in open_source(path).side_files] == ["config.json", "letter.txt"]
    save(tmp_path / "n.safetensors", "a")
    source = open_source(path)
    assert source.side_files == ()
    assert "config.json and what else lies beside m.safetensors is not taken along" in source.notes[0]


# what is refused


def test_no_weights(tmp_path):
    assert "no such file or folder" in refusal(tmp_path / "absent")
    assert f"{tmp_path}: no weights found" in refusal(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    assert "is JSON but not named like an index" in refusal(tmp_path / "config.json")
    (tmp_path / "m.onnx").write_bytes(b"....")
    assert "holds m.onnx, which transcode does not read" in refusal(tmp_path)


def test_several_indexes(sharded):
    shutil.copy(sharded / "m.safetensors.index.json", sharded / "n.safetensors.index.json")
    message = refusal(sharded)
    assert (
        "holds several indexes, m.safetensors.index.json, n.safetensors.index.json; point SRC at one"
        in message
    )
    assert names(sharded / "n.safetensors.index.json") == ["a", "b", "c"]


def test_missing_and_extra_shards(sharded):
    extra = save(sharded / "extra.safetensors", "z")
    message = refusal(sharded)
    assert message.startswith(f"{extra}: is an extra shard, which m.safetensors.index.json does not name")
    assert f"point SRC at {sharded / 'm.safetensors.index.json'}" in message
    assert names(sharded / "m.safetensors.index.json") == ["a", "b", "c"]
    extra.unlink()
    missing = sharded / "m-00002-of-00002.safetensors"
    missing.unlink()
    for path in (sharded, sharded / "m.safetensors.index.json"):
        assert refusal(path).startswith(f"{missing}: is missing, m.safetensors.index.json names it")
    (sharded / "m.safetensors.index.json").unlink()
    assert refusal(sharded).startswith(f"{missing}: is missing")


def test_an_index_that_disagrees_with_its_files(sharded):
    one, two = "m-00001-of-00002.safetensors", "m-00002-of-00002.safetensors"
    path = sharded / "m.safetensors.index.json"
    index(path, a=one, c=two)
    assert refusal(path) == f"{sharded / one}: b: m.safetensors.index.json does not name it"
    index(path, a=one, b=two, c=two)
    assert refusal(path) == f"{sharded / one}: b: m.safetensors.index.json says it is in {two}"
    index(path, a=one, b=one, c=two, d=two)
    assert refusal(path) == f"{path}: d: is not in {two}, where weight_map says it is"


def test_a_name_in_two_shards(tmp_path):
    save(tmp_path / "a_1.safetensors", "x", "y")
    save(tmp_path / "a_2.safetensors", "y", "z")
    assert refusal(tmp_path).startswith(f"{tmp_path / 'a_2.safetensors'}: y: is also in a_1.safetensors; ")


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "is not valid JSON"),
        ("[]", "is a JSON array, not an object"),
        ("{}", "has no object weight_map"),
        ('{"weight_map":[]}', "has no object weight_map"),
        ('{"weight_map":{}}', "weight_map is empty"),
        ('{"weight_map":{"a":1}}', "a: weight_map names 1, not a file"),
        (
            '{"weight_map":{"a":"../x.safetensors"}}',
            "a: weight_map names '../x.safetensors', which is not a file of",
        ),
        (
            '{"weight_map":{"a":"/etc/passwd"}}',
            "a: weight_map names '/etc/passwd', which is not a file of this",
        ),
        ('{"weight_map":{"a":".."}}', "a: weight_map names '..'"),
        ('{"weight_map":{"a":"x.safetensors","a":"y.safetensors"}}', "names 'a' twice"),
        ("version https://git-lfs.github.com/spec/v1\noid", "is a Git LFS pointer, not the file itself; run"),
        ("[" * 100_000, "is not valid JSON"),
    ],
)
def test_bad_indexes(text, what, tmp_path):
    path = tmp_path / "m.safetensors.index.json"
    path.write_text(text)
    message = refusal(path)
    assert message.startswith(f"{path}: ")
    assert what in message


@pytest.mark.parametrize(
    ("raw", "what"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "is a Git LFS pointer"),
        (b"<!DOCTYPE html><html>", "is a web page, not weights"),
        (b"", "is empty; is the download complete?"),
    ],
)
@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_what_is_no_weights_at_all(raw, what, suffix, tmp_path):
    path = tmp_path / f"m.{suffix}"
    path.write_bytes(raw)
    assert refusal(path).startswith(f"{path}: {what}")
    assert refusal(tmp_path).startswith(f"{path}: {what}")


@pytest.mark.parametrize(
    "name", ["x.incomplete", "n.safetensors.incomplete", "n.safetensors.part", "n.safetensors.lock"]
)
def test_downloads_in_progress(name, tmp_path):
    save(tmp_path / "m.safetensors", "a")
    (tmp_path / name).write_bytes(b"")
    message = refusal(tmp_path)
    assert message.startswith(f"{tmp_path / name}: is a download in progress or broken off")
    (tmp_path / name).rename(
        tmp_path / "m.safetensors.lock"
    )  # beside the whole file a lock is only left over
    assert names(tmp_path) == ["a"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read all")
def test_what_may_not_be_read(tmp_path):
    path = save(tmp_path / "m.safetensors", "a")
    path.chmod(0)
    assert "m.safetensors: cannot be read: Permission denied" in refusal(tmp_path)


def test_a_root_key_needs_a_pickle(tmp_path):
    path = save(tmp_path / "m.safetensors", "a")
    assert "has no root 'ema': it is a safetensors file; leave root_key=... out" in refusal(
        path, root_key="ema"
    )


# PyTorch files in folders


def test_folders_of_pickles(tmp_path):
    torch.save({"a": W}, tmp_path / "pytorch_model-00001-of-00002.bin")
    torch.save({"b": W}, tmp_path / "pytorch_model-00002-of-00002.bin")
    for name in ("training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state_0.pth"):
        torch.save({"x": W}, tmp_path / name)
    source = open_source(tmp_path)
    assert [t.name for t in source.tensors] == ["a", "b"]
    assert source.stem == "pytorch_model"
    one, two = "pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"
    listed = index(tmp_path / "pytorch_model.bin.index.json", a=one, b=two)
    assert names(tmp_path) == names(listed) == ["a", "b"]
    (tmp_path / two).unlink()
    assert "pytorch_model-00002-of-00002.bin: is missing" in refusal(tmp_path)


def test_several_pickles_that_are_no_shards(tmp_path):
    torch.save({"a": W}, tmp_path / "step_100.pt")
    assert names(tmp_path) == ["a"]
    torch.save({"a": W}, tmp_path / "step_200.pt")
    assert "holds step_100.pt, step_200.pt; point SRC at one of them" in refusal(tmp_path)


def test_safetensors_win_over_pickles(tmp_path):
    save(tmp_path / "model.safetensors", "a")
    torch.save({"b": W}, tmp_path / "pytorch_model.bin")
    index(tmp_path / "pytorch_model.bin.index.json", b="pytorch_model.bin")
    source = open_source(tmp_path)
    assert [t.name for t in source.tensors] == ["a"]
    assert source.notes == ("does not read pytorch_model.bin beside safetensors",)


def test_misnamed_files_are_read_by_their_content(tmp_path):
    assert names(save(tmp_path / "m.bin", "a")) == ["a"]
    torch.save({"b": W}, tmp_path / "m.safetensors")
    assert names(tmp_path / "m.safetensors") == ["b"]


# what it costs


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_length_that_looks_like_another_format(tmp_path):
    """A header of 60 bytes begins with ``<``, as web pages do."""
    text = b'   {"w":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}'
    path = tmp_path / "m.safetensors"
    path.write_bytes((60).to_bytes(8, "little") + text.ljust(60) + b"xy")
    assert safe_open(path, "np").keys() == ["w"]
    with open_source(path) as source:
        assert [tensor.name for tensor in source.tensors] == ["w"]


def test_a_thousand_shards_open_by_their_headers_alone(tmp_path, monkeypatch):
    weight_map = {}
    for i in range(1, 1001):
        name = f"m-{i:05d}-of-01000.safetensors"
        raw = json.dumps(
            {f"t{i}": {"dtype": "U8", "shape": [1 << 30], "data_offsets": [0, 1 << 30]}}
        ).encode()
        with open(tmp_path / name, "wb") as file:
            file.write(struct.pack("<Q", len(raw)) + raw)
            file.truncate(8 + len(raw) + (1 << 30))
        weight_map[f"t{i}"] = name
    index(tmp_path / "m.safetensors.index.json", **weight_map)
    before = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(local.MappedFile, "bytes", lambda *args: pytest.fail("a tensor was read"))
    with open_source(tmp_path) as source:
        assert len(source.tensors) == 1000
        assert len(os.listdir("/proc/self/fd")) <= before
    monkeypatch.undo()
    with open_source(tmp_path) as source:
        (piece,) = source.tensors[-1].read(1 << 29, (1 << 29) + 5, Context())
        assert np.array_equal(piece.data.reshape(-1), np.zeros(5))


def test_a_source_says_what_it_is_in_a_line(sharded):
    assert repr(open_source(sharded)) == f"Source({str(sharded)!r}, 3 tensors in 2 files)"


def test_a_file_whose_editor_was_killed_is_repaired_first(tmp_path):
    path = save(tmp_path / "m.safetensors", "a", k="v")
    whole = path.read_bytes()
    head = whole[: -W.nbytes]
    undo.begin(str(path), undo.Record(len(whole), 0, head))
    path.write_bytes(bytes(40) + whole[40:])  # half of an edit
    with open_source(tmp_path) as source:
        assert dict(source.metadata) == {"k": "v"}
        assert np.array_equal(source.tensors[0].numpy(), W.numpy())
    assert path.read_bytes() == whole
    assert os.listdir(tmp_path) == ["m.safetensors"]
