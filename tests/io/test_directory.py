"""A folder held open stays that folder, and names in it lead nowhere else."""

from __future__ import annotations

import os
import stat

import pytest

from transcode.errors import PlanError
from transcode.io.directory import Directory, claim

pytestmark = pytest.mark.skipif(os.name != "posix", reason="descriptors of folders are POSIX'")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "d").mkdir()
    with Directory(tmp_path / "d") as folder:
        yield folder


def write(folder, name, data=b"x"):
    fd = folder.open(name, os.O_CREAT | os.O_WRONLY)
    os.write(fd, data)
    os.close(fd)


def test_names_are_looked_up_in_it_whatever_becomes_of_its_path(folder, tmp_path):
    os.rename(tmp_path / "d", tmp_path / "e")
    (tmp_path / "d").mkdir()
    write(folder, "b")
    write(folder, "a")
    assert folder.names() == ["a", "b"]
    assert sorted(os.listdir(tmp_path / "e")) == ["a", "b"]
    assert os.listdir(tmp_path / "d") == []
    assert folder.stat("a").st_size == 1
    assert folder.stat("absent") is None


def test_links_are_not_followed(folder, tmp_path):
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "d" / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(OSError, match="link"):
        folder.open("link", os.O_RDONLY)
    assert stat.S_ISLNK(folder.stat("link").st_mode)
    folder.remove("link")
    assert (tmp_path / "secret").read_bytes() == b"secret"
    (tmp_path / "to-d").symlink_to("d")
    with pytest.raises(NotADirectoryError):
        Directory(tmp_path / "to-d")
    with pytest.raises(FileNotFoundError):
        Directory(tmp_path / "d" / "absent", folder)


def test_what_is_removed(folder, tmp_path):
    write(folder, "file")
    folder.mkdir("inner")
    (tmp_path / "d" / "inner" / "x").write_bytes(b"x")
    folder.remove("file")
    folder.remove("inner")
    folder.remove("absent")
    folder.unlink("absent")
    assert folder.names() == []


def test_moving_replaces_in_one_step(folder, tmp_path):
    (tmp_path / "to").mkdir()
    (tmp_path / "to" / "new").write_bytes(b"old")
    write(folder, "a", b"new")
    with Directory(tmp_path / "to") as to:
        folder.move("a", to, "new")
        assert to.names() == ["new"]
    assert (tmp_path / "to" / "new").read_bytes() == b"new"
    assert folder.names() == []


def test_bytes_on_disk_of_all_levels(folder, tmp_path):
    write(folder, "a", os.urandom(10000))
    folder.mkdir("inner")
    (tmp_path / "d" / "inner" / "b").write_bytes(os.urandom(70000))
    (tmp_path / "d" / "inner" / "deeper").mkdir()
    (tmp_path / "d" / "inner" / "deeper" / "c").write_bytes(os.urandom(9000))
    paths = [tmp_path / "d" / one for one in ("a", "inner/b", "inner/deeper/c")]
    os.sync()  # file systems allocate late: until then the number of blocks is a guess
    assert folder.nbytes() == sum(path.stat().st_blocks * 512 for path in paths)


def test_a_claimed_folder_is_for_its_owner_alone(tmp_path):
    for _ in range(2):  # made, and taken over
        claim(tmp_path / "mine").close()
        assert stat.S_IMODE((tmp_path / "mine").stat().st_mode) == 0o700
        (tmp_path / "mine").chmod(0o755)


@pytest.mark.parametrize("kind", ["file", "link"])
def test_what_is_no_folder_is_not_cleared(kind, tmp_path):
    path = tmp_path / "x"
    if kind == "file":
        path.touch()
    else:
        (tmp_path / "elsewhere").mkdir()
        path.symlink_to("elsewhere")
    with pytest.raises(PlanError, match=r"is no folder|is a link to elsewhere") as error:
        claim(path)
    assert error.value.hint == "remove it"


def test_another_users_folder_is_not_taken_over(tmp_path, monkeypatch):
    (tmp_path / "x").mkdir()
    monkeypatch.setattr(os, "geteuid", lambda: os.stat(tmp_path).st_uid + 1)
    with pytest.raises(PlanError, match="belongs to another user"):
        claim(tmp_path / "x")
    claim(tmp_path / "new").close()  # some file systems give all that lies on them to one user
