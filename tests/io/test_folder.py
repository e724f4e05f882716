"""Folders of the local file system, as discovery sees them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from transcode.errors import FormatError
from transcode.io.folder import File, LocalFolder
from transcode.io.named import locate


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    home = tmp_path / "model"
    (home / "inner" / "deep").mkdir(parents=True)
    (home / ".hidden").mkdir()
    (home / "b.bin").write_bytes(b"12345")
    (home / "a.fp16.safetensors").write_bytes(b"abc")
    (home / ".env").write_bytes(b"x")
    (tmp_path / "elsewhere").write_bytes(b"secret")
    return home


def test_names_are_sorted_and_what_is_hidden_is_not_there(folder: Path) -> None:
    (folder / "gone").symlink_to("nowhere")
    os.mkfifo(folder / "pipe")
    here = LocalFolder(folder)
    assert [file.name for file in here.files()] == ["a.fp16.safetensors", "b.bin", "gone", "pipe"]
    assert [one.name for one in here.folders()] == ["inner"]
    assert here.inner("inner").folders()[0].url == str(folder / "inner" / "deep")
    assert here.inner("b.bin") is here.inner("nothing") is None


def test_what_is_known_of_a_name(folder: Path) -> None:
    (folder / "gone").symlink_to("nowhere")
    (folder / "out").symlink_to(folder.parent / "elsewhere")
    (folder / "in").symlink_to("b.bin")
    os.mkfifo(folder / "pipe")
    here = LocalFolder(folder)
    names = ["b.bin", "in", "out", "gone", "pipe", "inner", "nothing"]
    assert [here.size(name) for name in names] == [5, 5, 6, None, None, None, None]
    assert [here.exists(name) for name in names] == [True, True, True, False, True, True, False]
    assert [here.dangling(name) for name in names] == [None, None, None, "nowhere", None, None, None]
    assert [name for name in names if here.outside(name)] == ["out"]
    assert here.outside("out") == str(folder.parent / "elsewhere")


def test_files_are_values_named_as_they_were_asked_for(folder: Path, monkeypatch) -> None:
    monkeypatch.chdir(folder)
    file = LocalFolder(".").at("a.fp16.safetensors")
    assert (str(file), file.url, file.stem, file.suffix) == (
        "a.fp16.safetensors", "a.fp16.safetensors", "a.fp16", ".safetensors",
    )  # fmt: skip
    assert file == LocalFolder("").at(file.name)
    assert hash(file) == hash(LocalFolder("").at(file.name))
    assert file != LocalFolder(folder).at(file.name)  # another name for it, as for paths
    assert file.path == Path("a.fp16.safetensors")
    assert LocalFolder(".").name == "model"
    assert LocalFolder(".").outer().url == str(folder.parent)
    assert sorted(LocalFolder(".").files(), reverse=True)[0].name == "b.bin"


def test_bytes_of_a_file(folder: Path) -> None:
    opened = LocalFolder(folder).at("b.bin").open()
    with opened.open() as reader:
        assert reader.read() == b"12345"
    assert (opened.size, opened.url, opened.path) == (5, str(folder / "b.bin"), folder / "b.bin")
    before = opened.identity
    (folder / "b.bin").write_bytes(b"123456")
    assert LocalFolder(folder).open("b.bin").identity != before
    with pytest.raises(FormatError, match=r"b\.bin: was changed"):
        opened.verify()
    with pytest.raises(OSError, match="No such file"):
        LocalFolder(folder).open("nothing")


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="nothing is closed to root")
def test_a_folder_that_is_closed(folder: Path) -> None:
    folder.chmod(0)
    try:
        for names in (LocalFolder(folder).files, LocalFolder(folder).folders):
            with pytest.raises(FormatError, match="model: cannot be read: Permission denied"):
                names()
    finally:
        folder.chmod(0o700)


def test_a_folder_that_is_gone(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="gone: cannot be read: No such file or directory"):
        LocalFolder(tmp_path / "gone").files()


def test_what_a_user_names(folder: Path) -> None:
    assert isinstance(locate(folder), LocalFolder)
    file = locate(folder / "b.bin")
    assert isinstance(file, File)
    assert (file.name, file.url, file.folder.url) == ("b.bin", str(folder / "b.bin"), str(folder))
    (folder / "gone").symlink_to("nowhere")
    for name, told in (
        ("gone", "gone: is a link to nowhere, which does not exist; is the download complete?"),
        ("nothing", "nothing: no such file or folder"),
    ):
        with pytest.raises(FormatError) as error:
            locate(folder / name)
        assert str(error.value) == f"{folder}/{told}"
    with pytest.raises(FormatError, match="is a URL of a kind"):
        locate("ftp://host/model.safetensors")


def test_an_empty_path_is_not_the_current_folder(folder: Path, monkeypatch, refused, cli) -> None:
    """As of a variable that is not set: ``transcode run "$MODEL" out`` would have converted what is here."""
    monkeypatch.chdir(folder)
    told = "no path is given: it is empty; a dot is the current folder"
    with pytest.raises(FormatError) as error:
        locate("")
    assert str(error.value) == told
    for command in ("run|", "inspect|", "doctor|", "verify|", "meta|get|"):
        assert told in refused(*command.split("|"), *(["out"] if command == "run|" else []))
    assert not (folder / "out").exists()
