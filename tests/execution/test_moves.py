"""What only moves is copied by the system where it can, and gives the same bytes where it cannot, or half."""

from __future__ import annotations

import errno
import hashlib
import os
from dataclasses import dataclass

import numpy as np
import pytest
import torch

import transcode as tc
from transcode.core.extent import Extent
from transcode.errors import FormatError, TranscodeError
from transcode.execution import moves as module
from transcode.execution.moves import Move, cut, moves

needs_call = pytest.mark.skipif(not hasattr(os, "copy_file_range"), reason="this system has no such call")


@pytest.fixture
def all_moves(monkeypatch):
    """Small tensors count as large."""
    monkeypatch.setattr(module, "LEAST", 1)


def whole(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def limited(most, calls):
    """The system's call, which copies no more than so many bytes at a time and fails after some calls."""
    real = os.copy_file_range

    def copy(source, out, count, begin, offset):
        calls.append(count)
        if len(calls) > 5:
            raise OSError(errno.EXDEV, "not between these file systems")
        return real(source, out, min(count, most), begin, offset)

    return copy


FLOWS = {
    "reshard": lambda flow: flow,
    "rename": lambda flow: flow | tc.rename({r"^": "model."}),
    "drop": lambda flow: flow | tc.drop("*.bias"),
    "int8": lambda flow: flow | tc.quantize("int8"),
    "cast": lambda flow: flow | tc.cast("F16", only="*.bias"),
}


@needs_call
@pytest.mark.parametrize("how", FLOWS)
@pytest.mark.parametrize("workers", [1, 4])
def test_the_same_bytes_by_any_way(how, workers, wan, tmp_path, all_moves, monkeypatch):
    flow = FLOWS[how](tc.open(wan))
    options = {"layout": "by_block", "workers": workers, "tile": 1000}
    with monkeypatch.context() as patch:
        patch.setattr(module, "LEAST", 1 << 60)
        flow | tc.write(tmp_path / "read", **options)
    flow | tc.write(tmp_path / "copied", **options)
    calls = []
    monkeypatch.setattr(os, "copy_file_range", limited(100, calls))
    flow | tc.write(tmp_path / "halves", **options)
    monkeypatch.delattr(os, "copy_file_range")
    flow | tc.write(tmp_path / "without", **options)
    assert len(calls) > 5
    assert whole(tmp_path / "copied") == whole(tmp_path / "read")
    assert whole(tmp_path / "halves") == whole(tmp_path / "read")
    assert whole(tmp_path / "without") == whole(tmp_path / "read")


@needs_call
def test_nothing_of_it_is_read(save, tmp_path, monkeypatch):
    """Three tensors of 2 MiB that lie and go one behind the other are one call, and nobody looks at them."""
    from transcode.io.local import MappedFile

    def read(self, *rest, **more):
        raise AssertionError("was read")

    calls = []
    source = save({f"{n}.weight": torch.full((1024, 1024), n, dtype=torch.bfloat16) for n in range(3)})
    flow = tc.open(source)
    monkeypatch.setattr(MappedFile, "bytes", read)
    monkeypatch.setattr(os, "copy_file_range", limited(1 << 30, calls))
    flow | tc.write(tmp_path / "o.safetensors")
    monkeypatch.undo()
    assert calls[-1] == 6 << 20 or sum(calls) == 6 << 20
    assert len(calls) <= 2
    with open(tmp_path / "o.safetensors", "rb") as file:
        assert file.read()[-(6 << 20) :] == source.read_bytes()[-(6 << 20) :]


@pytest.mark.parametrize("convention", ["compressed_tensors", "lightx2v", "comfyui"])
def test_codes_move_where_a_repack_leaves_them(convention, wan, tmp_path, all_moves):
    """The codes of int8 are the same bytes everywhere: all that is read are scales."""
    tc.open(wan) | tc.quantize("int8") | tc.write(tmp_path / "q.safetensors", convention="neutral")
    plan = tc.open(tmp_path / "q.safetensors").plan(tc.write(tmp_path / "o", convention=convention))
    _, taken = moves(plan, plan.destinations())
    coded = [number for number, tensor in enumerate(plan.tensors) if tensor.scheme is not None]
    assert coded
    assert all("codes" in taken.get(number, ()) for number in coded)
    tc.open(tmp_path / "q.safetensors") | tc.write(tmp_path / "o", convention=convention)
    before = tc.open(tmp_path / "q.safetensors") | tc.dequantize("F32")
    after = tc.open(tmp_path / "o") | tc.dequantize("F32")
    for tensor in before:
        np.testing.assert_array_equal(tensor.numpy(), after[tensor.name].numpy())


@pytest.mark.parametrize(("scheme", "convention"), [("int4", "compressed_tensors"), ("nvfp4", "comfyui")])
def test_codes_that_are_packed_otherwise_do_not_move(scheme, convention, wan, tmp_path, monkeypatch):
    tc.open(wan) | tc.quantize(scheme) | tc.write(tmp_path / "q.safetensors", convention="neutral")
    for least, folder in ((1 << 60, "read"), (1, "copied")):
        monkeypatch.setattr(module, "LEAST", least)
        tc.open(tmp_path / "q.safetensors") | tc.write(tmp_path / folder, convention=convention)
    assert whole(tmp_path / "copied") == whole(tmp_path / "read")


@needs_call
def test_a_full_disk_is_said(wan, tmp_path, all_moves, monkeypatch):
    def copy(*rest):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "copy_file_range", copy)
    with pytest.raises(TranscodeError, match="No space left"):
        tc.open(wan) | tc.write(tmp_path / "o.safetensors")
    assert not list(tmp_path.iterdir())


@needs_call
def test_a_source_that_is_cut_meanwhile_is_an_error(save, tmp_path, monkeypatch):
    source = save({"a.weight": torch.ones(1024, 1024)})
    flow = tc.open(source)
    real = os.copy_file_range

    def copy(*rest):
        os.truncate(source, 1 << 20)
        return real(*rest)

    monkeypatch.setattr(os, "copy_file_range", copy)
    with pytest.raises(FormatError, match=r"changed|bytes"):
        flow | tc.write(tmp_path / "o.safetensors")
    assert not (tmp_path / "o.safetensors").exists()


@dataclass(frozen=True)
class Named:
    name: str


@pytest.mark.parametrize(
    ("extent", "file", "offset", "joins"),
    [
        (Extent(Named("a"), 150, 7), 3, 1050, True),
        (Extent(Named("b"), 150, 7), 3, 1050, False),
        (Extent(Named("a"), 151, 7), 3, 1050, False),
        (Extent(Named("a"), 150, 7), 2, 1050, False),
        (Extent(Named("a"), 150, 7), 3, 1051, False),
    ],
)
def test_only_neighbours_on_both_sides_are_joined(extent, file, offset, joins):
    longer = Move(Named("a"), 100, 50, 3, 1000).joined(extent, file, offset)
    assert longer == (Move(Named("a"), 100, 57, 3, 1000) if joins else None)


@pytest.mark.parametrize(
    ("begin", "nbytes"), [(0, 1), (4096, 64 << 20), (5, (64 << 20) * 3), (4090, 3), (1, 0)]
)
def test_steps_are_the_whole_and_begin_at_blocks(begin, nbytes):
    steps = list(cut(Move(Named("a"), begin, nbytes, 0, begin + 4096 * 3)))
    at = begin
    for step in steps:
        assert step.begin == at
        assert step.offset == at + 4096 * 3
        assert 0 < step.nbytes <= 64 << 20
        assert step is steps[0] or step.begin % 4096 == 0
        at += step.nbytes
    assert at == begin + nbytes
