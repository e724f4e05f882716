"""Where catalog files are looked for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from transcode import catalog
from transcode.catalog.folders import find, folders, listing
from transcode.errors import RecipeError


def test_the_users_folder_is_first(own_formats: Path) -> None:
    assert folders()[0] == own_formats


def test_the_configuration_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRANSCODE_FORMATS", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    before = folders()
    own = tmp_path / "transcode" / "formats"
    own.mkdir(parents=True)
    assert folders() == [own, *before]


def test_a_wrong_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRANSCODE_FORMATS", str(tmp_path / "absent"))
    with pytest.raises(RecipeError, match=r"\$TRANSCODE_FORMATS is '.*absent', which is not a folder"):
        catalog.families()


def test_listing_is_sorted_and_parses_nothing(own_formats: Path) -> None:
    (own_formats / "families" / "aaa.yaml").write_text("}: not yaml {")
    names = list(listing("families"))
    assert names[0] == "aaa"
    assert names == sorted(names)
    assert "wan_dit" in names
    with pytest.raises(RecipeError, match=r"aaa\.yaml:1"):
        catalog.family("aaa")


@pytest.mark.parametrize(
    ("place", "told"),
    [
        ("mine.yaml", "is in none of the folders that are read"),
        ("convention/mine.yaml", r"did you mean conventions\?"),
        ("conventions/mine.yml", r"is not read; call it mine\.yaml"),
        ("conventions/mine.yaml/", "is not a file"),
    ],
)
def test_what_nobody_would_read_is_refused(place: str, told: str, own_formats: Path) -> None:
    path = own_formats / place
    if place.endswith("/"):
        path.mkdir(parents=True)
    else:
        path.parent.mkdir(exist_ok=True)
        path.write_text("convention: mine")
    with pytest.raises(RecipeError, match=told) as raised:
        listing("conventions")
    assert str(path) in str(raised.value)


def test_other_files_are_nobodys_business(own_formats: Path) -> None:
    (own_formats / "README.md").write_text("mine")
    (own_formats / "notes").mkdir()
    (own_formats / "notes" / "a.txt").write_text("mine")
    assert listing("conventions")


def test_only_names_are_looked_up(own_formats: Path) -> None:
    (own_formats.parent / "secret.yaml").write_text("family: secret")
    for name in ("../../secret", "families/../../../secret", "", "."):
        with pytest.raises(RecipeError, match="unknown family"):
            find("families", name)


def test_the_catalog_loads_neither_torch_nor_numba() -> None:
    code = (
        "import sys; from transcode import catalog; catalog.detect(['a']); catalog.convention('lightx2v');"
        "print([m for m in ('torch', 'numba', 'click', 'rich') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
