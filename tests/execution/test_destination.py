"""Output appears whole or not at all: refusals, full disks, broken sources, signals, kills, two runs."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import transcode as tc
from tests.cover import ring
from transcode.containers.safetensors.container import Safetensors
from transcode.errors import FormatError, PlanError, TranscodeError
from transcode.execution import staging
from transcode.io import system
from transcode.io.local import MappedFile

CHILD = """
import signal
# As at a terminal, even where the tests run in the background and inherit ignored signals.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
import os, sys, time
from transcode.execution import jobs
from transcode.cli import main

# After the first tiles none is done before the test opens the gate; each takes a while if it is a slow one.
write = jobs.Jobs._tiles
gate, begun = sys.argv.pop(1), []
def slowly(self, number, tensor):
    for job in write(self, number, tensor):
        def waiting(scratch, job=job):
            begun.append(job)
            while len(begun) > 8 and not os.path.exists(gate):
                open(gate + ".reached", "w").close()
                time.sleep(0.01)
            if "--slow" in gate:
                time.sleep(0.02)
            return job(scratch)
        yield waiting
jobs.Jobs._tiles = slowly
# It copies nothing by itself, so that every byte passes through a tile.
from transcode.execution import moves
moves.LEAST = 1 << 60
main(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def compiled(tmp_path_factory) -> None:
    """The kernels are in the cache of the disk: a child that still compiles hears of a signal late."""
    folder = tmp_path_factory.mktemp("compiled")
    save_file({"blocks.0.ffn.weight": torch.ones(4, 64)}, folder / "m.safetensors")
    tc.open(folder / "m.safetensors") | tc.quantize("int8") | tc.write(folder / "o.safetensors")


class Child(subprocess.Popen[str]):
    """A run that waits for a file."""

    gate: Path

    def end(self) -> str:
        """Let it go on to its end; returns what it said."""
        self.gate.touch()
        return self.communicate(timeout=60)[1]


@pytest.fixture
def slow(tmp_path, tmp_path_factory, compiled):
    """Begin a run in a process of its own; returns when some is written. It goes on at its ``end``.

    With ``after="--slow"`` what is left then takes some seconds.
    """
    begun: list[Child] = []

    def start(source: Path, out: Path, *args: str, after: str = "") -> Child:
        gate = tmp_path_factory.mktemp("gate") / f"open{after}"
        child = Child(
            [sys.executable, "-c", CHILD, str(gate), "run", str(source), str(out), "-w2",
             "--tile", "64KiB", *args],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        child.gate = gate
        begun.append(child)
        limit = time.monotonic() + 60
        while not gate.with_name(f"{gate.name}.reached").exists():
            assert child.poll() is None, child.communicate()
            assert time.monotonic() < limit
            time.sleep(0.01)
        return child

    yield start
    for child in begun:
        if child.poll() is None:
            child.kill()
            child.communicate()


@pytest.fixture
def big(save) -> Path:
    """Enough for some seconds at 20 ms for each tile of 64 KiB."""
    draw = torch.Generator().manual_seed(0)
    return save(
        {f"blocks.{i}.ffn.weight": torch.randn(1024, 1024, generator=draw) for i in range(6)},
        "src/model.safetensors",
    )


def tree(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize(
    ("number", "name"),
    ring(
        [signal.SIGINT, signal.SIGTERM, signal.SIGHUP],
        ["out.safetensors", "deep/down/out", "there"],
    ),
)
def test_an_interrupted_run_leaves_nothing(number, name, big, slow, tmp_path):
    """Each signal and each kind of destination once; all pairs with ``--all``."""
    (tmp_path / "there").mkdir()
    before = tree(tmp_path)
    child = slow(big, tmp_path / name, "--scheme", "int8", after="--slow")
    child.send_signal(number)
    err = child.end()
    assert child.returncode == 130
    assert "interrupted" in err
    assert "Traceback" not in err
    assert tree(tmp_path) == before


def test_an_interrupt_that_got_lost_is_repeated(big, tmp_path):
    """The compiler of kernels calls back from C, where exceptions are forgotten."""
    script = """
import ctypes, os, signal, sys
from transcode.core.scheme import Scheme
from transcode.schemes.int8 import Int8
from transcode.cli import main

def prepare(self, dtype):
    ctypes.CFUNCTYPE(None)(lambda: os.kill(os.getpid(), signal.SIGTERM))()
    print("lost", flush=True)

Int8.prepare = prepare
main(sys.argv[1:])
"""
    done = subprocess.run(
        [sys.executable, "-c", script, "run", str(big), str(tmp_path / "o.safetensors"), "-sint8", "-q"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout == "lost\n"
    assert "Exception ignored" not in done.stderr
    assert done.returncode == 130
    assert tree(tmp_path) == ["src", "src/model.safetensors"]


@pytest.mark.parametrize("name", ["out.safetensors", "out", "there"])
def test_a_killed_run_leaves_no_output_and_the_next_one_cleans_up(name, big, slow, tmp_path, cli, digests):
    (tmp_path / "there").mkdir()
    cli("run", big, tmp_path / "whole", "--scheme", "int8", "--max-tensors", "4")
    cli("run", big, tmp_path / "whole.safetensors", "--scheme", "int8")
    out = tmp_path / name
    flags = [] if name.endswith(".safetensors") else ["--max-tensors", "4"]
    child = slow(big, out, "--scheme", "int8", *flags)
    child.kill()
    child.communicate()
    assert name == "there" or not out.exists()
    assert not list(out.glob("*.safetensors"))
    assert list(tmp_path.rglob("*.transcode-part"))
    cli("run", big, out, "--scheme", "int8", *flags)
    assert digests(out) == digests(tmp_path / ("whole.safetensors" if not flags else "whole"))
    assert not list(tmp_path.rglob("*.transcode-part"))


@pytest.mark.parametrize("name", ["out.safetensors", "out"])
def test_two_runs_to_one_destination(name, big, slow, tmp_path, refused):
    child = slow(big, tmp_path / name)
    assert "another run" in refused("run", big, tmp_path / name)
    child.end()
    assert child.returncode == 0
    assert "exists already" in refused("run", big, tmp_path / name) or name == "out"
    found = tmp_path / name if name != "out" else next((tmp_path / name).glob("*.safetensors"))
    assert load_file(found).keys() == load_file(big).keys()


def test_what_appears_during_a_run_is_not_replaced(big, slow, tmp_path):
    out = tmp_path / "out.safetensors"
    child = slow(big, out)
    out.write_text("precious")
    err = child.end()
    assert child.returncode == 2
    assert "has appeared" in err
    assert out.read_text() == "precious"
    assert tree(tmp_path) == sorted(["out.safetensors", "src", "src/model.safetensors"])


@pytest.mark.parametrize("how", ["truncate", "overwrite", "replace", "remove"])
def test_a_source_that_changes_while_it_is_read(how, big, slow, tmp_path):
    out = tmp_path / "out.safetensors"
    # without a map, as touching a map beyond the end of a file kills a process
    child = slow(big, out, "--no-mmap")
    if how == "truncate":
        os.truncate(big, big.stat().st_size // 2)
    elif how == "overwrite":
        with big.open("r+b") as file:
            file.seek(-100, os.SEEK_END)
            file.write(b"x" * 100)
    elif how == "replace":
        shutil.copy(big, tmp_path / "other")
        os.replace(tmp_path / "other", big)
    else:
        big.unlink()
    err = child.end()
    assert child.returncode == 2
    assert str(big) in err
    assert "Traceback" not in err
    assert not out.exists()
    assert not list(tmp_path.glob(".*transcode-part"))


@pytest.mark.parametrize("mmap", [True, False])
def test_a_source_cut_after_it_was_opened(mmap, big, tmp_path):
    flow = tc.open(big, mmap=mmap) | tc.quantize("int8")
    os.truncate(big, big.stat().st_size // 2)
    with pytest.raises(FormatError, match=r"model\.safetensors"):
        flow | tc.write(tmp_path / "out.safetensors")
    assert tree(tmp_path) == ["src", "src/model.safetensors"]


def test_existing_targets(wan, tmp_path, cli, refused, digests):
    out = tmp_path / "o.safetensors"
    out.write_text("old")
    assert "--force" in refused("run", wan, out)
    assert "--force" in refused("run", wan, out, "--dry-run")
    assert out.read_text() == "old"
    cli("run", wan, out, "--force")
    load_file(out)
    folder = tmp_path / "o"
    cli("run", wan, folder, "--layout", "by_block")
    before = digests(folder)
    assert "--force" in refused("run", wan, folder, "--layout", "by_block")
    for more in (["--no-copy-metadata"], ["--force"], ["--force", "--name", "x"]):
        assert "other weights" in refused("run", wan, folder, "--layout", "single_file", *more)
    assert digests(folder) == before
    cli("run", wan, folder, "--layout", "by_block", "--force")
    assert digests(folder) == before


def test_a_folder_of_other_things_is_fine_but_not_its_namesakes(wan, tmp_path, cli, refused):
    folder = tmp_path / "o"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    cli("run", wan, folder)
    assert (folder / "notes.txt").read_text() == "mine"
    other = tmp_path / "p"
    other.mkdir()
    (other / "config.json").write_text("mine")
    assert "config.json" in refused("run", wan, other)
    assert (other / "config.json").read_text() == "mine"
    cli("run", wan, other, "--no-copy-metadata")
    assert (other / "config.json").read_text() == "mine"


def test_the_source_is_never_overwritten(wan, tmp_path, refused, digests):
    folder = tmp_path / "src"
    shutil.copytree(wan, folder)
    before = digests(folder)
    shard = next(folder.glob("*-00001-*"))
    link = tmp_path / "link.safetensors"
    link.symlink_to(shard)
    for target in (shard, link, tmp_path / "src" / ".." / "src" / shard.name):
        assert "source" in refused("run", folder, target, "--force")
        assert "source" in refused("run", shard, target, "--force")
    refused("run", folder, folder, "--force", "--convention", "plain", "--max-shard-size", "240kB")
    refused("run", folder, folder, "--force", "--layout", "by_block")
    assert digests(folder) == before


def test_wrong_kinds_of_destination(wan, tmp_path, refused):
    (tmp_path / "dir.safetensors").mkdir()
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to("nowhere")
    for extra in ([], ["--dry-run"]):
        assert "is a folder" in refused("run", wan, tmp_path / "dir.safetensors", *extra)
        assert "is a file" in refused("run", wan, tmp_path / "file", *extra)
        assert "is a file" in refused("run", wan, tmp_path / "file" / "below.safetensors", *extra)
        assert "is a file" in refused("run", wan, tmp_path / "file" / "below" / "that", *extra)
        assert "is a link to nowhere" in refused("run", wan, tmp_path / "link", *extra)
        assert refused("run", wan, "", *extra)
    assert tree(tmp_path) == ["dir.safetensors", "file", "link"]


def test_links_as_destinations(wan, tmp_path, cli, digests):
    """A folder is written to through its link; a file takes the name, and what the link named stays."""
    (tmp_path / "real").mkdir()
    (tmp_path / "linked").symlink_to("real")
    cli("run", wan, tmp_path / "linked", "-q")
    cli("run", wan, tmp_path / "direct", "-q")
    assert (tmp_path / "linked").is_symlink()
    assert digests(tmp_path / "real") == digests(tmp_path / "direct")
    (tmp_path / "old").write_text("old")
    (tmp_path / "new.safetensors").symlink_to("old")
    cli("run", wan, tmp_path / "new.safetensors", "-q", "--force")
    assert not (tmp_path / "new.safetensors").is_symlink()
    assert (tmp_path / "old").read_text() == "old"


def test_side_files_are_copied_before_any_tensor(wan, tmp_path, monkeypatch):
    """One that cannot be read ends the run at its beginning, not after hours."""
    read: list[str] = []
    monkeypatch.setattr(MappedFile, "bytes", lambda self, *_: read.append(str(self.path)))

    def broken(*_):
        raise OSError(13, "Permission denied", "config.json")

    monkeypatch.setattr(staging.shutil, "copyfileobj", broken)
    with pytest.raises(TranscodeError, match=r"config\.json: Permission denied"):
        tc.open(wan) | tc.write(tmp_path / "o")
    assert not read
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="needs a user to become")
def test_an_unwritable_folder(wan, tmp_path):
    """Root may write anywhere, so a child becomes nobody first."""
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o555)
    for part in [tmp_path, *tmp_path.parents]:
        if part.stat().st_mode & 0o055 == 0o055:
            break
        part.chmod(part.stat().st_mode | 0o055)
    source = tmp_path / "src.safetensors"
    tc.open(wan) | tc.write(source)
    script = """
import os, sys
from transcode.cli import main

try:
    main([*sys.argv[1:3], sys.argv[2] + "-warm/", "-q"])  # imports what nobody may not read
except SystemExit as done:
    assert done.code == 0
os.setuid(65534)
main(sys.argv[1:])
"""
    for name, *extra in (["out.safetensors"], ["out"], ["out", "--dry-run"], ["a/b", "-n"]):
        done = subprocess.run(
            [sys.executable, "-c", script, "run", str(source), str(folder / name), *extra],
            capture_output=True, text=True, check=False, env={**os.environ, "HOME": str(tmp_path)},
        )  # fmt: skip
        assert done.returncode == 2, done.stderr
        assert "Permission denied" in done.stderr
        assert str(folder) in done.stderr
        assert "Traceback" not in done.stderr
        shutil.rmtree(f"{source}-warm")
    assert not list(folder.iterdir())


def test_too_little_space_is_told_before_a_byte_is_written(wan, tmp_path, refused, monkeypatch):
    monkeypatch.setattr(system, "free_space", lambda folder: 1000)
    for extra in ([], ["--dry-run"]):
        message = refused("run", wan, tmp_path / "deep" / "o.safetensors", *extra)
        assert "1000 left" in message
    assert not list(tmp_path.iterdir())


def test_a_disk_that_fills_up_between_the_question_and_the_writing(wan, tmp_path, refused):
    """A limit on the size of files is the disk's answer that can be had everywhere."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
        message = refused("run", wan, tmp_path / "deep" / "o.safetensors")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, old)
    assert "large" in message
    assert not list(tmp_path.iterdir())


def test_a_real_small_disk(wan, tmp_path, refused, cli):
    mount = tmp_path / "disk"
    mount.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=300k", "none", str(mount)], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip("may not mount a file system here")
    try:
        message = refused("run", wan, mount / "o.safetensors")
        assert "left" in message
        assert "needs" in message
        assert not list(mount.iterdir())
        cli("run", wan, mount / "o.safetensors", "--keep", "head")
    finally:
        subprocess.run(["umount", str(mount)], check=True)


def test_reserve_tells_of_a_full_disk(tmp_path, monkeypatch):
    with (tmp_path / "f").open("wb") as file, pytest.raises((PlanError, OSError)):
        system.reserve(file.fileno(), 1 << 62, tmp_path / "f")


def test_an_error_while_writing_names_the_file_and_leaves_nothing(wan, tmp_path, monkeypatch):
    def broken(fd, data, offset):
        if offset > 100_000:
            raise OSError(5, "Input/output error")
        return os.pwrite(fd, data, offset)

    monkeypatch.setattr(system, "_pwrite", broken)
    with pytest.raises(TranscodeError, match=r"o\.safetensors: .*Input/output error"):
        tc.open(wan) | tc.write(tmp_path / "o.safetensors")
    assert not list(tmp_path.iterdir())


def test_an_error_while_committing_leaves_nothing(wan, tmp_path, monkeypatch):
    def broken(fd):
        raise OSError(28, "No space left on device")

    for name in ("o.safetensors", "o"):
        monkeypatch.setattr(os, "fsync", broken)
        with pytest.raises(TranscodeError, match="No space left"):
            tc.open(wan) | tc.write(tmp_path / name)
        assert not list(tmp_path.iterdir())
        monkeypatch.undo()
    monkeypatch.setattr(staging.shutil, "copyfileobj", lambda *a, **k: broken(0))
    with pytest.raises(TranscodeError, match="No space left"):
        tc.open(wan) | tc.write(tmp_path / "o")
    assert not list(tmp_path.iterdir())


def test_many_files_with_few_descriptors(save, tmp_path):
    tensors = {f"blocks.{i}.w.weight": torch.full((8, 8), float(i)) for i in range(150)}
    tc.open(save(tensors)) | tc.write(tmp_path / "o", max_tensors=1, workers=8)
    files = sorted((tmp_path / "o").glob("*.safetensors"))
    assert len(files) == 150
    found = {name: value for file in files for name, value in load_file(file).items()}
    assert all(torch.equal(found[name], value) for name, value in tensors.items())


def test_threads_of_one_process_exclude_each_other(big, tmp_path):
    results: list[object] = []

    def attempt() -> None:
        try:
            results.append(tc.open(big) | tc.write(tmp_path / "o.safetensors", workers=1))
        except TranscodeError as error:
            results.append(error)

    threads = [threading.Thread(target=attempt, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    errors = [one for one in results if isinstance(one, TranscodeError)]
    assert len(results) == 4
    assert len(errors) == 3
    assert load_file(tmp_path / "o.safetensors").keys() == load_file(big).keys()
    assert tree(tmp_path) == ["o.safetensors", "src", "src/model.safetensors"]


def test_a_format_may_end_in_a_tail(wan, tmp_path, monkeypatch):
    """A directory behind the data, say: planned with the rest, and written where the data ends."""
    tc.open(wan) | tc.write(tmp_path / "plain.safetensors")
    lay_out = Safetensors.lay_out
    tail = bytes(range(200))
    monkeypatch.setattr(
        Safetensors, "lay_out", lambda *args, **more: replace(lay_out(*args, **more), tail=tail)
    )
    flow = tc.open(wan)
    planned = flow.plan(tc.write(tmp_path / "o.safetensors"))
    flow | tc.write(tmp_path / "o.safetensors")
    raw = (tmp_path / "o.safetensors").read_bytes()
    assert raw == (tmp_path / "plain.safetensors").read_bytes() + tail
    assert planned.file_bytes == len(raw)
