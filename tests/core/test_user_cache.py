"""What is kept for this user alone: sealed, and never where others can write."""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile

import pytest

from transcode.core import user_cache
from transcode.core.user_cache import private_folder, read_sealed, write_sealed

pytestmark = pytest.mark.skipif(not hasattr(os, "getuid"), reason="permissions as on Unix")


@pytest.fixture
def homes(tmp_path, monkeypatch):
    """The user's cache folder and the temporary one, both of this test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path / "cache" / "transcode", tmp_path / f"transcode-{os.getuid()}"


def test_the_users_cache_is_made_for_the_user_alone(homes):
    assert private_folder() == homes[0]
    assert stat.S_IMODE(homes[0].stat().st_mode) == 0o700


def test_a_folder_that_others_can_write_is_not_used(homes):
    homes[0].mkdir(parents=True)
    for mode in (0o777, 0o720, 0o702):
        homes[0].chmod(mode)
        assert private_folder() == homes[1]
    homes[1].chmod(0o777)
    assert private_folder() is None


def test_a_file_in_the_place_of_a_folder(homes):
    homes[0].parent.mkdir()
    homes[0].write_bytes(b"")
    assert private_folder() == homes[1]


def test_without_a_home(monkeypatch, homes):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(user_cache, "home", lambda: None)
    assert private_folder() == homes[1]


def test_what_is_written_comes_back(tmp_path):
    path = tmp_path / "new" / "one.kernel"
    write_sealed(path, b"body")
    write_sealed(path, b"another")
    assert read_sealed(path) == b"another"
    assert path.read_bytes() == hashlib.sha256(b"another").digest() + b"another"
    assert list(path.parent.iterdir()) == [path]


def test_nothing_half_written_stays(tmp_path):
    (tmp_path / "one").mkdir()
    with pytest.raises(IsADirectoryError):
        write_sealed(tmp_path / "one", b"body")
    assert list(tmp_path.iterdir()) == [tmp_path / "one"]


@pytest.mark.parametrize("raw", [b"", b"short", hashlib.sha256(b"body").digest() + b"bodz"])
def test_what_is_damaged_is_refused(raw, tmp_path):
    path = tmp_path / "one"
    path.write_bytes(raw)
    with pytest.raises(ValueError, match="damaged"):
        read_sealed(path)
