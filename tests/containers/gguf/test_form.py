"""Metadata of GGUF files edited in place, read here by a reader of its own."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import fuzz_gguf
import pytest

import transcode as tc
from tests.containers.safetensors.killing import gguf, read_gguf
from transcode.containers.edit import edit, undo
from transcode.errors import PlanError
from transcode.io import insert_range

DATA = bytes(range(256)) * 5 + b"odd"
OLD = {"general.architecture": "wan", "a": "old"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "m.gguf"
    file.write_bytes(gguf(OLD, {"t": DATA}))
    return file


@pytest.mark.parametrize("alignment", [8, 32, 64, 8192])
@pytest.mark.parametrize("insert", [True, False])
def test_texts_of_every_length(
    tmp_path: Path, alignment: int, insert: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Filled by zeros or by a key of its own, or grown, or copied: always what was asked for."""
    if not insert:
        monkeypatch.setattr(insert_range, "can_insert", lambda folder: False)
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf(OLD, {"t": DATA}, alignment))
    ways = set()
    for length in (*range(70), 9000, 40, 39, 3, 20_000, 0):
        way = edit.edit(path, lambda now, n=length: {**now, "a": "n" * n}, edit.Options(backup="none")).way
        ways.add(way)
        metadata, data = read_gguf(path.read_bytes())
        assert (metadata, data) == ({**OLD, "a": "n" * length}, DATA)
    assert "overwrite" in ways
    assert ways & {"insert", "copy"}


def test_the_very_header_comes_back(path: Path) -> None:
    before = path.read_bytes()
    assert edit.edit(path, lambda now: {**now, "a": "x"}).way == "overwrite"
    assert path.read_bytes() != before
    tc.meta.restore(path)
    assert path.read_bytes() == before
    tc.meta.set(path, {"b": "n" * 9000})
    tc.meta.set(path, {"b": "m"})
    tc.meta.restore(path)
    assert tc.meta.get(path) == {**OLD, "b": "n" * 9000}
    assert tc.meta.set(path, {"b": "n" * 9000})[0].way == "unchanged"


def test_values_keep_their_types_or_get_others(path: Path) -> None:
    tc.meta.set(
        path, {"n:uint32": "7", "x:float32[]": "[1, 2.5]", "s:string[]": '["a", "é"]', "b:bool": "true"}
    )
    tc.meta.set(path, {"n": "8", "x": "[3]"})
    from transcode.containers.gguf import header

    with path.open("rb") as file:
        read = header.read(file, path).metadata
    assert {key: (one.kind, bytes(one.raw)) for key, one in read.items() if key in "nxsb"} == {
        "n": ("uint32", struct.pack("<I", 8)),
        "x": ("array of float32", struct.pack("<IQf", 6, 1, 3)),
        "s": ("array of string", struct.pack("<IQQ1sQ2s", 8, 2, 1, b"a", 2, "é".encode())),
        "b": ("bool", b"\1"),
    }
    assert "tc.padding" not in read
    for key, value, what in (
        ("n", "x", "'n': 'x' is no uint32"), ("x", "3", "is no JSON array of float32"),
        ("x", '["a"]', "in it is no float32"), ("tc.padding", "x", "what fills space"),
        ("", "x", "is no key"), ("a\0", "x", "is no key"), ("k", "\ud800", "surrogate"),
        ("general.alignment:uint32", "64", "says how the tensors lie"),
        ("split.count:uint16", "2", "says how the tensors lie"),
    ):  # fmt: skip
        before = path.read_bytes()
        with pytest.raises(PlanError, match=what):
            tc.meta.set(path, {key: value})
        assert path.read_bytes() == before


def test_what_says_how_tensors_lie_stays(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf(OLD, {"t": DATA}, 64))
    with pytest.raises(PlanError, match=r"'general.alignment' says how the tensors lie"):
        tc.meta.clear(path)
    tc.meta.delete(path, "a")
    assert read_gguf(path.read_bytes()) == ({"general.architecture": "wan"}, DATA)


def test_no_key_of_safetensors_is_added(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf({}, {"t": DATA}))
    tc.meta.set(path, {"a": "b"})
    assert read_gguf(path.read_bytes()) == ({"a": "b"}, DATA)


def test_big_endian_files_are_not_edited(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    raw = b"GGUF" + struct.pack(">IQQ", 3, 0, 1) + struct.pack(">Q1sIQ1s", 1, b"a", 8, 1, b"b")
    path.write_bytes(raw)
    with pytest.raises(PlanError, match="big-endian, and such a file is not edited"):
        tc.meta.set(path, {"a": "c"})
    assert path.read_bytes() == raw


def test_commands(path: Path, cli) -> None:
    assert "valid" in cli("meta", "validate", path).out
    cli("meta", "set", path, "n:int32=-1")
    (path.parent / "config.json").write_text(json.dumps({"_class_name": "FluxTransformer2DModel"}))
    cli("meta", "embed", path, path.parent / "config.json")
    assert json.loads(tc.meta.get(path, "config"))["_class_name"] == "FluxTransformer2DModel"
    assert cli("meta", "get", path, "n").out.strip() == "n: -1"
    cli("meta", "del", path, "n")
    cli("meta", "restore", path)
    assert tc.meta.get(path, "n") == "-1"
    assert cli("inspect", path, "--json").out
    assert "tc.padding" not in cli("meta", "get", path).out


def test_a_record_of_an_edit_that_was_killed_is_believed(path: Path) -> None:
    """A header half old, half new, with the record beside it, is put back before anything reads it."""
    old = path.read_bytes()
    start = len(old) - len(DATA) - (-len(DATA) % 32)
    new = gguf({**OLD, "a": "new"}, {"t": DATA})[:start]
    assert len(new) == start
    for cut in range(0, start, 7):
        path.write_bytes(new[:cut] + old[cut:])
        undo.begin(str(path), undo.Record(len(old), 0, old[:start], new))
        assert tc.meta.get(path) == OLD
        assert path.read_bytes() == old


def test_headers_that_nobody_should_write() -> None:
    """A sample of ``tools/fuzz_gguf.py``, and that it would tell a reader that takes what overlaps."""
    said: list[str] = []
    assert fuzz_gguf.main(["--count", "1500", "--seed", "3"], said.append) == 0
    assert "refused" in said[-1]
    assert "WRONG" not in said[-1]


def test_the_fuzzer_sees_what_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz_gguf.header._Reader, "placed", lambda self, listed, alignment: tuple(listed))
    said: list[str] = []
    assert fuzz_gguf.main(["--count", "300"], said.append) == 1
    assert "WRONG" in said[-1]


def test_a_big_endian_file_with_a_filler_is_read_and_not_edited(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    pair = struct.pack(">Q10sIQ1s", 10, b"tc.padding", 8, 1, b" ")
    path.write_bytes(b"GGUF" + struct.pack(">IQQ", 3, 0, 1) + pair)
    assert tc.meta.get(path) == {}
    with pytest.raises(PlanError, match="big-endian"):
        tc.meta.set(path, {"a": "c"})
