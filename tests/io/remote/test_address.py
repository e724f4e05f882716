"""URLs taken apart, and what of them is shown."""

from __future__ import annotations

import pytest

from transcode.core.paths import unsigned
from transcode.errors import FormatError
from transcode.io.remote.address import Address, is_remote, parse, query_of


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("https://h/a/b.safetensors", Address("https", "h", "a/b.safetensors")),
        ("HTTPS:/h:8080/a", Address("https", "h:8080", "a")),
        ("hf://org/name@v1/sub/x", Address("hf", "org", "name@v1/sub/x")),
        ("s3://bucket", Address("s3", "bucket", "")),
        ("az://box/a//b/", Address("az", "box", "a//b/")),
        ("http://127.0.0.1:80/x", Address("http", "127.0.0.1:80", "x")),
        ("http://[::1]:80/x", Address("http", "[::1]:80", "x")),
        ("http://localhost/x", Address("http", "localhost", "x")),
    ],
)
def test_parts(text, address):
    assert is_remote(text)
    assert parse(text) == address


@pytest.mark.parametrize("text", ["x", "C:/x", "ftp://h/x", "hf:org/name", "file:///x", "s3:x"])
def test_what_is_none(text):
    assert not is_remote(text)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("http://host/x", "http://host/x: is not encrypted; write https://"),
        ("http://127.0.0.1.evil.org/x", "is not encrypted"),
        ("https://me:pass@host/x?s=1", "https://host/x: a password in a URL ends up in histories and logs"),
        ("https:///x", "names no host"),
        ("http://127.0.0.1:99999/x", "no host and port"),
        ("https://h:port/x", "no host and port"),
        ("https://[::1/x", "no host and port"),
        ("s3:///x", "names no bucket"),
        ("s3://b/x?versionId=1", "s3://b/x: has a query, which only https:// has"),
    ],
)
def test_what_is_refused(text, told):
    with pytest.raises(FormatError) as caught:
        parse(text)
    assert told in str(caught.value)
    assert "pass" not in str(caught.value).replace("a password", "")


def test_a_signature_stays_within_the_process():
    address = parse("https://h/x.safetensors?X-Sig=abc#part")
    assert str(address) == "https://h/x.safetensors"
    assert query_of(address) == "?X-Sig=abc"
    assert query_of(parse("https://h/other")) == ""
    assert (address.name, str(address.above), str(address.above.below("y"))) == (
        "x.safetensors", "https://h", "https://h/y",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("https://h/x?a=b", "https://h/x"),
        ("https:/h/x?a=b", "https:/h/x"),
        ("GET https://u:p@h/x?sig=%2F+b: 403 (https://h/y?z)", "GET https://h/x 403 (https://h/y)"),
        ("hf://org/name@main/x", "hf://org/name@main/x"),
        ("is it? yes", "is it? yes"),
        ("C:/what?", "C:/what?"),
    ],
)
def test_what_is_shown(text, left):
    assert unsigned(text) == left
