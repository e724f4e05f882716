"""Metadata in place: the three ways, what they keep, what they refuse."""

from __future__ import annotations

import fcntl
import json
import mmap
import os
import stat
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from transcode.containers.edit import edit, undo
from transcode.containers.safetensors import header
from transcode.containers.safetensors.splice import splice, stringify
from transcode.errors import FormatError, PlanError, TranscodeError
from transcode.io import insert_range, lock

META = {"format": "pt", "a": "old"}
DATA = bytes(range(256)) * 40 + b"odd"


def make(path: Path, metadata: dict[str, str] | None = META, data: bytes = DATA, room: int = 8) -> Path:
    """A file as other tools write them: data at a multiple of 8, next to no room in the header."""
    table: dict[str, object] = {} if metadata is None else {"__metadata__": metadata}
    table["t"] = {"dtype": "U8", "shape": [len(data)], "data_offsets": [0, len(data)]}
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (room + -(len(text) + room) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def metadata_of(path: Path) -> dict[str, str] | None:
    """As the reference reader sees it."""
    with safe_open(path, "np") as file:
        return file.metadata()


def data_of(path: Path) -> bytes:
    """As the reference reader sees it."""
    return load_file(path)["t"].tobytes()


def insert_only(folder: Path) -> None:
    """Skip where the file system cannot grow files at their front (overlayfs, tmpfs, btrfs)."""
    if not insert_range.can_insert(str(folder)):
        pytest.skip("this file system cannot insert ranges")


def start_of(path: Path) -> int:
    return 8 + int.from_bytes(path.read_bytes()[:8], "little")


def put(**values: str):
    return lambda metadata: {**metadata, **values}


class TestWays:
    def test_overwrite_moves_nothing(self, tmp_path: Path) -> None:
        path = make(tmp_path / "m")
        inode, start, size = path.stat().st_ino, start_of(path), path.stat().st_size
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
            done = edit.edit(path, put(a="newer"))
            assert view[start:] == DATA  # who has the tensors mapped goes on
        assert done.way == "overwrite"
        assert (done.header_before, done.header_after) == (start, start)
        assert (path.stat().st_ino, start_of(path), path.stat().st_size) == (inode, start, size)
        assert metadata_of(path) == {**META, "a": "newer"}
        assert data_of(path) == DATA

    def test_insert_keeps_inode_and_alignment(self, tmp_path: Path) -> None:
        insert_only(tmp_path)
        path = make(tmp_path / "m")
        inode, start = path.stat().st_ino, start_of(path)
        done = edit.edit(path, put(a="n" * 100_000))
        assert done.way == "insert"
        assert path.stat().st_ino == inode
        assert (start_of(path) - start) % 4096 == 0
        assert metadata_of(path) == {**META, "a": "n" * 100_000}
        assert data_of(path) == DATA
        assert edit.edit(path, put(b="n" * 5000)).way == "overwrite"  # room was left
        assert data_of(path) == DATA

    @pytest.mark.parametrize("growth", [1, 4000, 4096, 4097, 70_000])
    def test_copy_aligns_to_pages(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, growth: int) -> None:
        monkeypatch.setattr(insert_range, "can_insert", lambda folder: False)
        path = make(tmp_path / "m", room=0)
        value = "n" * (len("old") + 8 + growth)
        done = edit.edit(path, put(a=value))
        assert done.way == "copy"
        assert start_of(path) % 4096 == 0
        assert metadata_of(path) == {**META, "a": value}
        assert data_of(path) == DATA
        assert edit.edit(path, put(b="n" * 4000)).way == "overwrite"

    def test_an_open_file_is_not_shifted(self, tmp_path: Path) -> None:
        """Whoever has the file mapped keeps the old bytes, because a new file takes its place."""
        insert_only(tmp_path)
        path = make(tmp_path / "m")
        with open(path, "rb") as file:
            view = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        start = start_of(path)
        done = edit.edit(path, put(a="n" * 10_000))
        assert done.way == "copy"
        assert view[start:] == DATA
        assert data_of(path) == DATA
        view.close()
        assert edit.edit(path, put(b="n" * 50_000)).way == "insert"

    def test_who_opens_during_an_insertion_waits(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        insert_only(tmp_path)
        path = make(tmp_path / "m")
        real_insert, opened = insert_range.insert, []

        def insert(fd: int, size: int) -> bool:
            done = real_insert(fd, size)
            script = f"open({str(path)!r}, 'rb').close(); print('opened')"
            child = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
            time.sleep(0.3)
            opened.append((child, child.poll()))
            return done

        monkeypatch.setattr(insert_range, "insert", insert)
        assert edit.edit(path, put(a="n" * 10_000)).way == "insert"
        child, before = opened[0]
        assert before is None  # it was still waiting when the header was not yet there
        assert child.communicate(timeout=30)[0] == b"opened\n"

    def test_nothing_to_change_writes_nothing(self, tmp_path: Path) -> None:
        path = make(tmp_path / "m")
        before = path.stat().st_mtime_ns
        done = edit.edit(path, put(a="old"))
        assert (done.way, done.written, done.backup) == ("unchanged", 0, None)
        assert path.stat().st_mtime_ns == before
        assert os.listdir(tmp_path) == ["m"]

    def test_copy_can_be_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(insert_range, "can_insert", lambda folder: False)
        path = make(tmp_path / "m")
        before = path.read_bytes()
        with pytest.raises(PlanError, match="cannot grow in place here"):
            edit.edit(path, put(a="n" * 10_000), edit.Options(copy=False))
        assert path.read_bytes() == before

    def test_no_space_for_a_copy(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(insert_range, "can_insert", lambda folder: False)
        monkeypatch.setattr("transcode.containers.edit.replace.free_space", lambda folder: 10)
        path = make(tmp_path / "m")
        with pytest.raises(PlanError, match=r"needs \d+ bytes, the disk has 10 left"):
            edit.edit(path, put(a="n" * 10_000))
        assert os.listdir(tmp_path) == ["m"]

    @pytest.mark.parametrize("value", ["n", "n" * 10_000])
    def test_preview_is_exact_and_writes_nothing(self, tmp_path: Path, value: str) -> None:
        path = make(tmp_path / "m")
        before, times = path.read_bytes(), path.stat().st_mtime_ns
        foreseen = edit.preview(path, put(a=value))
        assert path.read_bytes() == before
        assert path.stat().st_mtime_ns == times
        assert os.listdir(tmp_path) == ["m"]
        done = edit.edit(path, put(a=value))
        assert (foreseen.way, foreseen.after, foreseen.header_after) == (
            done.way,
            done.after,
            done.header_after,
        )

    def test_bytes_written_are_at_most_two_headers(self, tmp_path: Path) -> None:
        path = make(tmp_path / "m", {**META, "j": "x" * 50_000}, room=100)
        done = edit.edit(path, put(a="longer than it was"))
        assert done.way == "overwrite"
        assert 0 < done.written <= 2 * done.header_before
        backup = os.path.getsize(undo.backup_path(os.path.realpath(path)))
        assert backup < done.written


class TestKept:
    @pytest.mark.parametrize("way", ["overwrite", "insert", "copy"])
    def test_permissions_owner_attributes_times(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
    ) -> None:
        if way == "insert":
            insert_only(tmp_path)
        if way == "copy":
            monkeypatch.setattr(insert_range, "can_insert", lambda folder: False)
        path = make(tmp_path / "m")
        path.chmod(0o640)
        if os.geteuid() == 0:
            os.chown(path, 1234, 2345)
        try:
            os.setxattr(path, "user.origin", b"here")
            attributes = True
        except OSError:
            attributes = False
        os.utime(path, ns=(10**18, 10**18 + 7))
        before = path.stat()
        value = "n" if way == "overwrite" else "n" * 10_000
        assert edit.edit(path, put(a=value), edit.Options(keep_mtime=True)).way == way
        after = path.stat()
        assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
        assert after.st_mtime_ns == before.st_mtime_ns
        if attributes:
            assert os.getxattr(path, "user.origin") == b"here"
        edit.edit(path, put(b=value * 3))
        assert abs(path.stat().st_mtime - time.time()) < 60
        assert stat.S_IMODE(path.stat().st_mode) == 0o640

    def test_every_byte_but_the_metadata(self, tmp_path: Path) -> None:
        """Spelling, order and unknown fields of other makers survive."""
        text = (
            '{ "t" : {"extra": 1.50, "data_offsets":[0,2],"dtype":"U8","shape":[2]},\n'
            '  "\\u005f_metadata__":{"b":"1", "a":"2"} , '
            '"\\u00e9":{"dtype":"U8","shape":[0],"data_offsets":[2,2]}}'
        )
        path = tmp_path / "m"
        path.write_bytes(struct.pack("<Q", len(text) + 99) + text.encode() + b" " * 99 + b"ab")
        edit.edit(path, put(c="3"))
        raw = path.read_bytes()
        expected = text.replace('{"b":"1", "a":"2"}', '{"b":"1","a":"2","c":"3"}')
        assert raw[8:].startswith(expected.encode())
        assert metadata_of(path) == {"b": "1", "a": "2", "c": "3"}
        edit.edit(path, lambda metadata: {})
        assert metadata_of(path) is None
        assert b'"extra": 1.50' in path.read_bytes()

    def test_a_link_stays_a_link(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(insert_range, "can_insert", lambda folder: False)
        (tmp_path / "disk").mkdir()
        path = make(tmp_path / "disk" / "m")
        link = tmp_path / "link"
        link.symlink_to(path)
        assert edit.edit(link, put(a="n" * 10_000)).way == "copy"
        assert link.is_symlink()
        assert metadata_of(path)["a"] == "n" * 10_000
        assert edit.restore(link).way == "overwrite"
        assert metadata_of(path) == META


class TestBackup:
    def test_restore_brings_back_the_very_bytes(self, tmp_path: Path) -> None:
        path = make(tmp_path / "m")
        before = path.read_bytes()
        done = edit.edit(path, put(a="n"))
        assert done.backup == Path(f"{path}.header-backup")
        assert done.backup.stat().st_size < 1000
        changed = path.read_bytes()
        assert edit.restore(path).way == "overwrite"
        assert path.read_bytes() == before
        edit.restore(path)
        assert path.read_bytes() == changed

    @pytest.mark.parametrize("can", [True, False])
    def test_restore_after_growth(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, can: bool) -> None:
        if can:
            insert_only(tmp_path)
        else:
            monkeypatch.setattr(insert_range, "can_insert", lambda folder: False)
        path = make(tmp_path / "m")
        edit.edit(path, put(a="n" * 10_000))
        edit.restore(path)
        assert metadata_of(path) == META
        assert data_of(path) == DATA

    def test_full(self, tmp_path: Path) -> None:
        path = make(tmp_path / "m")
        before = path.read_bytes()
        done = edit.edit(path, put(a="n"), edit.Options(backup="full"))
        assert done.backup == Path(f"{path}.backup")
        assert done.backup.read_bytes() == before
        edit.edit(path, put(a="n2"), edit.Options(backup="full"))
        assert done.backup.read_bytes() == before  # the first one is kept
        edit.restore(path)  # its header will do
        assert metadata_of(path) == META
        edit.restore_copy(path)
        assert path.read_bytes() == before
        assert not done.backup.exists()

    def test_none(self, tmp_path: Path) -> None:
        path = make(tmp_path / "m")
        assert edit.edit(path, put(a="n"), edit.Options(backup="none")).backup is None
        assert os.listdir(tmp_path) == ["m"]
        with pytest.raises(TranscodeError, match="there is no backup"):
            edit.restore(path)

    def test_of_another_file_is_refused(self, tmp_path: Path) -> None:
        path = make(tmp_path / "m")
        edit.edit(path, put(a="n"))
        other = make(tmp_path / "other", data=b"other")
        with pytest.raises(PlanError, match="describes other tensors"):
            edit.restore(other, f"{path}.header-backup")

    def test_damaged_is_refused(self, tmp_path: Path) -> None:
        path = make(tmp_path / "m")
        edit.edit(path, put(a="n"))
        kept = tmp_path / "m.header-backup"
        raw = bytearray(kept.read_bytes())
        raw[30] ^= 1
        kept.write_bytes(raw)
        with pytest.raises(FormatError):
            edit.restore(path)

    def test_saved_by_hand(self, tmp_path: Path) -> None:
        path = make(tmp_path / "m")
        before = path.read_bytes()
        assert edit.save_backup(path) == Path(f"{path}.header-backup")
        edit.edit(path, put(a="n"), edit.Options(backup="none"))
        edit.restore(path)
        assert path.read_bytes() == before


class TestRefused:
    def test_hard_links(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = make(tmp_path / "m")
        os.link(path, tmp_path / "n")
        with pytest.raises(TranscodeError, match=r"2 hard links share its bytes.*follow_links=True"):
            edit.edit(path, put(a="n"))
        edit.edit(path, put(a="n"), edit.Options(follow_links=True))
        assert metadata_of(tmp_path / "n") == {**META, "a": "n"}
        monkeypatch.setattr(insert_range, "can_insert", lambda folder: False)
        with pytest.raises(PlanError, match="other hard links would keep the old one"):
            edit.edit(path, put(a="n" * 10_000), edit.Options(follow_links=True))

    def test_hub_cache(self, tmp_path: Path) -> None:
        repository = tmp_path / "models--org--name"
        (repository / "blobs").mkdir(parents=True)
        (repository / "snapshots" / "abc").mkdir(parents=True)
        blob = make(repository / "blobs" / "0123")
        link = repository / "snapshots" / "abc" / "m.safetensors"
        link.symlink_to("../../blobs/0123")
        before = blob.read_bytes()
        for path in (link, blob):
            with pytest.raises(TranscodeError, match=r"blob of the hub cache.*follow_links=True"):
                edit.edit(path, put(a="n"))
        assert blob.read_bytes() == before
        edit.edit(link, put(a="n"), edit.Options(follow_links=True))
        assert link.is_symlink()
        assert metadata_of(link) == {**META, "a": "n"}

    def test_a_second_editor_waits_and_then_fails(self, tmp_path: Path) -> None:
        path = make(tmp_path / "m")
        with lock.locked(str(path), wait=0), pytest.raises(lock.Busy, match="another process is editing"):
            edit.edit(path, put(a="n"), edit.Options(wait=0.1))
        done = threading.Event()

        def hold() -> None:
            with lock.locked(str(path), wait=0):
                done.set()
                time.sleep(0.2)

        thread = threading.Thread(target=hold, daemon=True)
        thread.start()
        assert done.wait(60)
        assert edit.edit(path, put(a="n")).way == "overwrite"
        thread.join(60)

    def test_many_editors_at_once(self, tmp_path: Path) -> None:
        """Each of them adds its key, by whatever way; none is lost, though copies replace the file."""
        path = make(tmp_path / "m")
        script = (
            "import sys; from transcode.containers.edit import edit\n"
            "for i in range(6):\n"
            "    key = f'{sys.argv[2]}.{i}'\n"
            "    edit.edit(sys.argv[1], lambda m: {**m, key: 'x' * 3000}, edit.Options(wait=60))\n"
        )
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
        running = [
            subprocess.Popen([sys.executable, "-c", script, str(path), str(n)], env=environment)
            for n in range(4)
        ]
        assert [process.wait(60) for process in running] == [0] * 4
        assert set(metadata_of(path)) == {*META, *(f"{n}.{i}" for n in range(4) for i in range(6))}
        assert data_of(path) == DATA

    @pytest.mark.parametrize(
        ("key", "value", "what"),
        [("k", 1, "is 1, not a string"), ("k", "\udc80", "not UTF-8"), ("\ud800", "v", "not UTF-8")],
    )
    def test_values(self, tmp_path: Path, key: str, value: str, what: str) -> None:
        path = make(tmp_path / "m")
        before = path.read_bytes()
        with pytest.raises(PlanError, match=what):
            edit.edit(path, lambda m: {**m, key: value})
        assert path.read_bytes() == before

    def test_header_limit(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = make(tmp_path / "m")
        monkeypatch.setattr(header, "MAX_HEADER", 20_000)
        with pytest.raises(
            PlanError, match=r"the header would need 2\d+ bytes, more than the format's 20008"
        ):
            edit.edit(path, put(a="n" * 20_000))
        # Just below the limit there is no room left to align to, and it fits all the same.
        fixed = len(path.read_bytes()) - len(DATA) - 8
        for length in (19_950 - fixed, 19_990 - fixed):
            edit.edit(path, put(a="n" * length))
            assert metadata_of(path)["a"] == "n" * length
            assert start_of(path) <= 8 + 20_000
            assert data_of(path) == DATA

    def test_no_permission(self, tmp_path: Path) -> None:
        if os.geteuid() == 0:
            pytest.skip("root may write anything")
        path = make(tmp_path / "m")
        path.chmod(0o444)
        with pytest.raises(TranscodeError, match="ermission denied"):
            edit.edit(path, put(a="n"))

    def test_no_safetensors_file(self, tmp_path: Path) -> None:
        path = tmp_path / "m"
        path.write_bytes(b"nothing of the kind")
        with pytest.raises(FormatError):
            edit.edit(path, put(a="n"))


def test_large_values_and_many_keys(tmp_path: Path) -> None:
    path = make(tmp_path / "m")
    large = "é" * 5_000_000
    edit.edit(path, put(large=large))
    assert metadata_of(path)["large"] == large
    many = {f"ключ {i} 🦀": str(i) for i in range(10_000)}
    edit.edit(path, lambda m: {**META, **many})
    assert metadata_of(path) == {**META, **many}
    assert data_of(path) == DATA


def test_real_tensors_load(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    tensors = {"x": np.arange(1000, dtype=np.float32).reshape(10, 100), "y": np.ones(3, np.int8)}
    save_file(tensors, path)  # no metadata at all
    for size in (3, 5000, 50_000, 1):
        edit.edit(path, put(k="v" * size))
        loaded = load_file(path)
        assert all((loaded[name] == tensor).all() for name, tensor in tensors.items())
        assert metadata_of(path) == {"k": "v" * size}


def test_lock_dies_with_its_holder(tmp_path: Path) -> None:
    path = make(tmp_path / "m")
    script = f"import fcntl, os; f = open({str(path)!r}, 'r+b'); fcntl.flock(f, fcntl.LOCK_EX); os._exit(9)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 9
    with open(path, "r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


class TestSplice:
    @pytest.mark.parametrize(
        ("text", "metadata", "expected"),
        [
            ("{}", {}, "{}"),
            ("{ }", {"a": "b"}, '{"__metadata__":{"a":"b"} }'),
            ('{"t":1}', {"a": "b"}, '{"__metadata__":{"a":"b"},"t":1}'),
            ('{"__metadata__":null}', {"a": "b"}, '{"__metadata__":{"a":"b"}}'),
            ('{"__metadata__":{"x":"y"}}', {}, "{}"),
            ('{"__metadata__":{"x":"y"} , "t":1}', {}, '{"t":1}'),
            ('{"t":1, "__metadata__":{"x":"y"}}', {}, '{"t":1}'),
            ('{"s":1,"__metadata__":{},"t":2}', {}, '{"s":1,"t":2}'),
            (
                '{"t":"\\"__metadata__\\":{}"}',
                {"é": "\n"},
                '{"__metadata__":{"é":"\\n"},"t":"\\"__metadata__\\":{}"}',
            ),
        ],
    )
    def test_cases(self, text: str, metadata: dict[str, str], expected: str) -> None:
        assert splice(text, metadata) == expected

    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            ("s", "s"), (True, "True"), (None, "None"), (1, "1"), (1.5, "1.5"), (1e-05, "1e-05"),
            ([1, "é"], '[1, "\\u00e9"]'), ({"a": {"b": None}}, '{"a": {"b": null}}'), ([], "[]"),
        ],
    )  # fmt: skip
    def test_stringify(self, value: object, expected: str) -> None:
        assert stringify(value) == expected


def test_a_passing_reader_does_not_cost_a_copy(tmp_path: Path) -> None:
    insert_only(tmp_path)
    path = make(tmp_path / "m")
    reader = os.open(path, os.O_RDONLY)
    timer = threading.Timer(0.1, os.close, [reader])
    timer.start()
    assert edit.edit(path, put(a="n" * 10_000)).way == "insert"
    timer.join()


def test_a_waiting_editor_does_not_cost_a_copy(tmp_path: Path) -> None:
    insert_only(tmp_path)
    path = make(tmp_path / "m")
    ways = []

    def grow(key: str) -> None:
        ways.append(edit.edit(path, put(**{key: "n" * 50_000}), edit.Options(wait=30)).way)

    threads = [threading.Thread(target=grow, args=(key,), daemon=True) for key in "bcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert ways == ["insert"] * 3
    assert set(metadata_of(path)) == {*META, *"bcd"}
