"""Homes that do not exist, and links that lead in circles."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from transcode.core.paths import expanded, home, real
from transcode.errors import RecipeError


def test_the_home_is_what_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert home() == tmp_path
    assert expanded("~/a") == tmp_path / "a"
    assert expanded(Path("~")) == tmp_path
    assert expanded("a/~") == Path("a/~")


def test_nobody_has_a_home(monkeypatch):
    def nowhere(path):
        return path

    monkeypatch.setattr(os.path, "expanduser", nowhere)
    assert home() is None
    with pytest.raises(RecipeError, match="there is no home folder for ~") as error:
        expanded("~/a")
    assert "HOME" in error.value.hint
    assert expanded("a") == Path("a")


def test_links_are_followed_as_far_as_they_lead(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("file")
    (tmp_path / "x").symlink_to("y")
    (tmp_path / "y").symlink_to("x")
    assert real(tmp_path / "a") == tmp_path / "file"
    assert real(str(tmp_path / "absent")) == tmp_path / "absent"
    assert real(tmp_path / "x").parent == tmp_path
