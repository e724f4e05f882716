"""A plan shared out: every byte is somebody's and nobody else's, and all have about as much."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import transcode as tc
from transcode.execution import moves, shares
from transcode.execution.journal import Ranges


@pytest.fixture
def source(tmp_path: Path) -> Path:
    draw = torch.Generator().manual_seed(0)
    tensors = {
        f"blocks.{block}.{name}.weight": torch.randn(shape, generator=draw).bfloat16()
        for block in range(4)
        for name, shape in {"ffn.0": (512, 256), "attn.q": (128, 256), "attn.k": (128, 256)}.items()
    }
    tensors |= {"wide": torch.randn(3, 50_000, generator=draw), "none": torch.zeros(0, 5)}
    tensors |= {"bias": torch.randn(7, generator=draw), "scalar": torch.tensor(3.0)}
    save_file(tensors, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


STEPS = {
    "copy": [],
    "int8": [tc.quantize("int8", include=["blocks.*"])],
    "in blocks": [tc.quantize("fp8", granularity="block", include=["blocks.*"])],
    "of tensors": [tc.quantize("fp8", granularity="tensor", include=["blocks.*"])],
    "shared": [tc.quantize("nvfp4", include=["blocks.*"], share_scale=[["attn.q", "attn.k"]])],
}


def plan_of(source, steps, tmp_path, **options):
    flow = tc.open(source)
    for step in steps:
        flow = flow | step
    return flow.plan(tc.write(tmp_path / "o", convention="neutral", **options))


def counted(parts) -> Counter:
    """How often each byte of each key is somebody's; bytes in runs that all parts cut alike."""
    bounds: dict[str, set[int]] = {}
    for part in parts:
        for key, ranges in part.items():
            bounds.setdefault(key, set()).update(bound for span in ranges for bound in span)
    times: Counter = Counter()
    for part in parts:
        for key, ranges in part.items():
            cuts = sorted(bounds[key])
            for low, high in pairwise(cuts):
                if list(ranges.within(low, high)) == [(low, high)]:
                    times[key, low, high] += 1
    return times


@pytest.mark.parametrize("kind", STEPS)
@pytest.mark.parametrize("least", [1 << 14, 1 << 30])
def test_each_byte_is_of_one_part(kind, least, source, tmp_path, monkeypatch):
    monkeypatch.setattr(moves, "LEAST", least)
    monkeypatch.setattr(shares, "_STEP", 4096)
    plan = plan_of(source, STEPS[kind], tmp_path, max_tensors=5, layout="chunked")
    every = shares.Shares(plan)
    runs, taken = moves.moves(plan, plan.destinations())
    wanted = sum(run.nbytes for run in runs) + sum(
        tensor.spec.nbytes
        for number, tensor in enumerate(plan.tensors)
        if len(taken.get(number, ())) < len(tensor.parts)
    )
    assert shares.nbytes(every.whole()) == wanted
    for count in (1, 2, 7, 300):
        parts = [every.part(number, count) for number in range(1, count + 1)]
        times = counted(parts)
        assert set(times.values()) == {1}
        assert sum(high - low for _, low, high in times) == wanted
        for part in parts:
            for key, ranges in part.items():
                if key.startswith("t"):
                    tensor = plan.tensors[int(key[1:])]
                    for bound in (bound for span in ranges for bound in span):
                        row = tensor.spec.row_of(bound) if bound < tensor.spec.nbytes else tensor.spec.rows
                        assert tensor.spec.row_offset(row) == bound
                        assert row % tensor.grain == 0 or row == tensor.spec.rows


@pytest.mark.parametrize("count", [2, 3, 5])
def test_all_have_about_as_much(count, source, tmp_path):
    every = shares.Shares(plan_of(source, STEPS["int8"], tmp_path))
    sizes = [shares.nbytes(every.part(number, count)) for number in range(1, count + 1)]
    row = 200_000  # of the widest tensor, which is cut between two
    assert max(sizes) - min(sizes) <= 2 * row


@pytest.mark.parametrize(("kind", "together"), [("of tensors", 1), ("shared", 2)])
def test_who_encodes_is_who_looks(kind, together, source, tmp_path):
    """A tensor that needs a look at the whole is one part's, with those that it shares a scale with."""
    plan = plan_of(source, STEPS[kind], tmp_path)
    every = shares.Shares(plan)
    for count in (2, 5, 12, 40):
        owners: dict[frozenset, set[int]] = {}
        for number in range(1, count + 1):
            for key, ranges in every.part(number, count).items():
                tensor = plan.tensors[int(key[1:])] if key.startswith("t") else None
                if tensor is not None and tensor.needs:
                    assert list(ranges) == [(0, tensor.spec.nbytes)]
                    owners.setdefault(frozenset(tensor.needs), set()).add(number)
        assert all(len(numbers) == 1 for numbers in owners.values())
        assert max(map(len, owners)) == together


def test_ranges_that_are_within():
    ranges = Ranges()
    for span in ((2, 5), (8, 9), (12, 20)):
        ranges.add(*span)
    for low in range(22):
        for high in range(low, 23):
            wanted = [n for n in range(low, high) if 2 <= n < 5 or n == 8 or 12 <= n < 20]
            assert [n for span in ranges.within(low, high) for n in range(*span)] == wanted
