"""DeepCompressor's folder as a source; several sources as one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from transcode.containers.deepcompressor.container import DeepCompressor
from transcode.containers.deepcompressor.reading import open_checkpoint
from transcode.containers.joined import join_sources
from transcode.containers.source import open_source
from transcode.errors import FormatError
from transcode.io.folder import LocalFolder


def write(folder: Path, **files: object) -> Path:
    for name, value in files.items():
        torch.save(value, folder / f"{name}.pt")
    return folder


def test_every_file_is_read_under_its_name(tmp_path: Path) -> None:
    write(
        tmp_path,
        model={"b.0.q.weight": torch.arange(6.0).view(2, 3)},
        scale={"b.0.q.weight.scale.0": torch.ones(2, 1, 1, 1), "b.0.q.weight.zero": None},
        smooth={"b.0.q": torch.ones(3), "proj.fuse_when_possible": False, "attn.fuse_when_possible": True},
        branch={"b.0.q": {"a.weight": torch.ones(1, 3), "b.weight": torch.full((2, 1), 7.0)}},
    )
    source = open_source(tmp_path)
    found = {tensor.name: tensor for tensor in source.tensors}
    assert list(found) == [
        "b.0.q.weight",
        "scale.pt/b.0.q.weight.scale.0",
        "smooth.pt/b.0.q",
        "smooth.pt/proj.fuse_when_possible",
        "smooth.pt/attn.fuse_when_possible",
        "branch.pt/b.0.q.a.weight",
        "branch.pt/b.0.q.b.weight",
    ]
    assert all(tensor.source == name for name, tensor in found.items())
    assert found["b.0.q.weight"].numpy().tolist() == [[0, 1, 2], [3, 4, 5]]
    assert found["branch.pt/b.0.q.b.weight"].numpy().tolist() == [[7], [7]]
    assert not found["smooth.pt/proj.fuse_when_possible"].numpy()
    assert found["smooth.pt/attn.fuse_when_possible"].numpy()
    assert found["smooth.pt/attn.fuse_when_possible"].spec.dtype.name == "BOOL"
    assert [file.path.name for file in source.files] == ["model.pt", "scale.pt", "smooth.pt", "branch.pt"]


def test_optional_files(tmp_path: Path) -> None:
    write(tmp_path, model={"a.weight": torch.ones(2)}, scale={})
    source = open_source(tmp_path)
    assert [tensor.name for tensor in source.tensors] == ["a.weight"]
    assert sum("need not be" in note for note in source.notes) == 2


@pytest.mark.parametrize("missing", ["model", "scale"])
def test_required_files(tmp_path: Path, missing: str) -> None:
    write(tmp_path, **{name: {"a.weight": torch.ones(2)} for name in ("model", "scale") if name != missing})
    assert not DeepCompressor().holds(LocalFolder(tmp_path))
    with pytest.raises(FormatError, match=rf"{missing}\.pt: is missing"):
        open_checkpoint(tmp_path)


def test_strange_values_are_refused(tmp_path: Path) -> None:
    write(tmp_path, model={"a.weight": torch.ones(2)}, scale={"a.weight.scale.0": "big"})
    with pytest.raises(FormatError, match=r"scale\.pt/a\.weight\.scale\.0: is a str"):
        open_source(tmp_path)
    write(tmp_path, scale=[1])
    with pytest.raises(FormatError, match="holds a list, not a dict"):
        open_source(tmp_path)


def test_joined_sources(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "a.safetensors", {"k": "1", "x": "y"})
    save_file({"b": torch.zeros(3)}, tmp_path / "b.safetensors", {"k": "2", "z": "w"})
    source = join_sources([open_source(tmp_path / name) for name in ("a.safetensors", "b.safetensors")])
    assert [tensor.name for tensor in source.tensors] == ["a", "b"]
    assert source.metadata == {"k": "1", "x": "y", "z": "w"}
    assert [note for note in source.notes if "left out" in note] == [
        "metadata 'k' of b.safetensors differs from that before and is left out"
    ]
    assert [file.path.name for file in source.files] == ["a.safetensors", "b.safetensors"]
    with pytest.raises(FormatError, match="is also in"):
        join_sources([source, open_source(tmp_path / "b.safetensors")])
