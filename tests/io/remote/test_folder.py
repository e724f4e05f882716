"""Folders of objects, and small files read through a path."""

from __future__ import annotations

import pytest
from standins.server import serving

from transcode.core.paths import Url, located
from transcode.errors import FormatError
from transcode.io.named import locate
from transcode.io.remote.folder import RemoteFolder

FILES = {
    "/m/config.json": b'{"a": 1}',
    "/m/model.safetensors": b"x" * 100,
    "/m/.hidden": b"",
    "/big.json": b"x" * 70_000,
}


@pytest.fixture
def site():
    with serving(dict(FILES)) as site:
        yield site


def test_what_is_known_of_a_folder(site):
    folder = locate(f"{site.url}/m/")
    assert isinstance(folder, RemoteFolder)
    assert [file.name for file in folder.files()] == ["config.json", "model.safetensors"]
    assert (folder.folders(), folder.inner("x"), folder.outer(), folder.path) == ([], None, None, None)
    assert (folder.size("config.json"), folder.size("none"), folder.exists("none")) == (8, None, False)
    assert folder.at("x") == RemoteFolder(folder._address).at("x")
    with folder.open("config.json").open() as reader:
        assert reader.read() == FILES["/m/config.json"]
    with pytest.raises(FileNotFoundError):
        folder.open("none")


def test_nobody_asks_what_lies_beside_a_lone_file(site):
    file = locate(f"{site.url}/m/model.safetensors")
    assert [one.name for one in file.folder.files()] == ["model.safetensors"]
    assert file.folder.size("config.json") is None
    assert len(site.seen) == 1


def test_small_files_are_read_through_a_path(site):
    path = located(f"{site.url}/m/config.json")
    assert isinstance(path, Url)
    assert path.read_bytes() == FILES["/m/config.json"]
    assert path.read_text("utf-8") == path.open(encoding="utf-8").read() == '{"a": 1}'
    assert path.open("rb").read(3) == b'{"a'
    assert path.is_file()
    assert not path.is_dir()
    assert not path.with_name("none").is_file()
    with pytest.raises(FileNotFoundError):
        path.with_name("none").read_bytes()
    assert not path.parent.is_dir()
    locate(f"{site.url}/m/")
    assert path.parent.is_dir()
    assert [one.name for one in path.parent.iterdir()] == ["config.json", "model.safetensors"]


def test_large_files_are_not(site, monkeypatch):
    from transcode.io.remote import folder

    monkeypatch.setattr(folder, "_SMALL", 60_000)
    with pytest.raises(FormatError, match="has 70000 bytes, more than are read as a whole"):
        located(f"{site.url}/big.json").read_bytes()
