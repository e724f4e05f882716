"""Metadata that is not text loads nowhere: it is shown, repaired, and every refusal says how."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
from safetensors import SafetensorError, safe_open

VALUES = {"number": "0", "nested": '{"a":[1,2]}', "null": "null", "boolean": "true", "list": '["x"]',
          "surrogate": '"\\ud800"'}  # fmt: skip


def write(path: Path, metadata: str) -> Path:
    """A file of one tensor whose ``__metadata__`` is this JSON."""
    entry = '"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
    text = f'{{"__metadata__":{metadata},{entry}}}'.encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + struct.pack("<f", 1.5))
    return path


def loaded(path: Path) -> dict[str, str] | None:
    with safe_open(path, "pt") as file:
        assert file.get_tensor("a").item() == 1.5
        return file.metadata()


@pytest.fixture(params=VALUES)
def file(request, tmp_path):
    path = write(tmp_path / "n.safetensors", f'{{"author":"me","bad":{VALUES[request.param]}}}')
    with pytest.raises(SafetensorError):
        loaded(path)
    return path


def test_set(file, cli):
    cli("meta", "set", file, "bad=0")
    assert loaded(file) == {"author": "me", "bad": "0"}
    cli("inspect", file)


def test_del(file, cli):
    cli("meta", "del", file, "bad")
    assert loaded(file) == {"author": "me"}


def test_clear(file, cli):
    cli("meta", "clear", file)
    assert loaded(file) is None


def test_a_repair_can_be_undone(file, cli):
    before = file.read_bytes()
    cli("meta", "del", file, "bad")
    cli("meta", "restore", file)
    assert file.read_bytes() == before
    cli("meta", "restore", file)
    assert loaded(file) == {"author": "me"}


def test_get_shows_it_and_says_how(file, cli):
    said = cli("meta", "get", file)
    assert "author: me" in said.out
    assert "'bad': not text" in said.err
    assert f"transcode meta set {file} bad=VALUE" in said.err
    assert "bad" in cli("meta", "get", file, "--json").json[str(file)]


def test_dry_run_shows_the_change(file, cli):
    before = file.read_bytes()
    assert "~ bad:" in cli("meta", "set", file, "bad=0", "-n").out
    assert file.read_bytes() == before


def test_what_leaves_it_is_refused(file, refused):
    before = file.read_bytes()
    for words in (["set", file, "author=you"], ["del", file, "author"], ["rename-key", file, "bad", "worse"]):
        told = refused("meta", *words)
        assert "not a string" in told
        assert "delete it in the same command" in told
    assert file.read_bytes() == before


def test_other_commands_name_the_repair(file, refused, tmp_path, cli):
    for words in (["run", file, tmp_path / "o.safetensors"], ["inspect", file], ["meta", "diff", file, file]):
        told = refused(*words)
        assert "transcode meta set FILE bad=VALUE" in told
        assert "meta clear FILE" in told
    assert "transcode meta set FILE bad=VALUE" in cli("meta", "validate", file, code=1).out


def test_several_keys_at_once(tmp_path, cli, refused):
    path = write(tmp_path / "n.safetensors", '{"a":1,"b":2,"c":"x"}')
    assert "'b'" in refused("meta", "set", path, "a=1")
    cli("meta", "set", path, "a=1", "b=two")
    assert loaded(path) == {"a": "1", "b": "two", "c": "x"}


@pytest.mark.parametrize("whole", ["5", "[1]", '"text"'])
def test_metadata_that_is_no_object(whole, tmp_path, cli, refused):
    path = write(tmp_path / "n.safetensors", whole)
    assert "meta clear FILE" in refused("inspect", path)
    cli("meta", "set", path, "author=me", "--no-format")
    assert loaded(path) == {"author": "me"}
    cli("meta", "clear", write(path, whole))
    assert loaded(path) is None


def test_a_key_that_stands_twice(tmp_path, cli, refused):
    path = write(tmp_path / "n.safetensors", '{"a":"1","a":"2"}')
    assert "transcode meta set FILE a=VALUE" in refused("inspect", path)
    cli("meta", "set", path, "a=3")
    assert loaded(path) == {"a": "3"}


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


def test_git_lfs_pointers(tmp_path, refused, cli):
    path = tmp_path / "m.safetensors"
    path.write_text(POINTER)
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"_class_name": "FluxTransformer2DModel"}))
    for words in (
        ["get"],
        ["set", "a=b"],
        ["del", "a"],
        ["clear"],
        ["embed", "--config", config],
        ["backup"],
    ):
        told = refused("meta", words[0], path, *words[1:])
        assert "is a Git LFS pointer, not the file itself; run `git lfs pull`" in told
    assert "Git LFS" in cli("meta", "validate", path, code=1).out
    assert "Git LFS" in refused("run", path, tmp_path / "o.safetensors")
    assert path.read_text() == POINTER


@pytest.mark.parametrize(("content", "told"), [(b"<!DOCTYPE html><html>", "web page"), (b"GGUF" * 9, "GGUF")])
def test_other_strangers(content, told, tmp_path, refused):
    path = tmp_path / "m.safetensors"
    path.write_bytes(content)
    assert told in refused("meta", "get", path)
    assert told in refused("inspect", path)
