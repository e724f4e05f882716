"""Undo records that are no records: hostile, damaged, foreign, left over from another file."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import struct
import sys
import zlib
from pathlib import Path

import pytest

from transcode.containers.edit import edit, undo
from transcode.containers.safetensors import header
from transcode.errors import FormatError, TranscodeError
from transcode.io import insert_range

from .test_edit import META, make, metadata_of

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/dev, FIFOs and leases of Linux")


def head_of(path: Path) -> bytes:
    raw = path.read_bytes()
    return raw[: 8 + int.from_bytes(raw[:8], "little")]


def signed(magic: bytes, body: bytes) -> bytes:
    return magic + struct.pack("<I", zlib.crc32(body)) + body


@pytest.fixture
def limited():
    """Whoever waits for ever or takes gigabytes fails."""
    import resource

    def stop(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, stop)
    old = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + (512 << 20), old[1]))
    signal.alarm(10)
    yield
    signal.alarm(0)
    resource.setrlimit(resource.RLIMIT_AS, old)
    signal.signal(signal.SIGALRM, before)


def test_a_record_comes_back(tmp_path):
    old = head_of(make(tmp_path / "m"))
    new = head_of(make(tmp_path / "n", {**META, "more": "x" * 300}))
    for record in (undo.Record(9000, 0, old), undo.Record(9000, 4096, old, new), undo.Record(1, 0, new, old)):
        assert undo.Record.unpack(record.pack()) == record


def test_a_record_with_a_wrong_bit_anywhere_is_none(tmp_path):
    old = head_of(make(tmp_path / "m"))
    new = head_of(make(tmp_path / "n", {**META, "more": "x" * 300}))
    first = signed(b"TCU1", struct.pack("<QQ", 9000, 4096) + old)
    assert undo.Record.unpack(first) == undo.Record(9000, 4096, old)
    for raw in (undo.Record(9000, 4096, old, new).pack(), first):
        for at in range(len(raw)):
            for bit in range(8):
                torn = bytearray(raw)
                torn[at] ^= 1 << bit
                assert undo.Record.unpack(bytes(torn)) is None, (at, bit)
            assert undo.Record.unpack(raw[:at]) is None, at


def test_a_record_of_a_small_edit_is_small(tmp_path):
    old = head_of(make(tmp_path / "m", {**META, "a": "x" * 50_000}))
    new = head_of(make(tmp_path / "n", {**META, "a": "x" * 50_000, "b": "y"}))
    assert len(undo.Record(9, 0, old, new).pack()) < len(old) + 200


def test_records_of_version_0_1_are_understood(tmp_path):
    path = make(tmp_path / "m")
    whole = path.read_bytes()
    head = head_of(path)
    raw = signed(b"TCU1", struct.pack("<QQ", len(whole), 0) + head.rstrip(b" "))
    assert undo.Record.unpack(raw) == undo.Record(len(whole), 0, head)
    Path(undo.undo_path(str(path))).write_bytes(raw)
    with path.open("r+b") as file:
        file.seek(12)
        file.write(bytes(5))
    undo.repair(path)
    assert path.read_bytes() == whole


@linux
@pytest.mark.parametrize("what", ["dangling", "link", "null", "zero", "fifo", "folder", "loop"])
def test_what_is_no_file_is_no_record(what, tmp_path, limited):
    path = make(tmp_path / "m")
    before = path.read_bytes()
    undo_file = Path(undo.undo_path(str(path)))
    target = tmp_path / "precious"
    target.write_text("mine")
    if what == "fifo":
        os.mkfifo(undo_file)
    elif what == "folder":
        undo_file.mkdir()
    else:
        links = {"null": "/dev/null", "zero": "/dev/zero", "link": target, "loop": undo_file}
        undo_file.symlink_to(links.get(what, "nowhere"))
    assert dict(undo.read(path).metadata) == META
    with pytest.raises(TranscodeError, match=r"transcode-undo"):
        edit.edit(path, lambda m: {**m, "a": "n"})
    assert path.read_bytes() == before
    assert target.read_text() == "mine"


@linux
@pytest.mark.parametrize("length", [1 << 31, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, header.MAX_HEADER + 1])
@pytest.mark.parametrize("magic", [b"TCU1", b"TCU2"])
def test_lengths_that_cannot_be_take_no_memory(magic, length, tmp_path, limited):
    path = make(tmp_path / "m")
    more = b"" if magic == b"TCU1" else struct.pack("<QQQQ", 10, length, 0, 0)
    raw = signed(magic, struct.pack("<QQ", 100, 0) + more + struct.pack("<Q", length) + b"{}")
    assert undo.Record.unpack(raw) is None
    Path(undo.undo_path(str(path))).write_bytes(raw)
    assert dict(undo.read(path).metadata) == META  # a record that is none goes, where the file is healthy
    assert not Path(undo.undo_path(str(path))).exists()
    huge = signed(
        b"TCU2", struct.pack("<QQQQQQ", length % (1 << 62), 0, length, 2, length, 1) + b"\2" + b"{}" * 9
    )
    assert undo.Record.unpack(huge) is None


@linux
def test_a_record_that_is_too_long_is_not_read(tmp_path, limited):
    path = make(tmp_path / "m")
    with open(undo.undo_path(str(path)), "wb") as file:
        file.write(b"TCU2")
        file.truncate(50 << 30)
    assert dict(undo.read(path).metadata) == META


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="needs a user to become")
def test_a_strangers_record_is_not_believed(tmp_path):
    path = make(tmp_path / "m")
    head = head_of(path)
    forged = undo.Record(path.stat().st_size, 0, head.replace(b'"old"', b'"evl"'), head)
    assert forged.head != head
    undo_file = Path(undo.undo_path(str(path)))
    undo_file.write_bytes(forged.pack())
    os.chown(undo_file, 4321, 4321)
    assert dict(undo.read(path).metadata) == META
    os.chown(undo_file, os.geteuid(), -1)  # the same of our own is what an edit that was cut short leaves
    assert dict(undo.read(path).metadata) == {**META, "a": "evl"}


@pytest.mark.parametrize("way", ["overwrite", "insert", "copy"])
def test_a_new_download_of_the_same_layout_is_left_alone(way, tmp_path):
    """The record of an edit that was killed, and then the file was fetched anew, with other metadata."""
    path = make(tmp_path / "m")
    size, head = path.stat().st_size, head_of(path)
    edited = {"overwrite": head.replace(b'"old"', b'"new"'), "copy": head}.get(way)
    inserted = 0
    if edited is None:
        inserted = 4096
        text = head[8:].rstrip(b" ").replace(b'"old"', b'"' + b"n" * 900 + b'"')
        edited = struct.pack("<Q", len(head) - 8 + inserted) + text.ljust(len(head) - 8 + inserted)
    undo.begin(str(path), undo.Record(size, inserted, head, edited))
    raw = path.read_bytes()
    path.unlink()
    path.write_bytes(raw.replace(b'"old"', b'"dwn"'))
    assert undo.repair(path)
    assert metadata_of(path) == {**META, "a": "dwn"}
    assert not Path(undo.undo_path(str(path))).exists()


def test_the_edit_itself_is_undone_wherever_it_was_cut(tmp_path):
    path = make(tmp_path / "m")
    whole, head = path.read_bytes(), head_of(path)
    new = head.replace(b'"old"', b'"new"')
    for stop in range(len(head)):
        undo.begin(str(path), undo.Record(len(whole), 0, head, new))
        path.write_bytes(new[:stop] + whole[stop:])
        undo.repair(path)
        assert path.read_bytes() == whole


def test_a_name_for_the_copy_that_is_a_link_is_not_followed(tmp_path, monkeypatch):
    path = make(tmp_path / "m")
    target = tmp_path / "precious"
    target.write_text("mine")
    Path(undo.new_path(str(path))).symlink_to(target)
    monkeypatch.setattr(insert_range, "can_insert", lambda folder: False)
    assert edit.edit(path, lambda m: {**m, "a": "n" * 9000}).way == "copy"
    assert target.read_text() == "mine"


@linux
@pytest.mark.parametrize("code", [13, 22, 38, 95])  # EACCES (not the owner), EINVAL, ENOSYS, EOPNOTSUPP
def test_tensors_never_move_without_a_lease(code, tmp_path, monkeypatch):
    path = make(tmp_path / "m")
    real = fcntl.fcntl

    def refuse(fd: int, what: int, value: int = 0) -> int:
        if what == fcntl.F_SETLEASE:
            raise OSError(code, os.strerror(code))
        return real(fd, what, value)

    monkeypatch.setattr(fcntl, "fcntl", refuse)
    monkeypatch.setattr(insert_range, "can_insert", lambda folder: True)
    done = edit.edit(path, lambda m: {**m, "a": "n" * 9000})
    assert done.way == "copy"
    with path.open("rb") as file, insert_range.alone(file.fileno()) as alone:
        assert not alone


def test_a_header_cut_anywhere_is_put_back_even_where_it_is_valid(tmp_path: Path) -> None:
    """Old and new letters of a name may join into another name that is as good."""
    path = tmp_path / "m.safetensors"

    def head(value: str) -> bytes:
        entry = {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}
        raw = json.dumps({"__metadata__": {"a": value}, "tttttttt": entry}).encode().ljust(140)
        return len(raw).to_bytes(8, "little") + raw

    old, new = head("old"), head("n")
    misread = 0
    for cut in range(len(old) + 1):
        path.write_bytes(new[:cut] + old[cut:] + b"data")
        with contextlib.suppress(FormatError):
            misread += [entry.name for entry in header.read(path).entries] != ["tttttttt"]
        undo.begin(str(path), undo.Record(len(old) + 4, 0, old, new))
        found = undo.read(path)
        assert [entry.name for entry in found.tensors] == ["tttttttt"], cut
        assert path.read_bytes() == old + b"data"
    assert misread > 3
