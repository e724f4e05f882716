"""Carrying out: errors of a worker reach the caller, progress is told, every tile is written once."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
import torch

import transcode as tc
from transcode.core.context import Observation, Run
from transcode.errors import DataError, Interrupted, TranscodeError
from transcode.execution.execute import execute


class Recorder:
    """Stands where the files are, and remembers what is written where."""

    def __init__(self) -> None:
        self.ranges: list[tuple[int, int, int]] = []
        self.lock = threading.Lock()

    def write(self, file: int, offset: int, data: np.ndarray) -> None:
        with self.lock:
            self.ranges.append((file, offset, offset + data.nbytes))

    def copy(self, move) -> int:
        return 0


@pytest.mark.parametrize("workers", [1, 2, 8])
@pytest.mark.parametrize("tile", [1, 1000, 1 << 20])
@pytest.mark.parametrize(
    "options", [{}, {"granularity": "tensor"}, {"granularity": "group", "group_size": 16}]
)
def test_every_byte_is_written_exactly_once(workers, tile, options, wan, tmp_path):
    flow = tc.open(wan) | tc.quantize("int8", **options)
    plan = flow.plan(tc.write(tmp_path / "o", layout="by_block", convention="neutral"))
    recorder = Recorder()
    report = execute(plan, recorder, workers=workers, tile_bytes=tile)
    for number, file in enumerate(plan.files):
        at = len(file.header)
        for _, begin, end in sorted(r for r in recorder.ranges if r[0] == number and r[1] != r[2]):
            assert begin == at
            at = end
        assert at == file.size
    assert report.bytes_written == plan.file_bytes


@pytest.mark.parametrize("workers", [1, 8])
def test_what_was_seen_of_a_tensor_is_forgotten_once_it_is_encoded(workers, wan, tmp_path, monkeypatch):
    """A checkpoint has thousands of tensors, and of each a histogram may be known."""
    flow = tc.open(wan) | tc.quantize("int8", granularity="tensor")
    plan = flow.plan(tc.write(tmp_path / "o.safetensors", convention="neutral"))
    needed = [statistic for tensor in plan.tensors for statistic in tensor.needs]
    forgotten, looks = [], []
    forget, schedule = Run.forget, Observation.schedule
    monkeypatch.setattr(Run, "forget", lambda run, one: (forgotten.append((run, one)), forget(run, one)))
    monkeypatch.setattr(Observation, "schedule", lambda seen, n: (looks.append(seen), schedule(seen, n)))
    execute(plan, Recorder(), workers=workers, tile_bytes=1000)
    assert len(needed) > 5
    assert {one for _, one in forgotten} == set(needed)
    assert len(looks) == len(set(needed))  # none was looked at again
    assert all(seen._seen is None for seen in looks)


@pytest.mark.parametrize("workers", [1, 8])
@pytest.mark.parametrize("options", [{}, {"granularity": "tensor"}])
def test_the_error_of_a_worker_is_the_callers(workers, options, save, tmp_path):
    tensors = {f"{i}.weight": torch.ones(64, 64) for i in range(20)}
    tensors["7.weight"][3, 5] = float("inf")
    flow = tc.open(save(tensors)) | tc.quantize("int8", **options)
    before = threading.active_count()
    for _ in range(5):
        with pytest.raises(DataError, match=r"7\.weight: inf at row 3, column 5"):
            flow | tc.write(tmp_path / "o.safetensors", workers=workers, tile=256)
    assert threading.active_count() == before
    assert not (tmp_path / "o.safetensors").exists()


def test_progress_is_told_and_ends_at_all(wan, tmp_path):
    told = []
    (
        tc.open(wan)
        | tc.quantize("int8", granularity="tensor")
        | tc.write(tmp_path / "o.safetensors", on_progress=told.append)
    )
    convert = [p for p in told if p.stage == "convert"]
    assert convert[-1].done == convert[-1].total > 0
    assert [p.done for p in convert] == sorted(p.done for p in convert)
    assert told[-1].stage == "sync"


def test_an_interrupt_in_the_caller_stops_all_workers(wan, tmp_path):
    def stop(progress):
        raise KeyboardInterrupt

    before = threading.active_count()
    with pytest.raises(Interrupted) as caught:
        tc.open(wan) | tc.write(tmp_path / "o.safetensors", on_progress=stop)
    assert caught.value.exit_code == 130
    assert threading.active_count() == before
    assert not list(tmp_path.iterdir())


def test_the_cause_is_told_not_that_somebody_waited_for_it(save, tmp_path, monkeypatch):
    """The worker that waits for a look may end before the one whose look failed: the cause still counts."""
    bad = torch.ones(64, 64)
    bad[3, 5] = float("nan")
    flow = tc.open(save({"a.weight": bad})) | tc.quantize("int8", granularity="tensor")
    cancel = Observation.cancel
    noted = threading.Event()

    def slowly(self):
        cancel(self)
        if threading.current_thread().name == "worker-0":
            noted.wait(0.2)

    waits = threading.Event()
    look = Observation.see

    def late(self, start, stop, scratch):
        waits.wait(5)
        look(self, start, stop, scratch)

    value = Observation.value

    def waiting(self, scratch):
        waits.set()
        return value(self, scratch)

    monkeypatch.setattr(Observation, "cancel", slowly)
    monkeypatch.setattr(Observation, "see", late)
    monkeypatch.setattr(Observation, "value", waiting)
    plan = flow.plan(tc.write(tmp_path / "o.safetensors"))
    for _ in range(3):
        with pytest.raises(DataError, match="nan at row 3"):
            execute(plan, Recorder(), workers=2, tile_bytes=1 << 20)
        waits.clear()


def test_no_worker_is_left_however_often_the_user_interrupts(wan, tmp_path, monkeypatch):
    """Ctrl-C again while workers end: they still write, so nothing may be taken from under them."""
    interrupts = iter([True, True])
    join = threading.Thread.join

    def impatient(self, timeout=None):
        if self.name.startswith("worker-") and next(interrupts, False):
            raise KeyboardInterrupt
        join(self, timeout)

    class Slow(Recorder):
        def write(self, file, offset, data):
            time.sleep(0.01)
            super().write(file, offset, data)

    def stop(progress):
        raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "join", impatient)
    plan = tc.open(wan).plan(tc.write(tmp_path / "o.safetensors"))
    with pytest.raises(KeyboardInterrupt):
        execute(plan, Slow(), workers=3, tile_bytes=1000, on_progress=stop)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("worker-")]


@pytest.mark.parametrize("allowed", [0, 1, 3])
def test_fewer_threads_than_asked_for(allowed, wan, tmp_path, monkeypatch):
    """As where the number of processes is limited: what can be started does all the work."""
    real, started = threading.Thread.start, []

    def start(self):
        if self.name.startswith("worker-"):
            if len(started) == allowed:
                raise RuntimeError("can't start new thread")
            started.append(self)
        real(self)

    monkeypatch.setattr(threading.Thread, "start", start)
    flow = tc.open(wan) | tc.quantize("int8")
    if allowed == 0:
        with pytest.raises(TranscodeError, match="no thread can be started"):
            flow | tc.write(tmp_path / "o.safetensors", workers=8)
        assert not list(tmp_path.iterdir())
        return
    flow | tc.write(tmp_path / "o.safetensors", workers=8)
    monkeypatch.undo()
    flow | tc.write(tmp_path / "all.safetensors", workers=8)
    assert len(started) == allowed
    assert (tmp_path / "o.safetensors").read_bytes() == (tmp_path / "all.safetensors").read_bytes()


@pytest.mark.parametrize(("tile", "tensors_ahead"), [(1 << 20, 17), (256, 2)], ids=["small", "large"])
def test_looks_are_ahead_of_what_is_encoded_by_a_tensor_or_some_tiles(
    tile, tensors_ahead, save, tmp_path, monkeypatch
):
    """So many workers may be at work without one that waits for another one's look."""
    seen, begun = {}, {}
    see, value = Observation.see, Observation.value

    def looking(self, start, stop, scratch):
        seen.setdefault(self, len(seen))
        see(self, start, stop, scratch)

    def encoding(self, scratch):
        begun.setdefault(self, len(seen))
        return value(self, scratch)

    monkeypatch.setattr(Observation, "see", looking)
    monkeypatch.setattr(Observation, "value", encoding)
    source = save({f"{i:02}.weight": torch.ones(64, 64) for i in range(40)})
    flow = tc.open(source) | tc.quantize("int8", granularity="tensor")
    plan = flow.plan(tc.write(tmp_path / "o.safetensors"))
    execute(plan, Recorder(), workers=1, tile_bytes=tile)
    assert len(seen) == 40
    for observation, number in seen.items():
        assert begun[observation] == min(number + tensors_ahead, 40)
