"""S3 written to by boto3: parts in any order, which appear together."""

from __future__ import annotations

import pytest

import transcode as tc
from transcode.errors import PlanError, TranscodeError

from .models import model

pytest.importorskip("boto3")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("src")
    for name, data in model((512, 1024), 8).items():
        (folder / name).write_bytes(data)
    return folder


@pytest.fixture(autouse=True)
def small(monkeypatch):
    from transcode.io.remote import multipart

    monkeypatch.setattr(multipart, "_PART", 5 << 20)


def test_a_folder_and_a_file(bucket, source, tmp_path):
    flow = tc.open(source) | tc.quantize("int8")
    flow | tc.write(tmp_path / "l/")
    report = flow | tc.write("s3://bucket/models/m/")
    here = {f"models/m/{path.name}": path.read_bytes() for path in (tmp_path / "l").iterdir()}
    assert bucket.objects == here
    assert bucket.uploads == {}
    parts = [one for one in bucket.asked if one.startswith("PUT") and "partNumber" in one]
    assert len(parts) == sum(-(-file.size // (5 << 20)) for file in report.plan.files) >= 3
    assert "s3cret" not in repr(report) + str(report.to_json())
    flow | tc.write("s3://bucket/one.safetensors")
    flow | tc.write(tmp_path / "one.safetensors")
    assert bucket.objects["one.safetensors"] == (tmp_path / "one.safetensors").read_bytes()


def test_from_one_bucket_into_another_place(bucket, source, tmp_path):
    pytest.importorskip("obstore")
    for path in source.iterdir():
        bucket.site.files[f"/bucket/src/{path.name}"] = path.read_bytes()
    tc.open(source) | tc.quantize("int8") | tc.write(tmp_path / "l/")
    tc.open("s3://bucket/src") | tc.quantize("int8") | tc.write("s3://bucket/out/")
    for path in (tmp_path / "l").iterdir():
        assert bucket.objects[f"out/{path.name}"] == path.read_bytes()
    with pytest.raises(PlanError, match="is the source, which is never written to"):
        tc.open("s3://bucket/src") | tc.write("s3://bucket/src/", force=True)


def test_nothing_appears_where_a_part_is_refused(bucket, source):
    bucket.refuses = 2
    with pytest.raises(
        TranscodeError, match=r"s3://bucket/x.safetensors: the store answers AccessDenied: no"
    ):
        tc.open(source) | tc.write("s3://bucket/x.safetensors")
    assert (bucket.objects, bucket.uploads) == ({}, {})


def test_what_exists_is_replaced_if_that_is_asked_for(bucket, source):
    bucket.site.files["/bucket/x.safetensors"] = b"old"
    with pytest.raises(PlanError, match=r"s3://bucket/x.safetensors: exists already; pass force=True"):
        tc.open(source) | tc.write("s3://bucket/x.safetensors")
    bucket.refuses = 1
    with pytest.raises(TranscodeError, match="AccessDenied"):
        tc.open(source) | tc.write("s3://bucket/x.safetensors", force=True)
    assert bucket.objects == {"x.safetensors": b"old"}
    bucket.refuses = None
    tc.open(source) | tc.write("s3://bucket/x.safetensors", force=True)
    assert len(bucket.objects["x.safetensors"]) > 10_000_000


def test_what_a_killed_run_left_is_told(bucket, tmp_path, capsys):
    from transcode.cli import main

    for name, data in model().items():
        (tmp_path / name).write_bytes(data)
    words = ["run", str(tmp_path), "s3://bucket/m/", "--force"]
    for key, told in ((None, False), ("other/x.safetensors", False), ("m/x.safetensors", True)):
        bucket.uploads = {} if key is None else {(key, "left"): {1: b""}}
        with pytest.raises(SystemExit) as end:
            main(words)
        assert end.value.code in (None, 0)
        assert ("uploads that did not end lie there" in capsys.readouterr().err) is told
        assert len(bucket.uploads) == (key is not None)  # it may be at work


def test_parts_are_no_more_than_a_store_takes(bucket):
    from transcode.io.remote.address import parse
    from transcode.io.remote.multipart import Multipart

    place = Multipart(parse("s3://bucket/x"))
    for size in (1, 5 << 20, 10**9, 10**11, 5 * 10**12):
        part = place.part(size)
        assert part >= 5 << 20
        assert -(-size // part) <= 10_000
