"""All that the program does, without what Linux alone has, and under the rules of Windows; see windows.py."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

import transcode as tc
from transcode.errors import FormatError, PlanError
from transcode.io import names, system
from transcode.io.commit import Record
from transcode.io.lock import Busy, locked
from transcode.plan.location import refuse_destination

SCRIPT = Path(__file__).with_name("windows.py")


def without(platform: str, folder: Path, *lines: str) -> str:
    """Several commands in one process without what a platform lacks; each must end with 0."""
    program = folder / "commands.py"
    program.write_text(
        "from transcode.cli import main\n"
        f"for line in {[line.split() for line in lines]!r}:\n"
        "    try:\n        main(line)\n"
        "    except SystemExit as done:\n        assert done.code == 0, line\n"
    )
    done = subprocess.run(
        [sys.executable, str(SCRIPT), platform, str(program)],
        cwd=folder, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    program.unlink()
    return done.stdout


@pytest.mark.parametrize("platform", ["windows", "darwin"])
def test_runs_and_edits(platform, wan, tmp_path, digests):
    (tmp_path / "long").write_text("x" * 50_000)
    # Here first, as the compiler of the kernels is another's program, with calls of its own.
    tc.open(wan) | tc.quantize("int8") | tc.write(tmp_path / "here.safetensors")
    told = without(
        platform, tmp_path,
        f"run {wan} int8.safetensors --scheme int8 -q",
        f"run {wan} folder --layout by_block -q",
        f"run {wan} folder --layout by_block -q --force",
        "meta set int8.safetensors a=b",
        "meta set int8.safetensors long=@long",
        "meta set int8.safetensors a=c --backup full",
        "meta restore int8.safetensors --full",
        "meta get int8.safetensors a",
    )  # fmt: skip
    assert "header overwritten in place" in told
    assert "copied to a new file with a longer header" in told
    assert told.endswith("a: b\n")
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {
        "here.safetensors",
        "int8.safetensors",
        "int8.safetensors.header-backup",
        "folder",
        "long",
    }
    assert not [path for path in (tmp_path / "folder").iterdir() if path.name.startswith(".")]
    # The same bytes as here.
    tc.open(wan) | tc.write(tmp_path / "here", layout="by_block")
    assert digests(tmp_path / "folder") == digests(tmp_path / "here")
    with (
        open(tmp_path / "here.safetensors", "rb") as here,
        open(tmp_path / "int8.safetensors", "rb") as there,
    ):
        for file in (here, there):
            file.seek(8 + int.from_bytes(file.read(8), "little"))
        assert here.read() == there.read()


@pytest.fixture
def windows(monkeypatch):
    """Locks and names as Windows has them; the calls of the lock."""
    monkeypatch.setattr(system, "WINDOWS", True)
    calls: list[int] = []

    def locking(fd, mode, nbytes):
        calls.append(mode)
        try:
            fcntl.flock(fd, fcntl.LOCK_UN if mode == 0 else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PermissionError(13, "Permission denied") from None

    module = types.SimpleNamespace(LK_NBLCK=2, LK_UNLCK=0, locking=locking)
    monkeypatch.setitem(sys.modules, "msvcrt", module)
    return calls


def test_an_editor_locks_a_file_beside_which_goes_with_it(windows, tmp_path):
    path = tmp_path / "m.safetensors"
    path.write_bytes(b"x")
    beside = tmp_path / ".m.safetensors.transcode-lock"
    with locked(str(path), wait=0) as fd:
        assert beside.exists()
        assert os.path.samestat(os.fstat(fd), os.stat(path))
        assert windows == [2]
        with pytest.raises(Busy), locked(str(path), wait=0):
            pass
    assert windows[-1] == 0
    assert not beside.exists()
    with pytest.raises(FileNotFoundError), locked(str(tmp_path / "none"), wait=0):
        pass
    assert os.listdir(tmp_path) == ["m.safetensors"]


def test_what_is_open_is_closed_before_it_is_replaced(windows, tmp_path, monkeypatch):
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_text("old")
    new.write_text("new")
    fd = os.open(old, os.O_RDWR)
    real = os.replace

    def replace(source, target):
        assert os.readlink(f"/proc/self/fd/{fd}") == os.devnull
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    system.replace(str(new), str(old), fd)
    assert os.read(fd, 9) == b"new"
    with pytest.raises(FileNotFoundError):
        system.replace(str(new), str(old), fd)
    assert os.read(fd, 9) == b"new"  # again from its beginning
    os.close(fd)


@pytest.mark.parametrize(
    "name",
    ["a:b", "CON", "con.safetensors", "Nul.tar.gz", "LPT1", "com\u00b9.x", "a.", "a ", "a?b", "a\\b", "a\tb"],
)
def test_names_that_windows_takes_for_something_else(name, windows, monkeypatch):
    assert names.refused(name) is not None
    with pytest.raises(PlanError, match="choose another name"):
        refuse_destination(name)
    record = Record((name,), {name: None})
    assert Record.unpack(record.pack()) is None
    monkeypatch.setattr(system, "WINDOWS", False)
    assert names.refused(name) is None
    assert Record.unpack(record.pack()) == record


@pytest.mark.parametrize(
    "name", ["Wan2.1", "model-v1.5", "flux.1-dev", "console", "a.con", "COM", "com10", "m.safetensors"]
)
def test_usual_names(name, windows):
    assert names.refused(name) is None


def test_an_index_leads_to_no_other_drive(windows, tmp_path):
    (tmp_path / "m.safetensors.index.json").write_text('{"weight_map": {"a": "C:m.safetensors"}}')
    with pytest.raises(FormatError, match="not a file of this folder"):
        tc.open(tmp_path)


def test_the_cache_of_the_disk_is_emptied_on_macos(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(fcntl, "F_FULLFSYNC", 51, raising=False)
    monkeypatch.setattr(fcntl, "fcntl", lambda fd, what: calls.append(what))
    monkeypatch.setattr(os, "fsync", lambda fd: calls.append("fsync"))
    system.sync(0)
    assert calls == [51]

    def refuse(fd, what):
        raise OSError(45, "Operation not supported")

    monkeypatch.setattr(fcntl, "fcntl", refuse)
    system.sync(0)
    assert calls == [51, "fsync"]
