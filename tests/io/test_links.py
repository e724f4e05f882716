"""Whose bytes a file's are, in folders as the hub's cache lays them out."""

from __future__ import annotations

import os

import pytest

from transcode.io.links import leads_out, shared


@pytest.fixture
def hub(tmp_path):
    """A snapshot of a repository, whose file is a link to a blob."""
    repository = tmp_path / "models--a--b"
    (repository / "blobs").mkdir(parents=True)
    (repository / "blobs" / "0123").write_bytes(b"x")
    snapshot = repository / "snapshots" / "rev"
    snapshot.mkdir(parents=True)
    (snapshot / "m.safetensors").symlink_to("../../blobs/0123")
    return snapshot


def test_one_name_is_shared_with_nobody_and_a_link_to_it_neither(tmp_path):
    (tmp_path / "a").write_bytes(b"x")
    (tmp_path / "b").symlink_to("a")
    assert shared(tmp_path / "a") is None
    assert shared(str(tmp_path / "b")) is None
    assert leads_out(tmp_path / "a", tmp_path) is None
    assert leads_out(tmp_path / "b", tmp_path) is None


def test_hard_links_are_counted(tmp_path):
    (tmp_path / "a").write_bytes(b"x")
    os.link(tmp_path / "a", tmp_path / "b")
    os.link(tmp_path / "a", tmp_path / "c")
    (tmp_path / "d").symlink_to("b")
    for name in "abcd":
        assert shared(tmp_path / name).startswith("3 hard links")


def test_blobs_of_the_hub_are_shared_and_belong_to_their_snapshots(hub):
    assert "blob of the hub cache" in shared(hub / "m.safetensors")
    assert leads_out(hub / "m.safetensors", hub) is None


def test_blobs_of_another_name_are_not(tmp_path):
    """Any folder may be called so: the repository's name tells, or that the snapshots stand beside it."""
    (tmp_path / "repo" / "blobs").mkdir(parents=True)
    blob = tmp_path / "repo" / "blobs" / "0123"
    blob.write_bytes(b"x")
    assert shared(blob) is None
    inside = tmp_path / "repo" / "snapshots" / "rev"
    outside = tmp_path / "elsewhere"
    for folder in (inside, outside):
        folder.mkdir(parents=True)
        (folder / "m").symlink_to(blob)
    assert leads_out(inside / "m", inside) is None
    assert leads_out(outside / "m", outside) == blob


def test_a_link_out_of_the_folder_leads_where_it_ends(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "secret").write_bytes(b"x")
    (tmp_path / "step").symlink_to("secret")
    (tmp_path / "in" / "m").symlink_to("../step")
    (tmp_path / "in-2").mkdir()
    (tmp_path / "in" / "n").symlink_to("../in-2")
    assert leads_out(tmp_path / "in" / "m", tmp_path / "in") == tmp_path / "secret"
    assert leads_out(tmp_path / "in" / "n", tmp_path / "in") == tmp_path / "in-2"
