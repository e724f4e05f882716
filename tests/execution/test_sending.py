"""Outputs that are sent: each byte once, in the parts that were agreed on, with little in memory."""

from __future__ import annotations

import threading
from hashlib import sha256

import numpy as np
import pytest
from safetensors.numpy import save_file

import transcode as tc
from transcode.core.performance import Performance
from transcode.errors import PlanError, TranscodeError
from transcode.execution import sending
from transcode.execution.portions import order, waiting


class Kept:
    """A target in memory, which looks after how it is used."""

    def __init__(self, part, ordered, copies=1):
        self._part, self.ordered, self.copies = part, ordered, copies
        self.objects, self.placed, self.dropped = {}, [], []
        self.fails = None

    def part(self, size):
        return self._part or size

    def existing(self):
        return set(self.objects)

    def unfinished(self):
        return 0

    def begin(self, name, size):
        return _Object(self, name, size)

    def put(self, name, content):
        self.objects[name] = content
        self.placed.append(name)

    def commit(self):
        self.placed.append("commit")


class _Object:
    def __init__(self, target, name, size):
        self.target, self.name, self.size = target, name, size
        self.parts = {}
        self.lock = threading.Lock()

    def send(self, number, data):
        with self.lock:
            assert number not in self.parts
            assert not self.target.ordered or number == len(self.parts)
            if self.target.fails == number:
                raise TranscodeError("no room")
            self.parts[number] = bytes(data)

    def place(self):
        count = -(-self.size // self.target.part(self.size))
        assert sorted(self.parts) == list(range(count))
        assert {len(self.parts[n]) for n in range(count - 1)} <= {self.target.part(self.size)}
        self.target.put(self.name, b"".join(self.parts[n] for n in range(count)))

    def drop(self):
        self.target.dropped.append(self.name)


@pytest.fixture
def source(tmp_path):
    rng = np.random.default_rng(4)
    tensors = {}
    for block in range(12):
        for name in ("attn.q", "attn.k", "ffn"):
            tensors[f"blocks.{block}.{name}.weight"] = rng.standard_normal((64, 256)).astype(np.float16)
        tensors[f"blocks.{block}.norm.weight"] = rng.standard_normal(256).astype(np.float32)
    save_file(tensors, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


@pytest.fixture
def target(monkeypatch):
    def use(*how):
        kept = Kept(*how)
        monkeypatch.setattr(sending, "target", lambda url, folder: kept)
        return kept

    return use


FLOWS = {
    "kept": (lambda flow: flow, "x.safetensors"),
    "int8": (lambda flow: flow | tc.quantize("int8"), "x.safetensors"),
    "blocks": (lambda flow: flow | tc.quantize("nvfp4"), ""),
    "gguf": (lambda flow: flow, "x.gguf"),
}


@pytest.mark.parametrize("how", [(10_000, False), (10_000, True), (0, False), (1_000_000, True)])
@pytest.mark.parametrize("kind", FLOWS)
def test_the_bytes_are_those_of_a_local_run(kind, how, source, target, tmp_path):
    change, end = FLOWS[kind]
    more = {} if end else {"max_shard_size": 100_000}
    change(tc.open(source)) | tc.write(f"{tmp_path}/l/{end}", **more)
    kept = target(*how)
    change(tc.open(source)) | tc.write(f"memory://b/m/{end}", workers=3, tile=20_000, **more)
    here = {path.name: path.read_bytes() for path in (tmp_path / "l").iterdir()}
    assert kept.objects == here
    assert kept.placed[-1] == "commit"
    if not end:
        assert kept.placed[-2].endswith(".index.json")


@pytest.mark.parametrize("ordered", [False, True])
def test_little_is_in_memory(ordered, source, target, monkeypatch):
    """As much as was said while planning, and what workers have in hand."""
    kept = target(10_000, ordered)
    most = 0
    begin = sending.Sending._buffer

    def buffer(self, file, number):
        nonlocal most
        view = begin(self, file, number)
        most = max(most, sum(map(len, self._data.values())))
        return view

    monkeypatch.setattr(sending.Sending, "_buffer", buffer)
    report = tc.open(source) | tc.write("memory://b/x.safetensors", workers=1, tile=5_000)
    said = waiting(report.plan, kept)
    assert said <= 40_000
    assert most <= said + 30_000


def test_scales_before_codes_wait_where_the_order_counts(source, target):
    """All codes lie behind all scales, and come with them: where parts go in any order few are open."""
    plan = tc.write("memory://b/x.safetensors").plan(tc.open(source) | tc.quantize("int8"))
    size = plan.files[0].size
    assert waiting(plan, Kept(10_000, True)) > size / 2
    assert waiting(plan, Kept(10_000, False)) < 60_000
    assert waiting(plan, Kept(0, False, 2)) == 2 * size


def test_tensors_come_as_they_lie_in_the_output(source):
    flow = tc.open(source) | tc.rename([(r"blocks\.(\d+)\.(.*)", r"\2.\1")])
    plan = tc.write("memory://b/x.safetensors").plan(flow)
    begins = {place.tensor: place.begin for place in plan.files[0].places}
    assert [begins[number] for number in order(plan)] == sorted(begins.values())
    assert order(plan) != list(range(len(plan.tensors)))


def test_nothing_is_placed_of_a_run_that_fails(source, target):
    kept = target(10_000, False)
    kept.fails = 3
    with pytest.raises(TranscodeError, match="no room"):
        tc.open(source) | tc.write("memory://b/x.safetensors")
    assert (kept.objects, kept.placed, kept.dropped) == ({}, [], ["x.safetensors"])


@pytest.mark.parametrize("name", ["resume", "attest"])
def test_what_is_for_files_of_this_machine_is_refused(name, source, target):
    target(10_000, False)
    with pytest.raises(PlanError, match=f"{name}=True is for files of this machine; leave it out"):
        tc.open(source) | tc.write("memory://b/x.safetensors", **{name: True})


@pytest.mark.parametrize("how", [(10_000, False), (10_000, True), (0, False)])
@pytest.mark.parametrize("kind", ["int8", "blocks"])
def test_checksums_are_those_of_a_local_run(kind, how, source, target, tmp_path):
    change, end = FLOWS[kind]
    more = {"checksums": True} if end else {"max_shard_size": 100_000, "checksums": True}
    here = (change(tc.open(source)) | tc.write(f"{tmp_path}/l/{end}", **more)).checksums
    kept = target(*how)
    report = change(tc.open(source)) | tc.write(f"memory://b/m/{end}", workers=3, tile=20_000, **more)
    assert report.checksums == here
    assert kept.objects == {path.name: path.read_bytes() for path in (tmp_path / "l").iterdir()}
    for name, digest in report.checksums.files.items():
        assert sha256(kept.objects[name]).hexdigest() == digest


def test_checksums_of_what_was_there_are_not_left(source, target):
    kept = target(10_000, False)
    kept.objects = {"x.safetensors.sha256": b"old"}
    with pytest.raises(PlanError, match=r"memory://b/x.safetensors.sha256: tells of what was written here"):
        tc.open(source) | tc.write("memory://b/x.safetensors")
    with pytest.raises(PlanError, match="exists already"):
        tc.open(source) | tc.write("memory://b/x.safetensors", checksums=True)


def test_what_is_refused_before_anything_is_sent(source, target, monkeypatch):
    kept = target(10_000, True)
    kept.objects = {"other.safetensors": b""}
    flow = tc.open(source)
    with pytest.raises(PlanError, match=r"memory://b/m: holds other weights \(other.safetensors\)"):
        flow | tc.write("memory://b/m/")
    kept.objects = {"x.safetensors": b"old"}
    with pytest.raises(PlanError, match=r"memory://b/x.safetensors: exists already; pass force=True"):
        flow | tc.write("memory://b/x.safetensors")
    flow | tc.write("memory://b/x.safetensors", force=True)
    monkeypatch.setattr(sending, "MOST", 1000)
    with pytest.raises(PlanError, match="bytes are sent in their order; write smaller files"):
        flow | tc.write("memory://b/y.safetensors")
    for url in ("https://h/x.safetensors", "ftp://h/x.safetensors"):
        with pytest.raises(PlanError, match="is a URL"):
            flow | tc.write(url)


def test_performance_counts_as_ever(source, target):
    kept = target(10_000, False)
    plan = tc.write("memory://b/x.safetensors").plan(tc.open(source))
    from transcode.execution.carry import carry_out

    report = carry_out(plan, Performance(workers=2, measure=False))
    assert report.bytes_written == len(kept.objects["x.safetensors"])
