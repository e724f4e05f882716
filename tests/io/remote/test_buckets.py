"""Buckets, by obstore's store in memory: the same code as for those of others, which were not tried."""

from __future__ import annotations

import pytest

import transcode as tc
from transcode.errors import FormatError
from transcode.io.remote import buckets
from transcode.io.remote.address import parse
from transcode.io.remote.store import Facts, Fault

from .models import model

FILES = model()


@pytest.fixture
def bucket():
    obstore = pytest.importorskip("obstore")
    store = buckets.connected(parse("memory://bucket"))
    for name, data in FILES.items():
        obstore.put(store, f"models/m/{name}", data)
    obstore.put(store, "models/empty/model.safetensors", b"")
    return store


def test_a_prefix_is_read_as_a_folder(bucket, tmp_path):
    (tmp_path / "src").mkdir()
    for name, data in FILES.items():
        (tmp_path / "src" / name).write_bytes(data)
    tc.open(tmp_path / "src") | tc.quantize("int8") | tc.write(tmp_path / "l/")
    tc.open("memory://bucket/models/m/") | tc.quantize("int8") | tc.write(tmp_path / "r/")
    for path in (tmp_path / "l").iterdir():
        assert (tmp_path / "r" / path.name).read_bytes() == path.read_bytes()
    assert tc.verify(tmp_path / "r", "memory://bucket/models/m").right


def test_one_object(bucket):
    assert len(tc.inspect("memory://bucket/models/m/model-00001-of-00002.safetensors").tensors) == 8


def test_an_object_that_is_replaced_stops_the_run(bucket, tmp_path):
    import obstore

    flow = tc.open("memory://bucket/models/m")
    obstore.put(
        bucket, "models/m/model-00001-of-00002.safetensors", FILES["model-00001-of-00002.safetensors"]
    )
    with pytest.raises(FormatError, match="was changed since its header was read"):
        flow | tc.write(tmp_path / "out/")
    file = flow.source.inputs[0]
    with pytest.raises(FormatError, match="its ETag is no longer what it was"):
        file.fetch(70_000, 70_010, memoryview(bytearray(10)))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("place", "told"),
    [
        ("memory://bucket/none", "memory://bucket/none: no such file or folder"),
        ("memory://bucket/models", "holds weights in empty/, m/"),
        ("memory://bucket/models/empty", "empty/model.safetensors: is empty"),
    ],
)
def test_what_is_no_checkpoint(bucket, place, told):
    with pytest.raises(FormatError) as caught:
        tc.inspect(place)
    assert told in str(caught.value)


def test_without_the_package(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(
        FormatError, match=r"obstore, which is not installed; pip install 'tensor-transcode\[remote\]'"
    ):
        tc.inspect("s3://bucket/x")


def test_errors_of_obstore_in_our_words(bucket, monkeypatch):
    import obstore

    store = buckets.Bucket(parse("memory://bucket"))

    def failing(error):
        def get(*_, **__):
            raise error

        monkeypatch.setattr(obstore, "get", get)
        monkeypatch.setattr(obstore, "head", get)

    failing(
        obstore.exceptions.GenericError("Generic S3 error: GET https://h/x?X-Amz-Signature=1: 503 \nDebug")
    )
    with pytest.raises(Fault) as fault:
        store.facts("x")
    assert "Signature" not in str(fault.value)
    assert "Debug" not in str(fault.value)
    failing(obstore.exceptions.GenericError("Server returned non-2xx status code: 404 Not Found"))
    with pytest.raises(FormatError, match="404"):
        next(store.stream("x", 0, 1, Facts(1, "")))
    failing(obstore.exceptions.PermissionDeniedError("no"))
    with pytest.raises(FormatError, match=r"credentials from the environment: AWS_\*"):
        store.facts("x")
