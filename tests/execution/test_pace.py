"""Limits that a run keeps on a machine that others use: bytes a second, niceness, room on the disk."""

from __future__ import annotations

import os
import sys
import threading
import time

import pytest
import torch
from safetensors.torch import save_file

import transcode as tc
from transcode.errors import RecipeError, TranscodeError
from transcode.execution.pace import Pace
from transcode.io import system


@pytest.fixture
def source(tmp_path):
    save_file({f"a{i}.weight": torch.ones(256, 1024) for i in range(8)}, tmp_path / "source.safetensors")
    return tmp_path / "source.safetensors"  # 8 MiB


def test_who_has_read_waits_for_all(monkeypatch):
    """A limit of 100 a second: what three read is due after 0.3 s, by a clock that stands still."""
    monkeypatch.setattr(time, "monotonic", lambda: 5.0)
    pace = Pace(100)
    assert [pace.spend(10) for _ in range(3)] == pytest.approx([0.1, 0.2, 0.3])
    assert Pace(None).spend(10**12) == 0


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("stage", [tc.cast("f16"), None], ids=["tiles", "moves"])
def test_a_run_reads_no_faster(source, tmp_path, workers, stage):
    """8 MiB at 16 MiB/s last half a second; the bytes are those of an unlimited run."""
    flow = tc.open(source) if stage is None else tc.open(source) | stage
    flow | tc.write(tmp_path / "a.safetensors")
    began = time.monotonic()
    flow | tc.write(tmp_path / "b.safetensors", max_read_rate="16MiB", workers=workers, tile="1MiB")
    assert time.monotonic() - began >= 0.4
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


@pytest.mark.skipif(sys.platform != "linux", reason="threads have a niceness of their own on Linux alone")
def test_workers_are_nice_and_nobody_else(source, tmp_path, monkeypatch):
    seen: dict[str, int] = {}
    write_at = system.write_at

    def watched(fd, data, offset):
        seen[threading.current_thread().name] = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
        write_at(fd, data, offset)

    monkeypatch.setattr(system, "write_at", watched)
    before = os.getpriority(os.PRIO_PROCESS, 0)
    tc.open(source) | tc.cast("f16") | tc.write(tmp_path / "o.safetensors", nice=7, workers=2)
    workers = {value for name, value in seen.items() if name.startswith("worker")}
    assert workers == {7}
    assert os.getpriority(os.PRIO_PROCESS, 0) == before


def test_what_is_no_limit():
    with pytest.raises(RecipeError, match="more than 19"):
        tc.write("o", nice=20)
    with pytest.raises(RecipeError):
        tc.write("o", max_read_rate=0)


def test_room_that_is_to_stay_is_asked_for_while_planning(source, tmp_path, monkeypatch):
    """The output takes about 4 MiB: with 6 free, 1 may stay free and 3 may not."""
    from transcode.execution import destination

    monkeypatch.setattr(destination.system, "free_space", lambda folder: 6 << 20)
    flow = tc.open(source) | tc.cast("f16")
    write = tc.write(tmp_path / "o.safetensors", reserve_disk="3MiB")
    with pytest.raises(tc.PlanError, match="3145728 are to stay free"):
        flow | write
    assert not (tmp_path / "o.safetensors").exists()
    flow | tc.write(tmp_path / "o.safetensors", reserve_disk="1MiB")


@pytest.mark.parametrize("resume", [False, True])
def test_a_run_stops_where_others_take_the_room(source, tmp_path, monkeypatch, resume):
    """Nothing is left of it; with resume what is done stays, and the run goes on when there is room again."""
    from transcode.execution import working

    calls = []

    def free(folder):
        calls.append(folder)
        return 1 << 40 if len(calls) < 4 else 1000

    monkeypatch.setattr(working.system, "free_space", free)
    monkeypatch.setattr(working, "_INTERVAL", 0.0)
    flow = tc.open(source) | tc.cast("f16")
    write = tc.write(
        tmp_path / "o.safetensors", reserve_disk="1MB", max_read_rate="8MiB", tile="256KiB", resume=resume
    )
    with pytest.raises(TranscodeError, match="1000 bytes left, 1000000 are to stay free"):
        flow | write
    assert {one.name for one in tmp_path.iterdir() if not one.name.startswith(".o")} == {"source.safetensors"}
    monkeypatch.undo()
    if resume:
        report = flow | tc.write(tmp_path / "o.safetensors", resume=True)
        assert report.resumed
