"""What is taken for a URL, and what is said of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from transcode.errors import FormatError, PlanError
from transcode.io.named import locate
from transcode.io.urls import instead, refuse_output, refuse_url, remote, remote_url


@pytest.mark.parametrize(
    "text",
    ["https://h/x", "HTTP://h", "s3://b/k", "https:/h/x", "hf://org/name", "file:x", "svn+ssh://h", "S3:b"],
)
def test_urls(text):
    assert remote(text)
    read = text.lower().startswith(("http", "s3:/", "hf:/"))
    assert remote_url(text) == (text if read else None)
    what = (
        "is a URL, and a local file or folder is needed here"
        if read
        else "is a URL of a kind that is not read"
    )
    with pytest.raises(FormatError, match=what):
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
        refuse_url("s3:x")


@pytest.mark.parametrize("text", ["file:///a/b", "file:/a/b", "FILE://a/b", "file:a/b"])
def test_of_a_local_url_the_path_is_told(text):
    assert instead(text) == "write the path, /a/b"
    assert instead(f"x{text}") is None


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("hf://org/name", "write hf://org/name, or hf:org/name after hf download org/name"),
        ("hf:/org/name", "write hf://org/name, or hf:org/name after hf download org/name"),
        (
            "hf://org/name@v1/sub/x.safetensors",
            "write hf://org/name@v1/sub/x.safetensors, or hf:org/name@v1/sub/x.safetensors after hf",
        ),
        ("https://huggingface.co/org/name", "write hf://org/name, or hf:org/name after hf download org/name"),
        (
            "https://huggingface.co/org/name/tree/main",
            "write hf://org/name, or hf:org/name after hf download org/name",
        ),
        ("https://hf.co/o/n/resolve/v1/x.safetensors?download=true", "write hf://o/n@v1/x.safetensors, or"),
        ("https://host/org/name", "download it"),
        ("ftp://org/name", "https://, hf://, s3://, gs:// and az:// are; else download it"),
    ],
)
def test_of_an_address_of_the_hub_its_name_is_told(url, told):
    with pytest.raises(FormatError) as caught:
        refuse_url(url)
    assert caught.value.hint.startswith(told)


def test_a_path_object_gets_its_slash_back():
    with pytest.raises(FormatError, match=r"^https://host/x: is a URL"):
        refuse_url(Path("https://host/x"))
    for output in ("s3://bucket/x", Path("s3://bucket/x")):
        with pytest.raises(PlanError, match=r"^s3://bucket/x: is a URL, .* upload what appears there"):
            refuse_output(output, stdout="")
    with pytest.raises(PlanError, match=r"^hf:org/name: is a name on the hub, and only local"):
        refuse_output("hf:org/name", stdout="")
    with pytest.raises(PlanError, match=r"^-: no; name a file"):
        refuse_output("-", stdout="no")


def test_standard_input_is_no_source(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FormatError, match="standard input is no source"):
        locate("-")
    with pytest.raises(FormatError, match="standard input cannot be read here"):
        refuse_url("-")
