"""A plan on a Ray cluster of this machine: the same bytes, whoever is lost meanwhile. Needs Ray itself."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import transcode as tc
from transcode.errors import DataError, PlanError, RecipeError
from transcode.execution import cluster

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="pip install ray")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    draw = torch.Generator().manual_seed(0)
    tensors = {
        f"blocks.{block}.{name}.weight": torch.randn(512, 1024, generator=draw).bfloat16()
        for block in range(12)
        for name in ("ffn.0", "attn.q", "attn.k")
    }
    save_file(tensors, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


@pytest.fixture(scope="module")
def two():
    """A cluster of two processors."""
    import ray

    ray.init(address="local", num_cpus=2, log_to_driver=False, logging_level="ERROR", include_dashboard=False)
    yield
    ray.shutdown()


def processes(name: str) -> list[int]:
    """Ids of the processes of our cluster that are called so, by their parents up to this process."""
    parents, named = {}, []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                if (entry / "cmdline").read_bytes().startswith(name.encode()):
                    named.append(int(entry.name))
            except OSError:
                continue

    def is_ours(pid: int) -> bool:
        while pid in parents:
            if pid == os.getpid():
                return True
            pid = parents[pid]
        return False

    return [pid for pid in named if is_ours(pid)]


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


SCHEMES = {
    "int8": {},
    "nvfp4": {"share_scale": [["attn.q", "attn.k"]]},
    "fp8": {"granularity": "tensor"},
}


@needs_ray
@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_same_bytes(scheme, source, tmp_path, two):
    flow = tc.open(source) | tc.quantize(scheme, include=["blocks.*"], **SCHEMES[scheme])
    flow | tc.write(tmp_path / "right.safetensors", convention="neutral", measure=True)
    seen = []
    out = tmp_path / "o.safetensors"
    report = flow | tc.write(
        out, convention="neutral", cluster="ray", workers=1, measure=True, on_progress=seen.append
    )
    assert out.read_bytes() == (tmp_path / "right.safetensors").read_bytes()
    assert report.losses().keys() == {tensor.name for tensor in report.plan.tensors}
    done = [now.done for now in seen if now.stage == "convert"]
    assert done == sorted(done)
    assert done[-1] == seen[-1].total or seen[-1].stage == "sync"
    assert not left(tmp_path)


@needs_ray
def test_a_process_that_is_killed_is_made_up_for(source, tmp_path, two, monkeypatch):
    flow = tc.open(source) | tc.quantize("int8", include=["blocks.*"])
    out, lost = tmp_path / "o.safetensors", []
    monkeypatch.setattr(cluster, "_EACH", 2)
    real = cluster.work_out
    monkeypatch.setattr(cluster, "work_out", lambda *given: lost.append(real(*given)))
    killed = []

    def kill() -> None:
        while len(killed) < 2:
            if list(tmp_path.glob(".o.safetensors.transcode-parts/*.journal")):
                for pid in processes("ray::_do")[:1]:
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)
            time.sleep(0.3)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    flow | tc.write(out, convention="neutral", cluster="ray", workers=1, max_read_rate="4MB")
    thread.join(1)
    assert killed
    assert lost
    assert lost[0] >= 1
    flow | tc.write(tmp_path / "right.safetensors", convention="neutral")
    assert out.read_bytes() == (tmp_path / "right.safetensors").read_bytes()
    assert not left(tmp_path)


@needs_ray
def test_the_error_of_a_part_is_the_callers(tmp_path, two):
    tensors = {f"blocks.{number}.w.weight": torch.ones(512, 512) for number in range(40)}
    tensors["blocks.7.w.weight"][3, 5] = float("inf")
    save_file(tensors, tmp_path / "bad.safetensors")
    flow = tc.open(tmp_path / "bad.safetensors") | tc.quantize("int8", include=["blocks.*"])
    with pytest.raises(DataError, match=r"blocks\.7\.w\.weight: inf at row 3, column 5"):
        flow | tc.write(tmp_path / "o.safetensors", convention="neutral", cluster="ray", workers=1)
    assert not left(tmp_path)
    assert not (tmp_path / "o.safetensors").exists()


@needs_ray
@pytest.mark.parametrize("resume", [False, True])
def test_ctrl_c(resume, source, tmp_path):
    """In a process of its own, with a cluster of its own, as at a terminal."""
    words = ["run", str(source), str(tmp_path / "o.safetensors"), "--scheme", "int8", "--include", "blocks.*"]
    words += ["--cluster", "ray", "-w", "1", "--max-read-rate", "1MB", *(["--resume"] if resume else [])]
    child = subprocess.Popen(
        [sys.executable, "-m", "transcode", *words], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob(".o.safetensors.transcode-parts/*.journal")):
        assert time.monotonic() < deadline
        assert child.poll() is None, child.communicate()[1]
        time.sleep(0.2)
    child.send_signal(signal.SIGINT)
    _, said = child.communicate(timeout=90)
    assert child.returncode == 130, said
    assert ("what is done is kept" in said) is resume, said
    assert bool(left(tmp_path)) is resume
    assert not (tmp_path / "o.safetensors").exists()


def test_without_ray_its_install_line_is_told(source, tmp_path, monkeypatch, refused):
    monkeypatch.setattr(cluster, "find_spec", lambda _: None)
    said = refused("run", source, tmp_path / "o.safetensors", "--cluster", "ray")
    assert said.endswith("cluster: Ray is not installed; pip install 'tensor-transcode[ray]'")
    with pytest.raises(RecipeError, match="'dask' is no cluster"):
        tc.write("o", cluster="dask")
    with pytest.raises(RecipeError, match="a part is done here"):
        tc.write("o", cluster="ray", part="1/2")
    monkeypatch.undo()


class Client:
    """Ray, as far as it connects: what comes of each attempt."""

    def __init__(self, *comes):
        self.comes, self.asked = list(comes), []

    def init(self, address, **how):
        self.asked.append(address)
        if (what := self.comes.pop(0)) is not None:
            if callable(what):
                what()
            else:
                raise what


LOST, OTHER = ConnectionError("Initialization failure from server:\nTraceback"), ConnectionError("timeout")


@pytest.mark.parametrize(
    ("comes", "attempts", "error"),
    [((None,), 1, None), ((LOST, LOST, None), 3, None), ((LOST,) * 3, 3, LOST), ((OTHER,), 1, OTHER)],
)
def test_a_process_that_dies_before_it_serves_is_asked_for_again(comes, attempts, error):
    client = Client(*comes)
    with nullcontext() if error is None else pytest.raises(ConnectionError) as raised:
        cluster._connect(client, "ray://h:1")
    assert error is None or raised.value is error
    assert client.asked == ["ray://h:1"] * attempts


def test_who_does_not_come_back_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(cluster, "_PATIENCE", 0.05)
    ended = threading.Event()
    with pytest.raises(ConnectionError, match=r"no answer in 0 s, see ray_client_server.err"):
        cluster._connect(Client(ended.wait), "ray://h:1")
    ended.set()


@needs_ray
def test_a_cluster_that_is_not_there(source, tmp_path):
    if importlib.util.find_spec("grpc") is None:
        pytest.skip("pip install 'ray[client]'")
    with pytest.raises(PlanError, match="cannot be reached"):
        tc.open(source) | tc.write(tmp_path / "o.safetensors", cluster="ray://127.0.0.1:1")
