"""The order in which a run makes its output durable and gives it its name; killed anywhere, it leaves old or new."""

# ruff: noqa: E501

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import transcode as tc
from transcode.io import system

ROOT = Path(__file__).parents[2]
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")

Log = list[tuple[str, str, str]]


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Log:
    """What happens to the disk, in order: (write | sync, path, "") and (rename, from, to)."""
    noted: Log = []
    fsync, pwrite, replace = os.fsync, system._pwrite, os.replace

    def name(fd: int) -> str:
        return os.readlink(f"/proc/self/fd/{fd}")

    def note(*entry: str) -> None:
        noted.append(entry)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "fsync", lambda fd: (note("sync", name(fd), ""), fsync(fd))[1])
    monkeypatch.setattr(
        system, "_pwrite", lambda fd, d, o: (note("write", name(fd), ""), pwrite(fd, d, o))[1]
    )

    def moved(a: str, b: str, src_dir_fd: int, dst_dir_fd: int) -> None:
        note("rename", f"{name(src_dir_fd)}/{a}", f"{name(dst_dir_fd)}/{b}")
        replace(a, b, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)

    monkeypatch.setattr(os, "replace", moved)
    return noted


def at(log: Log, what: str, path: str) -> list[int]:
    return [number for number, entry in enumerate(log) if entry[0] == what and path in entry[1:]]


@linux
@pytest.mark.parametrize("drop_cache", [False, True])
@pytest.mark.parametrize("way", ["file", "fresh", "there"])
def test_order_on_disk(way: str, drop_cache: bool, wan: Path, tmp_path: Path, log: Log) -> None:
    """For power cuts: all bytes are durable before any name is given, and names before the run says it is done."""
    target = tmp_path / ("out.safetensors" if way == "file" else "out")
    options = {} if way == "file" else {"max_tensors": 40, "convention": "plain"}
    if way != "fresh":
        tc.open(wan) | tc.write(target, **options)
    log.clear()
    report = tc.open(wan) | tc.write(target, force=True, drop_cache=drop_cache, **options)
    weights = [file.name for file in report.plan.files]
    side = [file.name for file in report.plan.side_files]
    names = weights + side
    if way != "file":
        assert len(weights) == 3
        assert side == ["config.json", "diffusion_pytorch_model.safetensors.index.json"]

    if way == "there":  # what will be renamed is written down first, and durable before the first rename
        (decided,) = (
            n for n, entry in enumerate(log) if entry[0] == "rename" and entry[2].endswith("/commit")
        )
        hidden = os.path.dirname(log[decided][2])
        first = next(n for n, entry in enumerate(log) if entry[0] == "rename" and n > decided)
        assert any(decided < number < first for number in at(log, "sync", hidden))
        assert at(log, "sync", f"{hidden}/commit-draft")[0] < decided
        log[decided] = ("decide", "", "")
    renames = [number for number, entry in enumerate(log) if entry[0] == "rename"]
    staged = {entry[1] for number, entry in enumerate(log) if number in renames}
    if way == "fresh":
        assert len(renames) == 1
        (folder,) = staged
        assert log[renames[0]][2] == str(target)
        # The folder's own list of names is durable before the folder is moved.
        assert any(number < renames[0] for number in at(log, "sync", folder))
        paths = {name: f"{folder}/{name}" for name in names}
    else:
        assert [os.path.basename(entry[2]) for entry in log if entry[0] == "rename"] == [
            os.path.basename(entry[1]) if way == "there" else target.name
            for entry in log
            if entry[0] == "rename"
        ]
        order = [os.path.basename(log[number][1]) for number in renames]
        assert sorted(order) == sorted(names)
        if way == "there":
            # Who opens the folder in between trusts the index: it must not name what is not there yet.
            assert order[-1].endswith(".index.json")
        paths = {os.path.basename(path): path for path in staged}
    for name in names:
        path = paths[name]
        syncs = at(log, "sync", path)
        assert syncs, f"{name} is never synced"
        written = at(log, "write", path)
        if name in weights:
            assert written
            assert max(written) < max(syncs), f"{name} is written after it was synced"
        assert max(syncs) < min(renames), f"{name} gets its name before its bytes are durable"
    parent = str(target if way == "there" else tmp_path)
    assert any(number > max(renames) for number in at(log, "sync", parent)), "the new names are not durable"
    assert max(number for number, entry in enumerate(log) if entry[0] == "write") < min(renames)


@linux
@pytest.mark.parametrize("way", ["file", "fresh", "there"])
def test_killed_before_every_call(way: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("killing_sink.py")), str(tmp_path), way],
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tools'}"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    # The kills hit the run before, during and after, or this has proven nothing.
    assert found["calls"] > 20
    assert found["old"] > 10
    assert found["new"] >= 3
    assert found["remnants"] > 10
    if way == "there":
        assert found["between"] >= 4
