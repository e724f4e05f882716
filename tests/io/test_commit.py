"""Several files take their places as one: whoever is killed, told to stop or refused among the renames."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import transcode as tc
from transcode.errors import Interrupted, PlanError, TranscodeError
from transcode.execution import staging
from transcode.io import commit, system
from transcode.io.directory import Directory, claim

ROOT = Path(__file__).parents[2]
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ptrace(2) is Linux's")
NAMES = [f"blocks.{number}.weight" for number in range(4)]


def trials(folder: Path, mode: str) -> dict[str, int]:
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("committing.py")), str(folder), mode],
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tools'}"},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, int] = json.loads(done.stdout)
    return found


@linux
@pytest.mark.parametrize("mode", ["calls", "errors"])
def test_a_commit_cut_short_at_every_call_is_all_old_or_all_new(tmp_path: Path, mode: str) -> None:
    found = trials(tmp_path, mode)
    # It was cut before, among and after the renames, or this has proven nothing.
    assert found["trials"] > 50
    assert found["old"] > 10
    assert found["new"] > 10
    assert found["no index for a loader that knows nothing of us"] >= 5


@pytest.fixture
def source(tmp_path):
    def make(value: int) -> Path:
        folder = tmp_path / f"source-{value}"
        folder.mkdir(exist_ok=True)
        save_file({name: torch.full((8, 8), float(value)) for name in NAMES}, folder / "model.safetensors")
        (folder / "config.json").write_text(f'{{"value": {value}}}')
        return folder

    return make


def write(source: Path, out: Path) -> None:
    tc.open(source) | tc.write(out, max_tensors=1, force=True, workers=1)


def values(out: Path) -> list[float]:
    return [
        float(value.max()) for file in sorted(out.glob("*.safetensors")) for value in load_file(file).values()
    ]


def cut_short(source: Path, out: Path, monkeypatch: pytest.MonkeyPatch, after: int = 2) -> None:
    """Leave ``out`` as a process that is killed after some of the renames leaves it."""

    class Killed(BaseException):
        pass

    left = [after + 1]  # the record's own rename comes first
    real = os.replace

    def replace(*args: object, **rest: object) -> None:
        if left[0] == 0:
            raise Killed
        left[0] -= 1
        real(*args, **rest)

    monkeypatch.setattr(os, "replace", replace)
    monkeypatch.setattr(staging.Staging, "__exit__", lambda *_: None)
    run = tc.write(out, max_tensors=1, force=True, workers=1)
    with pytest.raises(Killed):
        tc.open(source) | run
    monkeypatch.undo()
    # The dead process holds no lock any more; this one does, in descriptors that nobody closes.
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{name}").endswith("/.transcode-part/lock"):
                os.close(int(name))
        except OSError:
            pass


@linux
@pytest.mark.parametrize("command", ["inspect", "run", "get", "index"])
def test_any_command_finishes_what_a_dead_run_had_begun(command, source, tmp_path, monkeypatch, cli):
    out = tmp_path / "out"
    write(source(1), out)
    cut_short(source(2), out, monkeypatch)
    assert set(values(out)) == {1.0, 2.0}
    index = out / "model.safetensors.index.json"
    assert not index.exists()
    if command == "inspect":
        cli("inspect", out)
    elif command == "run":
        cli("run", out, tmp_path / "copy.safetensors", "-q")
        assert set(values(tmp_path)) == {2.0}
    elif command == "get":
        cli("meta", "get", sorted(out.glob("*.safetensors"))[0], "format")
    else:
        cli("inspect", index)
    assert set(values(out)) == {2.0}
    assert json.loads((out / "config.json").read_text()) == {"value": 2}
    assert len(json.loads(index.read_text())["weight_map"]) == 4
    assert not [path for path in out.iterdir() if path.name.startswith(".")]


@linux
def test_what_was_replaced_since_is_not_overwritten(source, tmp_path, monkeypatch, refused):
    out = tmp_path / "out"
    write(source(1), out)
    cut_short(source(2), out, monkeypatch)
    last = sorted(out.glob("*.safetensors"))[-1]
    save_file({"precious": torch.zeros(3)}, last)
    message = refused("inspect", out)
    assert last.name in message
    assert "has changed since a run that was cut short" in message
    assert "remove" in message
    assert load_file(last).keys() == {"precious"}


@linux
def test_a_damaged_record_is_named(source, tmp_path, monkeypatch, refused):
    out = tmp_path / "out"
    write(source(1), out)
    cut_short(source(2), out, monkeypatch)
    record = out / ".transcode-part" / "commit"
    raw = bytearray(record.read_bytes())
    raw[-3] ^= 1
    record.write_bytes(raw)
    assert "is damaged" in refused("inspect", out)
    record.unlink()
    os.mkfifo(record)
    assert "is damaged" in refused("inspect", out)


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".", "a\0b", 3])
def test_a_record_never_leads_out_of_its_folder(name):
    record = commit.Record((name,), {name: None})
    assert commit.Record.unpack(record.pack()) is None


def test_what_makes_a_loader_believe_in_the_whole_comes_last(tmp_path):
    names = ["model.safetensors.index.json", "config.json", "hf_quant_config.json", "a.safetensors", "b.txt"]
    with claim(tmp_path / "hidden") as hidden, Directory(tmp_path) as folder:
        record = commit.decide(hidden, folder, names)
        assert record.names == ("a.safetensors", "b.txt", *names[:3])
        assert commit.load(hidden) == record


def test_records_come_back():
    record = commit.Record(("a", "b.index.json"), {"a": (3, 4), "b.index.json": None})
    assert commit.Record.unpack(record.pack()) == record


@pytest.mark.parametrize(
    "body",
    ["{", "[]", "{}", '{"names": "a", "old": {"a": null}}', '{"names": ["a"], "old": {}}',
     '{"names": ["a"], "old": []}', '{"names": [1], "old": {"1": null}}',
     '{"names": ["a"], "old": {"a": [1]}}',
     '{"names": ["a"], "old": {"a": [1, "2"]}}', '{"names": ["a"], "old": {"a": 3}}'],
)  # fmt: skip
def test_what_is_no_record_is_none(body):
    raw = body.encode()
    assert commit.Record.unpack(b"%08x\n" % zlib.crc32(raw) + raw) is None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_among_the_renames_waits_for_their_end(number, source, tmp_path, monkeypatch):
    out = tmp_path / "out"
    write(source(1), out)
    real = os.replace
    sent = []

    def replace(*args: object, **rest: object) -> None:
        real(*args, **rest)
        if not sent:
            sent.append(os.kill(os.getpid(), number))

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", replace)
    before = signal.signal(number, interrupt)
    try:
        with pytest.raises(Interrupted, match="the output was complete"):
            write(source(2), out)
        assert signal.getsignal(number) is interrupt
    finally:
        signal.signal(number, before)
    assert sent
    assert set(values(out)) == {2.0}
    assert not [path for path in out.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("kind", ["link", "file"])
def test_the_hidden_folder_is_never_somebody_elses(kind, source, tmp_path, refused):
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "photo").write_text("mine")
    for out in (tmp_path / "out.safetensors", tmp_path / "out"):
        hidden = tmp_path / f".{out.name}.transcode-part"
        if kind == "link":
            hidden.symlink_to(precious)
        else:
            hidden.write_text("mine")
        message = refused("run", source(1), out)
        assert hidden.name in message
        assert "remove it" in message
        assert (precious / "photo").read_text() == "mine"
        assert kind == "link" or hidden.read_text() == "mine"
    inside = tmp_path / "there"
    inside.mkdir()
    (inside / ".transcode-part").symlink_to(precious)
    refused("run", source(1), inside)
    assert (precious / "photo").read_text() == "mine"


def test_a_link_inside_a_leftover_is_removed_not_followed(source, tmp_path, cli):
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "photo").write_text("mine")
    hidden = tmp_path / ".out.safetensors.transcode-part"
    hidden.mkdir()
    (hidden / "files").symlink_to(precious)
    cli("run", source(1), tmp_path / "out.safetensors")
    assert (precious / "photo").read_text() == "mine"
    assert not hidden.exists()


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="needs a user to become")
def test_another_users_hidden_folder_is_refused(source, tmp_path, refused):
    hidden = tmp_path / ".out.safetensors.transcode-part"
    hidden.mkdir()
    (hidden / "theirs").write_text("theirs")
    os.chown(hidden, 4321, 4321)
    assert "another user (uid 4321)" in refused("run", source(1), tmp_path / "out.safetensors")
    assert (hidden / "theirs").exists()
    # Nor is a record believed that a stranger planted where anybody may write.
    folder = source(2)
    planted = folder / ".transcode-part"
    (planted / "files").mkdir(parents=True)
    (planted / "files" / "config.json").write_text("theirs")
    record = commit.Record(("config.json",), {"config.json": None})
    (planted / "commit").write_bytes(record.pack())
    os.chown(planted, 4321, 4321)
    assert not commit.settle(folder)
    assert json.loads((folder / "config.json").read_text()) == {"value": 2}


def test_unfinished_files_are_for_their_owner_alone(tmp_path):
    with claim(tmp_path / "hidden"):
        assert (tmp_path / "hidden").stat().st_mode & 0o777 == 0o700


def test_the_output_has_the_usual_permissions(source, tmp_path):
    umask = os.umask(0o027)
    try:
        write(source(1), tmp_path / "out")
        tc.open(source(1)) | tc.write(tmp_path / "o.safetensors")
    finally:
        os.umask(umask)
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o750
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "out").iterdir()} == {0o640}
    assert (tmp_path / "o.safetensors").stat().st_mode & 0o777 == 0o640


def test_what_a_killed_run_left_counts_as_free(source, tmp_path, monkeypatch, cli, refused):
    hidden = tmp_path / ".o.safetensors.transcode-part"
    (hidden / "files").mkdir(parents=True)
    (hidden / "files" / "o.safetensors").write_bytes(bytes(1 << 20))
    held = 1 << 20
    monkeypatch.setattr(system, "free_space", lambda folder: 100)
    cli("run", source(1), tmp_path / "o.safetensors", "-n")
    (hidden / "files" / "o.safetensors").write_bytes(bytes(400))
    message = refused("run", source(1), tmp_path / "o.safetensors", "-n")
    assert "unfinished run to the same place" in message
    assert str(held) not in message
    # Of a run that is under way nothing will become free.
    (hidden / "files" / "o.safetensors").write_bytes(bytes(1 << 20))
    with Directory(hidden) as folder:
        fd = folder.open("lock", os.O_RDWR | os.O_CREAT)
        assert system.try_lock(fd)
        message = refused("run", source(1), tmp_path / "o.safetensors", "-n")
        os.close(fd)
    assert "unfinished" not in message


def test_what_a_run_left_beside_a_folder_that_exists_by_now_goes_too(source, tmp_path, cli):
    hidden = tmp_path / ".out.transcode-part"
    (hidden / "files").mkdir(parents=True)
    (hidden / "files" / "model.safetensors").write_bytes(bytes(1000))
    (tmp_path / "out").mkdir()
    cli("run", source(1), tmp_path / "out")
    assert not hidden.exists()


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP])
@pytest.mark.parametrize("what", ["fsync", "flock"])
def test_file_systems_without_locks_or_syncs_of_folders(what, code, source, tmp_path, monkeypatch, cli):
    real = os.fsync

    def fsync(fd: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{fd}"):
            raise OSError(code, os.strerror(code))
        real(fd)

    def flock(fd: int, how: int) -> None:
        raise OSError(code, os.strerror(code))

    if what == "fsync":
        monkeypatch.setattr(os, "fsync", fsync)
    else:
        monkeypatch.setattr(fcntl, "flock", flock)
    (tmp_path / "there").mkdir()
    for name in ("o.safetensors", "fresh", "there"):
        cli("run", source(1), tmp_path / name)
        cli("run", source(2), tmp_path / name, "--force")
    file = tmp_path / "o.safetensors"
    cli("meta", "set", file, "a=b")
    assert cli("meta", "get", file, "a", "--raw").out.strip() == "b"
    for folder in (tmp_path, tmp_path / "fresh", tmp_path / "there"):
        assert set(values(folder)) == {2.0}
        assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def test_a_sync_that_fails_for_good_is_an_error(tmp_path, monkeypatch):
    def broken(fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="Input/output"):
        system.sync_folder(tmp_path)


def test_a_run_that_moves_its_files_is_waited_for(source, tmp_path, monkeypatch):
    out = source(1)
    hidden = out / ".transcode-part"
    (hidden / "files").mkdir(parents=True)
    (hidden / "commit").write_bytes(commit.Record((), {}).pack())
    monkeypatch.setattr(commit, "_WAIT", 0.1)
    with Directory(hidden) as folder:
        fd = folder.open("lock", os.O_RDWR | os.O_CREAT)
        assert system.try_lock(fd)
        with pytest.raises(PlanError, match="another run is moving"):
            tc.open(out)
        os.close(fd)
    tc.open(out)
    assert not hidden.exists()


def test_errors_among_the_renames_say_what_is_and_what_will_be(source, tmp_path, monkeypatch):
    out = tmp_path / "out"
    write(source(1), out)
    real = os.replace
    calls = []

    def replace(*args: object, **rest: object) -> None:
        calls.append(args)
        if len(calls) == 3:
            raise OSError(errno.EIO, "Input/output error")
        real(*args, **rest)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(TranscodeError, match="not all of it is in place yet: Input/output error; the next"):
        write(source(2), out)
    monkeypatch.undo()
    tc.open(out)
    assert set(values(out)) == {2.0}
