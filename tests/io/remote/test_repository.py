"""The hub, by a stand-in for its API."""

from __future__ import annotations

import pytest

import transcode as tc
from transcode.errors import FormatError

from .models import model, weights


def test_a_repository_is_read_as_a_folder(hub, tmp_path):
    (tmp_path / "src").mkdir()
    for name, data in model().items():
        (tmp_path / "src" / name).write_bytes(data)
    tc.open(tmp_path / "src") | tc.quantize("int8") | tc.write(tmp_path / "l/")
    report = tc.open("hf://org/name") | tc.quantize("int8") | tc.write(tmp_path / "r/")
    for path in (tmp_path / "l").iterdir():
        assert (tmp_path / "r" / path.name).read_bytes() == path.read_bytes()
    assert hub.site.sent <= 1.02 * weights(model()) + 1000
    assert "reads org/name from the hub, revision 1a2b3c4 (main)" in map(str, report.plan.log.notes)
    assert "hf_secret" not in repr(report) + str(report.to_json())


@pytest.mark.parametrize(
    ("url", "tensors"),
    [
        ("hf://org/name@main", 16),
        ("hf://org/name@1a2b3c4d5e1a2b3c4d5e1a2b3c4d5e1a2b3c4d5e/sub", 8),
        ("hf://org/name/sub/model.safetensors", 8),
    ],
)
def test_revisions_and_what_is_inside(hub, url, tensors):
    assert len(tc.inspect(url).tensors) == tensors
    assert hub.site.sent <= 3 * (64 << 10)


def test_a_branch_that_moves_changes_nothing(hub, tmp_path):
    flow = tc.open("hf://org/name/sub")
    hub.commit, old = "f" * 40, hub.commit
    hub.also = old
    flow | tc.write(tmp_path / "x.safetensors")
    asked = [one for one in hub.asked if "/resolve/" in one]
    assert asked
    assert all(old in one for one in asked)


def test_where_it_redirects_is_asked_for_anew_when_it_ends(hub, tmp_path, monkeypatch):
    from transcode.io.remote import ahead

    monkeypatch.setattr(ahead, "CHUNK", 30_000)
    monkeypatch.setattr(
        ahead, "AT_ONCE", 1
    )  # or several would spend each new redirection before one has used it
    hub.lasts = 2
    tc.open("hf://org/name/sub") | tc.write(tmp_path / "x.safetensors")
    assert sum("/resolve/" in one for one in hub.asked) >= 3


def test_another_file_under_the_same_name_is_noticed(hub, tmp_path):
    flow = tc.open("hf://org/name/sub")
    hub.files["sub/model.safetensors"] = model()["model-00002-of-00002.safetensors"]
    hub.on(hub.site)
    hub.lasts = 0
    with pytest.raises(
        FormatError, match="was changed since its header was read: the hub names another file"
    ):
        flow | tc.write(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("hf://org/other", "hf://org/other: is not on the hub (http://127.0.0.1:"),
        ("hf://org/name@nope", "hf://org/name@nope: has no such revision on the hub"),
        ("hf://org/name/none", "hf://org/name/none: no such file or folder"),
        ("hf://org/na--me", "is no name on the hub; write hf://org/name"),
    ],
)
def test_what_is_not_there(hub, url, told):
    with pytest.raises(FormatError) as caught:
        tc.inspect(url)
    assert told in str(caught.value)


def test_without_a_token(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(FormatError, match=r"or not for this account; .* hf auth login") as caught:
        tc.inspect("hf://org/name")
    assert "hf_wrong" not in str(caught.value)


def test_without_the_package(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(FormatError, match=r"not installed; pip install 'tensor-transcode\[hub\]'"):
        tc.inspect("hf://org/name")


def test_offline(hub, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(FormatError):
        tc.inspect("hf://org/name")
