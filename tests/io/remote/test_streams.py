"""Buckets written to by obstore, here its store in memory: parts in their order, which appear together."""

from __future__ import annotations

import pytest

import transcode as tc
from transcode.errors import PlanError, TranscodeError

obstore = pytest.importorskip("obstore")


@pytest.fixture
def store(monkeypatch):
    from transcode.io.remote import buckets, streams
    from transcode.io.remote.address import parse

    monkeypatch.setattr(streams, "_PART", 50_000)
    return buckets.connected(parse("memory://b"))


def objects(store):
    paths = [item["path"] for item in obstore.list(store).collect()]
    return {path: bytes(obstore.get(store, path).bytes()) for path in paths}


@pytest.mark.parametrize("end", ["", "x.safetensors", "x.gguf"])
def test_the_bytes_are_those_of_a_local_run(store, source, tmp_path, end):
    flow = tc.open(source) | (tc.cast("float32") if end.endswith("gguf") else tc.quantize("int8"))
    flow | tc.write(f"{tmp_path}/l/{end}")
    flow | tc.write(f"memory://b/m/{end}")
    assert objects(store) == {f"m/{path.name}": path.read_bytes() for path in (tmp_path / "l").iterdir()}


def test_the_index_comes_last(store, source, monkeypatch):
    order = []
    put = obstore.put
    monkeypatch.setattr(obstore, "put", lambda *args, **how: (put(*args, **how), order.append(args[1]))[0])
    tc.open(source) | tc.write("memory://b/m/", max_shard_size=100_000)
    assert order[-1].endswith(".index.json")
    assert len(order) == len(objects(store)) > 4


def test_nothing_appears_of_a_run_that_fails(store, source, monkeypatch):
    from transcode.io.remote import streams

    obstore.put(store, "m/x.safetensors", b"old")
    with pytest.raises(PlanError, match="exists already"):
        tc.open(source) | tc.write("memory://b/m/x.safetensors")

    def failing(*_, **__):
        raise TranscodeError("no more")

    monkeypatch.setattr(streams._Object, "place", failing)
    with pytest.raises(TranscodeError, match="no more"):
        tc.open(source) | tc.write("memory://b/m/x.safetensors", force=True)
    assert objects(store) == {"m/x.safetensors": b"old"}


def test_what_the_store_says_is_told(store, source, monkeypatch):
    def refusing(*_, **__):
        raise obstore.exceptions.PermissionDeniedError("no: https://h/x?sig=1\nDebug source")

    monkeypatch.setattr(obstore, "put", refusing)
    with pytest.raises(
        TranscodeError, match=r"^memory://b/x.safetensors: cannot be written: no: https://h/x$"
    ):
        tc.open(source) | tc.write("memory://b/x.safetensors")
