"""What metadata a consumer asks for, read strictly."""

from __future__ import annotations

import pytest

from transcode.catalog.profiles import NEEDS, Key, profile, profiles
from transcode.errors import RecipeError

TEXT = """
profile: mine
title: Mine
keys:
  a: {need: required, why: x, json: object, fields: [b.c], one_of: [d], matches: "e+"}
  f: {need: optional, why: y}
pipelines: {short: org/name}
model_classes: {A: B}
default_class: C
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.setenv("TRANSCODE_FORMATS", str(tmp_path))
    (tmp_path / "profiles").mkdir()

    def call(text):
        (tmp_path / "profiles" / "mine.yaml").write_text(text)

    return call


def test_all_profiles_can_be_read():
    assert profiles() == sorted(profiles())
    assert "nunchaku" in profiles()
    for name in profiles():
        loaded = profile(name)
        assert loaded.name == name
        assert loaded.keys
        assert all(key.need in NEEDS and key.why for key in loaded.keys.values())


def test_every_key_of_a_profile(write):
    write(TEXT)
    mine = profile("mine")
    assert "mine" in profiles()
    a = mine.keys["a"]
    assert (a.need, a.why, a.json, a.fields, a.one_of) == ("required", "x", "object", ("b.c",), ("d",))
    assert a.matches.fullmatch("eee")
    assert mine.keys["f"] == Key("f", "optional", "y")
    assert (mine.title, mine.pipelines, mine.model_classes) == ("Mine", {"short": "org/name"}, {"A": "B"})
    assert mine.default_class == "C"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [("profile: mine", "profile: yours", "not the name of the file"),
     ("need: required", "need: nice", "nice"),
     ("json: object, ", "", "'fields' needs json: object"), ('"e+"', '"e("', "bad regular expression"),
     ("why: y", "way: y", "why"), ("title:", "titel:", "title"), ("default_class: C", "class: C", "class")],
)  # fmt: skip
def test_mistakes_are_refused(old, new, message, write):
    assert old in TEXT
    write(TEXT.replace(old, new))
    with pytest.raises(RecipeError, match=message):
        profile("mine")


def test_a_profile_that_is_not_there():
    with pytest.raises(RecipeError, match="absent"):
        profile("absent")
