"""A killed edit leaves a file that the next command repairs, or that was never broken."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from transcode.containers.edit import edit, replace, undo
from transcode.io import insert_range, lock, system

from .test_edit import META, data_of, insert_only, make, metadata_of

ROOT = Path(__file__).parents[3]
WAYS = [("overwrite", ""), ("insert", ""), ("copy", ""), ("overwrite", "gguf"), ("insert", "gguf")]
"""What replaces a file with a copy does not know its format."""

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ptrace(2) is Linux's")


def trials(folder: Path, way: str, mode: str, form: str = "") -> dict[str, int]:
    if way == "insert":
        insert_only(folder)
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("killing.py")), str(folder), way, mode, form],
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tools'}"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, int] = json.loads(done.stdout)
    return found


@linux
@pytest.mark.parametrize(("way", "form"), WAYS)
def test_killed_at_every_system_call(tmp_path: Path, way: str, form: str) -> None:
    found = trials(tmp_path, way, "calls", form)
    # The kills hit the edit before, during and after, or this has proven nothing.
    assert found["calls"] > 30
    assert found["old"] > 10
    assert found["new"] >= 3
    assert found["repaired"] >= 8
    assert found["old"] + found["new"] == found["calls"]


@linux
@pytest.mark.parametrize(("way", "form"), WAYS)
def test_killed_in_the_middle_of_every_write(tmp_path: Path, way: str, form: str) -> None:
    found = trials(tmp_path, way, "torn", form)
    assert found["old"] + found.get("new", 0) >= 10
    assert found["repaired"] >= 5
    if way != "copy":
        assert found["broken before repair"] >= 1


@linux
@pytest.mark.parametrize("way", ["overwrite", "insert", "copy"])
def test_the_repair_killed_at_every_system_call(tmp_path: Path, way: str) -> None:
    found = trials(tmp_path, way, "repair")
    assert found["repaired"] > 50


@pytest.mark.parametrize("way", ["overwrite", "insert", "copy"])
def test_order_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    """For power cuts: the record is synced before the file changes, the file before the record goes."""
    if way == "insert":
        insert_only(tmp_path)
    path = make(tmp_path / "m")
    real = os.path.realpath(path)
    undo_name, new_name = undo.undo_path(real), undo.new_path(real)
    log: list[tuple[str, str]] = []

    def name(fd: int) -> str:
        return os.readlink(f"/proc/self/fd/{fd}")

    fsync, pwrite, insert, rename, unlink = os.fsync, os.pwrite, insert_range.insert, os.replace, os.unlink

    def note(what: str, target: str) -> None:
        log.append((what, target))

    monkeypatch.setattr(os, "fsync", lambda fd: (note("sync", name(fd)), fsync(fd))[1])
    monkeypatch.setattr(system, "_pwrite", lambda fd, d, o: (note("write", name(fd)), pwrite(fd, d, o))[1])
    monkeypatch.setattr(insert_range, "insert", lambda fd, n: (note("write", name(fd)), insert(fd, n))[1])
    monkeypatch.setattr(os, "replace", lambda a, b: (note("rename", f"{a}>{b}"), rename(a, b))[1])
    monkeypatch.setattr(os, "unlink", lambda a: (note("unlink", a), unlink(a))[1])
    if way == "copy":
        monkeypatch.setattr(insert_range, "can_insert", lambda folder: False)
    value = "n" if way == "overwrite" else "n" * 9000
    log.clear()
    assert edit.edit(path, lambda m: {**m, "a": value}).way == way

    folder = str(tmp_path)
    recorded = log.index(("sync", undo_name))
    named = log.index(("sync", folder), recorded)
    finished = log.index(("rename", f"{undo_name}>{undo.backup_path(real)}"))
    if way == "copy":
        assert log.index(("sync", new_name)) < log.index(("rename", f"{new_name}>{real}"))
        changed = [log.index(("rename", f"{new_name}>{real}"))]
        synced = log.index(("sync", folder), changed[0])
    else:
        changed = [i for i, entry in enumerate(log) if entry == ("write", real)]
        synced = max(i for i, entry in enumerate(log) if entry == ("sync", real))
    assert recorded < named < min(changed)
    assert max(changed) < synced < finished
    assert ("sync", folder) in log[finished:]


def broken(path: Path, monkeypatch: pytest.MonkeyPatch, value: str = "n") -> None:
    """Leave a file as a killed edit does: record there, header half written."""
    real = os.path.realpath(path)
    old = path.read_bytes()
    start = 8 + int.from_bytes(old[:8], "little")
    undo.begin(real, undo.Record(len(old), 0, old[:start]))
    with open(path, "r+b") as file:
        file.seek(12)
        file.write(b"\x00" * 7)


def test_failure_inside_an_edit_is_undone_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make(tmp_path / "m")
    before = path.read_bytes()
    fsync, calls = os.fsync, []

    def fail(fd: int) -> None:
        if os.path.samestat(os.fstat(fd), os.stat(path)) and not calls:
            calls.append(fd)
            raise OSError(5, "Input/output error")
        fsync(fd)

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(edit.TranscodeError, match="nput/output error"):
        edit.edit(path, lambda m: {**m, "a": "n"})
    assert path.read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["m"]


def test_full_disk_while_growing_is_undone_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    insert_only(tmp_path)
    path = make(tmp_path / "m")
    before = path.read_bytes()
    pwrite, failed = os.pwrite, []

    def full(fd: int, data: memoryview, offset: int) -> int:
        if os.path.samestat(os.fstat(fd), os.stat(path)) and not failed:
            failed.append(fd)
            pwrite(fd, data[:5000], offset)
            raise OSError(28, "No space left on device")
        return pwrite(fd, data, offset)

    monkeypatch.setattr(system, "_pwrite", full)
    with pytest.raises(edit.TranscodeError, match="o space left"):
        edit.edit(path, lambda m: {**m, "a": "n" * 9000})
    assert failed
    assert path.read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["m"]


def test_record_of_another_file_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make(tmp_path / "m")
    broken(path, monkeypatch)
    make(path, data=b"another download" * 9)
    content = path.read_bytes()
    assert undo.repair(path)
    assert path.read_bytes() == content
    assert not undo.repair(path)


def test_record_that_fits_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make(tmp_path / "m")
    broken(path, monkeypatch)
    with open(path, "ab") as file:
        file.write(b"more")
    with pytest.raises(edit.TranscodeError, match=r"undo record is of a file of \d+ bytes, not \d+"):
        undo.repair(path)
    assert os.path.exists(undo.undo_path(os.path.realpath(path)))


def test_nobody_repairs_under_a_living_editor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make(tmp_path / "m")
    with lock.locked(os.path.realpath(path), wait=0):
        broken(path, monkeypatch)
        half = path.read_bytes()
        monkeypatch.setattr(undo, "_WAIT", 0.05)
        with pytest.raises(lock.Busy, match="another process is editing"):
            undo.read(path)
        assert path.read_bytes() == half
    assert dict(undo.read(path).metadata) == META


def test_readers_go_on_while_an_editor_copies(tmp_path: Path) -> None:
    path = make(tmp_path / "m")
    real = os.path.realpath(path)
    with lock.locked(real, wait=0):
        Path(undo.new_path(real)).write_bytes(b"half a copy")
        assert dict(undo.read(path).metadata) == META
        assert os.path.exists(undo.new_path(real))
    undo.read(path)
    assert not os.path.exists(undo.new_path(real))


def test_stopping_a_copy_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make(tmp_path / "m")
    before = path.read_bytes()
    monkeypatch.setattr(insert_range, "can_insert", lambda folder: False)
    monkeypatch.setattr(replace, "_CHUNK", 1000)

    def stop(done: int, total: int) -> None:
        if done > 2000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        edit.edit(path, lambda m: {**m, "a": "n" * 9000}, edit.Options(progress=stop))
    assert path.read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["m"]


def test_repaired_file_is_the_old_one_byte_for_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make(tmp_path / "m")
    before = path.read_bytes()
    broken(path, monkeypatch)
    assert path.read_bytes() != before
    assert metadata_of_repaired(path) == META
    assert path.read_bytes() == before


def metadata_of_repaired(path: Path) -> dict[str, str]:
    undo.repair(path)
    data_of(path)
    return metadata_of(path)
