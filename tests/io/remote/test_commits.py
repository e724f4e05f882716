"""The hub written to, by a stand-in for its API: large files by parts, and one commit at the end."""

from __future__ import annotations

import pytest

import transcode as tc
from transcode.errors import PlanError, TranscodeError
from transcode.execution import sending


def local(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_folder_appears_with_one_commit(hub, source, tmp_path):
    flow = tc.open(source) | tc.quantize("int8")
    flow | tc.write(tmp_path / "l/", max_shard_size=100_000)
    report = flow | tc.write("hf://org/name/new/", max_shard_size=100_000)
    here = local(tmp_path / "l")
    there = {name.removeprefix("new/"): data for name, data in hub.files.items() if name.startswith("new/")}
    assert there == here
    assert len(report.plan.files) > 1
    assert hub.commits == 1
    assert sum(one.startswith("PUT /store/") for one in hub.asked) >= len(report.plan.files)
    assert "hf_secret" not in repr(report) + str(report.to_json())
    assert len(tc.inspect("hf://org/name/new").tensors) == 28


def test_a_file(hub, source, tmp_path):
    tc.open(source) | tc.write(tmp_path / "x.gguf")
    tc.open(source) | tc.write("hf://org/name/x.gguf")
    assert hub.files["x.gguf"] == (tmp_path / "x.gguf").read_bytes()
    with pytest.raises(PlanError, match=r"hf://org/name/x.gguf: exists already; pass force=True"):
        tc.open(source) | tc.write("hf://org/name/x.gguf")
    tc.open(source) | tc.cast("float16") | tc.write("hf://org/name/x.gguf", force=True)
    assert hub.commits == 2


def test_nothing_appears_where_something_goes_wrong(hub, source):
    before = dict(hub.files)
    hub.broken = True
    with pytest.raises(TranscodeError, match=r"hf://org/name: cannot be sent: .*403") as caught:
        tc.open(source) | tc.write("hf://org/name/x.safetensors")
    assert "Signature" not in str(caught.value)
    assert (hub.files, hub.commits) == (before, 0)


def test_somebody_else_has_committed(hub, source, monkeypatch):
    from transcode.io.remote.commits import Commits

    send = Commits.send

    def later(self, name, content):
        hub.commit = "e" * 40
        send(self, name, content)

    monkeypatch.setattr(Commits, "send", later)
    with pytest.raises(TranscodeError, match=r"answers 412: .*; has somebody changed the branch meanwhile"):
        tc.open(source) | tc.write("hf://org/name/x.safetensors")


def test_what_is_too_large_for_memory_is_refused_first(hub, source, monkeypatch):
    monkeypatch.setattr(sending, "MOST", 500_000)
    with pytest.raises(
        PlanError, match="there files are sent in one piece; write smaller files: max_shard_size"
    ):
        tc.open(source) | tc.write("hf://org/name/x.safetensors")
    assert not any(one.startswith(("POST", "PUT")) for one in hub.asked)


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("hf://org/other/x.safetensors", "create it: hf repo create org/other"),
        ("hf://org/name@nope/x.safetensors", "has no such branch on the hub"),
        ("hf://name/x.safetensors", "is no name on the hub; write hf://org/name"),
        ("hf:org/name/x.safetensors", "is a name on the hub, and only local files"),
    ],
)
def test_where_nothing_can_be_written(hub, source, url, told):
    with pytest.raises(TranscodeError) as caught:
        tc.open(source) | tc.write(url)
    assert told in str(caught.value)
