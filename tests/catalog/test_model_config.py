"""Where the config.json of a model is looked for, in folders laid out as the hub's cache is."""

from __future__ import annotations

from pathlib import Path

import pytest

from transcode.catalog.model_config import find_config
from transcode.errors import TranscodeError

PLACES = ["transformer/config.json", "config.json", "transformer.config.json"]


def write(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{}")
    return path


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A hub cache of our own."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    return tmp_path / "hf" / "hub"


def test_the_file_itself_wins(tmp_path):
    path = write(tmp_path / "c.json")
    write(tmp_path / "m" / "config.json")
    assert find_config(str(path), str(tmp_path / "m"), None, {}) == (path, str(path))
    absent = str(tmp_path / "absent.json")
    assert find_config(absent, str(tmp_path / "m"), None, {}) == (None, absent)


@pytest.mark.parametrize("first", range(3))
def test_places_in_a_folder_in_their_order(first, tmp_path):
    paths = [write(tmp_path / place) for place in PLACES[first:]]
    assert find_config(None, str(tmp_path), None, {}) == (paths[0], str(tmp_path))


def test_a_repository_of_the_hub_has_its_main_snapshot_first(cache):
    repository = cache / "models--org--name"
    old, new = (write(repository / "snapshots" / rev / "config.json") for rev in ("aaa", "bbb"))
    assert find_config(None, "org/name", None, {})[0] == old
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("bbb\n")
    assert find_config(None, "org/name", None, {})[0] == new
    assert find_config(None, "org/other", None, {}) == (None, "org/other")
    assert find_config(None, "name", None, {}) == (None, "name")


@pytest.mark.parametrize("variable", ["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME"])
def test_the_variables_that_huggingface_hub_reads(variable, tmp_path, monkeypatch):
    monkeypatch.delenv("HF_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv(variable, str(tmp_path / "own"))
    below = "huggingface/hub" if variable == "XDG_CACHE_HOME" else "."
    path = write(tmp_path / "own" / below / "models--a--b" / "snapshots" / "r" / "config.json")
    assert find_config(None, "a/b", None, {})[0] == path


@pytest.mark.parametrize(
    ("pipeline", "model"),
    [("{path: M, name: x}", "M"), ("{name: short}", "org/name"), ("{name: a/b}", "a/b")],
)
def test_a_recipe_says_the_model(pipeline, model, tmp_path):
    recipe = tmp_path / "r.yaml"
    recipe.write_text(f"pipeline: {pipeline}")
    assert find_config(None, None, str(recipe), {"short": "org/name"}) == (None, model)
    path = write(tmp_path / "m" / "config.json")
    assert find_config(None, str(tmp_path / "m"), str(recipe), {}) == (path, str(tmp_path / "m"))


def test_a_recipe_without_a_model(tmp_path):
    recipe = tmp_path / "r.yaml"
    recipe.write_text("pipeline: {}")
    with pytest.raises(TranscodeError, match=r"neither pipeline\.path nor pipeline\.name"):
        find_config(None, None, str(recipe), {})
