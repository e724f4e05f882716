"""What is taken for a URL, and what is said of it."""

from __future__ import annotations

import pytest

from transcode.errors import FormatError
from transcode.io.urls import instead, refuse_url, remote


@pytest.mark.parametrize(
    "text",
    ["https://h/x", "HTTP://h", "s3://b/k", "https:/h/x", "hf:org/name", "file:x", "svn+ssh://h", "S3:b"],
)
def test_urls(text):
    assert remote(text)
    with pytest.raises(FormatError, match="is a URL, and only local"):
        refuse_url(text)


@pytest.mark.parametrize(
    "text", ["x", "./a:b", "C:/models/x", "c:\\x", "a:b", "model.safetensors", "", "hfx:org", "/http://x"]
)
def test_paths(text):
    assert not remote(text)
    refuse_url(text)


def test_what_exists_is_no_url(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hf:x").touch()
    (tmp_path / "s3:y").symlink_to("nowhere")
    refuse_url("hf:x")
    refuse_url("s3:y")
    with pytest.raises(FormatError):
        refuse_url("hf:y")


@pytest.mark.parametrize("text", ["file:///a/b", "file:/a/b", "FILE://a/b", "file:a/b"])
def test_of_a_local_url_the_path_is_told(text):
    assert instead(text) == "write the path, /a/b"
    assert instead(f"x{text}") is None


def test_standard_input_is_no_source(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FormatError, match="standard input is no source"):
        refuse_url("-")
