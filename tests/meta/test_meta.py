"""``tc.meta``: the same bytes in the files, and the same facts, as the commands of ``transcode meta``."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import transcode as tc
from transcode.errors import FormatError, PlanError, RecipeError, TranscodeError


@pytest.fixture
def pair(tmp_path):
    """Two equal files: one for the command, one for the function."""
    kept = {"format": "pt", "x": "1", "y": '{"k": 1}'}
    save_file({"a": torch.arange(8.0)}, tmp_path / "m.safetensors", kept)  # once: the order of keys is random
    for name in ("cli", "api"):
        (tmp_path / name).mkdir()
        shutil.copy(tmp_path / "m.safetensors", tmp_path / name)
    return tmp_path / "cli" / "m.safetensors", tmp_path / "api" / "m.safetensors"


def metadata(path):
    with safe_open(path, "pt") as file:
        return file.metadata()


EDITS = {
    "set": (["set", "FILE", "author=me", "x=2"], lambda file: tc.meta.set(file, {"author": "me", "x": "2"})),
    "set json": (["set", "FILE", 'c={"a": [1]}'], lambda file: tc.meta.set(file, {"c": {"a": [1]}})),
    "set pairs": (["set", "FILE", "b=1", "a=2"], lambda file: tc.meta.set(file, [("b", 1), ("a", "2")])),
    "set without a backup": (
        ["set", "FILE", "a=b", "--backup", "none", "--keep-mtime", "--wait", "1"],
        lambda file: tc.meta.set(file, {"a": "b"}, backup="none", keep_mtime=True, wait=1.0),
    ),
    "set with a whole backup": (
        ["set", "FILE", f"a={'b' * 9000}", "--backup", "full"],
        lambda file: tc.meta.set(file, {"a": "b" * 9000}, backup="full"),
    ),
    "delete": (["del", "FILE", "x", "y"], lambda file: tc.meta.delete(file, ["x", "y"])),
    "delete one": (["del", "FILE", "x"], lambda file: tc.meta.delete(file, "x")),
    "rename": (["rename-key", "FILE", "x", "z"], lambda file: tc.meta.rename(file, "x", "z")),
    "rename over": (
        ["rename-key", "FILE", "x", "y", "--force"], lambda file: tc.meta.rename(file, "x", "y", force=True),
    ),
    "clear": (["clear", "FILE"], lambda file: tc.meta.clear(file)),
    "dry": (["clear", "FILE", "--dry-run"], lambda file: tc.meta.clear(file, dry_run=True)),
}  # fmt: skip


@pytest.mark.parametrize("name", EDITS)
def test_edits_leave_the_same_bytes_and_say_the_same(name, pair, cli):
    command, function = EDITS[name]
    told = cli("meta", *(str(pair[0]) if one == "FILE" else one for one in command), "--json").json
    edits = function(pair[1])
    assert {file.name: file.read_bytes() for file in pair[0].parent.iterdir()} == {
        file.name: file.read_bytes() for file in pair[1].parent.iterdir()
    }
    assert json.loads(json.dumps(edits.to_json()).replace(str(pair[1].parent), str(pair[0].parent))) == told
    assert len(edits) == 1
    assert edits[0].after == (metadata(pair[1]) or {}) or edits.dry_run


def test_a_file_without_metadata_gets_its_format(pair, cli):
    for path in pair:
        tc.meta.clear(path)
    told = cli("meta", "set", pair[0], "a=b").err
    edits = tc.meta.set(pair[1], {"a": "b"})
    assert pair[0].read_bytes() == pair[1].read_bytes()
    assert metadata(pair[1]) == {"format": "pt", "a": "b"}
    assert "(--no-format leaves it out)" in told
    assert edits.notes == (
        "format=pt was added, which loaders ask for when there is metadata (add_format=False leaves it out)",
    )
    tc.meta.clear(pair[1])
    assert tc.meta.set(pair[1], {"a": "b"}, add_format=False).notes == ()
    assert metadata(pair[1]) == {"a": "b"}
    assert "refused by transformers" in tc.meta.delete(pair[0], "format").notes[0]


def test_backup_and_restore(pair, cli):
    before = pair[0].read_bytes()
    told = cli("meta", "backup", pair[0], "--json").json["backups"]
    saved = tc.meta.backup(pair[1])
    assert [Path(one).read_bytes() for one in told.values()] == [one.read_bytes() for one in saved.values()]
    assert list(saved) == [pair[1]]
    for path in pair:
        tc.meta.set(path, {"a": "b"})
    cli("meta", "restore", pair[0])
    restored = tc.meta.restore(pair[1])
    assert pair[0].read_bytes() == pair[1].read_bytes()
    assert metadata(pair[1]) == {"format": "pt", "x": "1", "y": '{"k": 1}'}
    assert restored[0].after == metadata(pair[1])
    full = tc.meta.backup(pair[1], full=True)
    tc.meta.clear(pair[1])
    assert tc.meta.restore_copy(pair[1]) == full
    assert metadata(pair[1])["x"] == "1"
    assert len(before) == 8 + int.from_bytes(before[:8], "little") + 32
    tc.meta.set(pair[1], {"n": "1"})
    kept = pair[1].parent / "kept"
    (pair[1].parent / "m.safetensors.header-backup").rename(kept)
    assert tc.meta.restore(pair[1], kept)[0].after == restored[0].after
    with pytest.raises(PlanError, match="restores one file"):
        tc.meta.restore(list(pair), kept)
    with pytest.raises(RecipeError, match="dry_run does nothing"):
        tc.meta.restore_copy(pair[1], dry_run=True)


def test_reading(pair, cli):
    path = pair[0]
    assert tc.meta.get(path) == metadata(path) == cli("meta", "get", path, "--json").json[str(path)]
    assert tc.meta.get(path, "x") == "1"
    assert tc.meta.get(path, "nothing") is None
    assert tc.meta.get(path, "nothing", "else") == "else"
    with pytest.raises(FormatError):
        tc.meta.get(path.parent / "none.safetensors")


def test_comparing(pair, cli):
    tc.meta.set(pair[1], {"x": "2", "n": "1"})
    flags = {"tensors": ["--tensors"], "data": ["--data"]}
    for name, more in {"": [], **flags}.items():
        difference = tc.meta.diff(*pair, **({name: True} if name else {}))
        assert difference.to_json() == cli("meta", "diff", *pair, *more, "--json", code=1).json
        assert not difference.same
        assert [change.key for change in difference.metadata] == ["n", "x"]
    assert tc.meta.diff(pair[0], pair[0], data=True).same
    (pair[0].parent / "a.json").write_text("{}")
    with pytest.raises(PlanError, match="has no tensors to compare"):
        tc.meta.diff(pair[0], pair[0].parent / "a.json", data=True)


@pytest.mark.parametrize("profile", [None, "nunchaku", "transformers", "diffusers", "comfyui", "modelspec"])
def test_validating(profile, pair, cli):
    result = tc.meta.validate(pair[0], profile=profile)
    flags = [] if profile is None else ["--profile", profile]
    told = cli("meta", "validate", pair[0], *flags, "--json", code=0 if result.valid else 1).json
    assert told["files"] == [result.to_json()]
    assert result.valid == (profile not in ("nunchaku", "modelspec"))
    pair[0].write_bytes(pair[0].read_bytes()[:-1])
    broken = tc.meta.validate(pair[0], profile=profile)
    assert not broken.valid
    assert broken.to_json() == cli("meta", "validate", pair[0], "--json", code=1).json["files"][0]


def test_embedding(pair, cli, tmp_path):
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"_class_name": "FluxTransformer2DModel", "num_layers": 19}))
    told = cli("meta", "embed", pair[0], "--config", config)
    edits = tc.meta.embed(pair[1], config=config)
    assert pair[0].read_bytes() == pair[1].read_bytes()
    assert json.loads(metadata(pair[1])["config"])["num_layers"] == 19
    assert edits.notes[0].replace(str(pair[1]), str(pair[0])) in told.err
    with pytest.raises(PlanError, match=r"no config\.json in"):
        tc.meta.embed(pair[1], model_path=tmp_path / "nowhere")
    same = tc.meta.embed(pair[1], model_path=tmp_path / "nowhere", allow_missing=True)
    assert [one.way for one in same] == ["unchanged"]
    assert "no config.json" in same.notes[0]
    with pytest.raises(RecipeError, match=r"pass model_path=\.\.\. or config_yaml=\.\.\. or config=\.\.\.$"):
        tc.meta.embed(pair[1])


def test_several_files_all_or_none(pair):
    assert len(tc.meta.set(pair, {"a": "b"})) == 2
    assert metadata(pair[0])["a"] == metadata(pair[1])["a"] == "b"
    tc.meta.set(pair[1], {"z": "1"})
    before = pair[0].read_bytes()
    with pytest.raises(PlanError, match=r"'z' exists already; pass force=True to replace it$"):
        tc.meta.rename(pair, "x", "z")
    assert pair[0].read_bytes() == before


def test_what_was_edited_before_an_error_is_told(pair, monkeypatch, cli):
    from transcode.containers.edit import edit

    real = edit.edit

    def failing(path, *rest):
        if "api" in str(path):
            raise TranscodeError("no room", file=path)
        return real(path, *rest)

    monkeypatch.setattr(edit, "edit", failing)
    with pytest.raises(TranscodeError, match="no room") as caught:
        tc.meta.set(pair, {"a": "b"})
    assert caught.value.__notes__ == [f"1 of 2 files are edited already, {pair[0]} the last"]
    assert "1 of 2 files are edited already" in cli("meta", "set", *pair, "a=c", code=2).err


@pytest.mark.parametrize(
    ("mistake", "said"),
    [
        (lambda path: tc.meta.set(path, {}), "nothing to set"),
        (lambda path: tc.meta.set(path, "a=b"), "is not a mapping"),
        (lambda path: tc.meta.set(path, ["ab"]), "is not a key with its value"),
        (lambda path: tc.meta.set(path, {1: "a"}), "1 is not a text"),
        (lambda path: tc.meta.set(path, [("a", 1), ("a", 2)]), "given twice"),
        (lambda path: tc.meta.set([], {"a": "b"}), "there is no file"),
        (lambda path: tc.meta.set(5, {"a": "b"}), "5 is not a path"),
        (lambda path: tc.meta.set(path, {"a": "b"}, backup="headr"), "is not one of header, full, none"),
        (lambda path: tc.meta.delete(path, []), r"no key to delete; meta\.clear\(FILE\) deletes all$"),
        (lambda path: tc.meta.delete(path, "q"), "no metadata key 'q'; there are: format, x, y"),
        (lambda path: tc.meta.rename(path, "q", "r"), "no metadata key 'q'"),
        (lambda path: tc.meta.validate(path, profile="none"), "none"),
    ],
)
def test_mistakes(mistake, said, pair):
    before = pair[0].read_bytes()
    with pytest.raises(TranscodeError, match=said):
        mistake(pair[0])
    assert pair[0].read_bytes() == before
    assert [one.name for one in pair[0].parent.iterdir()] == ["m.safetensors"]


def test_an_option_that_there_is_not(pair):
    with pytest.raises(TypeError, match="no option 'dryrun'"):
        tc.meta.clear(pair[0], dryrun=True)


def test_shared_bytes_name_the_argument(pair, tmp_path):
    (tmp_path / "link.safetensors").hardlink_to(pair[0])
    with pytest.raises(TranscodeError, match="pass follow_links=True to edit it all the same"):
        tc.meta.clear(pair[0])


def test_all_of_it_is_there_and_light():
    script = (
        "import sys, transcode as tc\n"
        "[getattr(tc.meta, name) for name in tc.meta.__all__], tc.inspect, dir(tc.meta)\n"
        "print([name for name in ('numpy', 'torch', 'numba', 'click', 'rich') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    with pytest.raises(AttributeError, match="'sett'"):
        _ = tc.meta.sett
