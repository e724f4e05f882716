"""What cannot be converted is found before anything of the source is deleted."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import transcode as tc
from transcode.core.context import Context, Run
from transcode.core.performance import Performance
from transcode.errors import DataError
from transcode.execution import carry, working
from transcode.execution.consuming import Consumption
from transcode.execution.pace import Pace
from transcode.execution.rehearsal import Rehearsal, is_stored
from transcode.execution.working import work
from transcode.schemes.int4 import Int4

BAD = {
    "nan": (tc.quantize("int8", targets=["*"]), float("nan"), "nan at row 3, column 5"),
    "searched": (tc.quantize("int4", optimize="mse", targets=["*"]), float("inf"), "inf at row 3, column 5"),
    "overflow": (tc.cast("f16"), 1e30, "row 3, column 5"),
}


def save(folder, bad: float, at: int):
    folder.mkdir()
    for shard in range(3):
        tensors = {f"blocks.{shard}.{name}.weight": torch.full((8, 128), 0.5) for name in "ab"}
        if shard == at:
            tensors[f"blocks.{shard}.b.weight"][3, 5] = bad
        save_file(tensors, folder / f"model-{shard + 1:05}-of-00003.safetensors")
    return folder


def held(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("at", [0, 2])
@pytest.mark.parametrize("kind", BAD)
def test_a_source_of_which_some_cannot_be_converted_stays_whole(kind, at, tmp_path):
    step, bad, what = BAD[kind]
    source = save(tmp_path / "src", bad, at)
    before = held(tmp_path)
    performance = Performance(workers=2)
    plan = (tc.open(source) | step).plan(tc.write(tmp_path / "out", convention="neutral"))
    consumption = Consumption(plan, performance)
    with pytest.raises(DataError, match=what) as failed:
        carry.consume(consumption, performance)
    assert failed.value.tensor == f"blocks.{at}.b.weight"
    assert "kept" not in str(failed.value)
    assert held(tmp_path) == before


def test_nothing_is_searched_or_measured(tmp_path, monkeypatch):
    source = save(tmp_path / "src", 0.25, 0)
    flow = tc.open(source) | tc.quantize("int4", optimize="mse", targets=["*"])
    plan = flow.plan(tc.write(tmp_path / "out", convention="neutral", measure=True))
    monkeypatch.setattr(working, "_prepare", lambda *args: None)  # which encodes to compile
    used = []
    encode = Int4.encode
    monkeypatch.setattr(Int4, "encode", lambda self, *args: used.append(self.optimize) or encode(self, *args))
    work(plan, Rehearsal(plan), Performance(), Pace(None))
    assert set(used) == {"none"}
    assert len(used) == len(plan.tensors)


def test_what_only_moves_is_not_read(tmp_path):
    source = save(tmp_path / "src", float("nan"), 1)
    plan = tc.open(source).plan(tc.write(tmp_path / "out", convention="neutral"))
    assert all(map(is_stored, plan.tensors))
    assert Rehearsal(plan).order == []


def test_it_gives_what_it_gives_without_a_search(tmp_path):
    """A rehearsal reads what the run reads: the codes are those of the scheme without its search."""
    source = save(tmp_path / "src", 0.25, 0)
    plans = [
        (tc.open(source) | tc.quantize("int4", optimize=optimize, targets=["*"])).plan(
            tc.write(tmp_path / "out", convention="neutral")
        )
        for optimize in ("mse", "none")
    ]
    pieces = []
    for plan, rehearses in zip(plans, (True, False), strict=True):
        context = Context(run=Run(rehearses=rehearses))
        read = plan.tensors[0].read(0, 8, context)
        pieces.append([(piece.role, np.array(piece.data).tobytes()) for piece in read])
    assert pieces[0] == pieces[1]
