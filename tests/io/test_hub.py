"""Names on the hub, looked up in a cache laid out as huggingface_hub does; compared with what that says."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from huggingface_hub import try_to_load_from_cache
from safetensors.torch import save_file

import transcode as tc
from transcode.containers.source import open_source
from transcode.errors import FormatError
from transcode.io import hub
from transcode.io.links import leads_out, shared
from transcode.io.named import local

OLD, NEW = "a" * 40, "b" * 40


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A hub cache of our own, and an empty folder to work in."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "hf" / "hub"


@pytest.fixture
def model(cache):
    """``org/model`` with two revisions, of which ``main`` is the newer; returns its folder."""
    for commit, value in ((OLD, 1.0), (NEW, 2.0)):
        add(cache, commit, "model.safetensors", value)
        add(cache, commit, "transformer/model.safetensors", value + 10)
    refer(cache, "main", NEW)
    return cache / "models--org--model"


def add(cache: Path, commit: str, name: str, value: float, repo: str = "org--model") -> Path:
    blobs = cache / f"models--{repo}" / "blobs"
    blobs.mkdir(parents=True, exist_ok=True)
    blob = blobs / f"{value}"
    save_file({"blocks.0.weight": torch.full((4, 4), value)}, blob)
    path = cache / f"models--{repo}" / "snapshots" / commit / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(os.path.relpath(blob, path.parent))
    return path


def refer(cache: Path, ref: str, commit: str, repo: str = "org--model") -> None:
    path = cache / f"models--{repo}" / "refs" / ref
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(commit)


@pytest.mark.parametrize(
    ("said", "revision", "name"),
    [
        ("org/model/model.safetensors", None, "model.safetensors"),
        ("hf:org/model/model.safetensors", "main", "model.safetensors"),
        (f"hf:org/model@{OLD}/model.safetensors", OLD, "model.safetensors"),
        ("org/model@v1/transformer/model.safetensors", "v1", "transformer/model.safetensors"),
        ("hf:org/model@refs/pr/7/model.safetensors", "refs/pr/7", "model.safetensors"),
    ],
)
def test_is_where_huggingface_hub_finds_it(said, revision, name, model, cache):
    refer(cache, "v1", OLD)
    refer(cache, "refs/pr/7", OLD)
    assert str(local(said)) == try_to_load_from_cache("org/model", name, cache_dir=cache, revision=revision)
    assert local(Path(said)) == local(said)


def test_a_shortened_commit_and_folders(model):
    assert local("hf:org/model@aaaa") == model / "snapshots" / OLD
    assert local("org/model") == local("org/model/") == model / "snapshots" / NEW
    assert local("org/model/transformer") == model / "snapshots" / NEW / "transformer"


def test_what_exists_here_wins(model):
    Path("org/model").mkdir(parents=True)
    assert local("org/model") == Path("org/model")
    assert hub.find("org/model") is None
    assert local("hf:org/model") == model / "snapshots" / NEW


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("hf:org/none", r"^hf:org/none: is not in the hub cache .* first: hf download org/none$"),
        ("hf:org/none@v2", r"download it first: hf download org/none --revision v2$"),
        ("hf:org/model@v2", r"has no revision v2 .*, only aaaaaaa, bbbbbbb \(main\); hf download org"),
        ("org/model@v2", r"has no revision v2"),
        ("hf:org/model/vae", r"has no vae in the hub cache, revision bbbbbbb; hf download org/model$"),
        ("hf:a/b--c", r"is no name on the hub; write hf:org/name"),
        ("hf:org/model@../../x", r"is no name on the hub|has no revision"),
        ("hf:org/model/../../x", r"is no name on the hub"),
        ("hf:", r"is no name on the hub"),
    ],
)  # fmt: skip
def test_refused(said, told, model):
    with pytest.raises(FormatError, match=told):
        local(said)


def test_a_name_that_is_nowhere(refused, model, cache):
    told = refused("inspect", "org/none")
    assert f"org/none: no such file or folder, nor is it in the hub cache {cache}; if it is a model" in told
    assert told.endswith("hf download org/none")
    Path("org").mkdir()
    assert refused("inspect", "org/none").endswith("org/none: no such file or folder")  # in a folder of here
    assert refused("inspect", "./org/none").endswith("no such file or folder")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes with names")
def test_a_pipe_in_the_place_of_a_reference_is_not_waited_for(model, cache):
    (model / "refs" / "main").unlink()
    os.mkfifo(model / "refs" / "main")
    assert hub.Repository("org/model").reference("main") is None


def test_several_revisions_without_main(model, cache):
    (model / "refs" / "main").unlink()
    refer(cache, "v1", OLD)
    with pytest.raises(
        FormatError, match=r"2 revisions .* none of them is main: aaaaaaa \(v1\), bbbbbbb; say which"
    ):
        local("org/model")
    refer(cache, "main", "c" * 40)
    with pytest.raises(
        FormatError, match=r"has no files of main \(ccccccc\) .* only of aaaaaaa \(v1\), bbbbbbb"
    ):
        local("org/model")
    add(cache, OLD, "model.safetensors", 1.0, "org--one")
    assert local("org/one").name == OLD


def test_not_wholly_downloaded(model, cache, refused):
    (model / "blobs" / "12.0").unlink()
    told = refused("inspect", "org/model")
    assert (
        "hf:org/model: is not whole in the hub cache: transformer/model.safetensors is a link to no" in told
    )
    assert told.endswith("; hf download org/model")
    path = add(cache, OLD, "README.md", 1.0, "org--begun")
    (cache / "models--org--begun" / "blobs" / "e.1a2b3c4d.incomplete").touch()
    assert path.exists()
    told = refused("inspect", "org/begun")
    assert told.endswith("1 file is not wholly downloaded (.incomplete): hf download org/begun")
    assert told == refused("meta", "get", "org/begun")


def test_every_command_takes_it(model, cli, refused, tmp_path):
    note = "reads org/model from the hub cache, revision bbbbbbb (main)"
    assert note in cli("inspect", "org/model").out
    assert note in cli("run", "org/model", "out", "-n").out
    assert "(main)" not in cli("inspect", "org/model@aaaaaaa").out
    assert "same" in cli("meta", "diff", "org/model", "hf:org/model@main").out
    assert "byte" in cli("meta", "diff", "org/model", "org/model@aaaaaaa", "--data", code=1).out
    cli("meta", "validate", "hf:org/model/transformer")
    cli("meta", "get", "org/model", "hf:org/model@aaaaaaa")
    assert "blob of the hub cache" in refused("meta", "set", "org/model", "a=b")
    assert "holds no record" in refused("recipe", "show", "org/model")
    assert "path: 'hf:org/model'" in cli("open", "hf:org/model").out
    recipe = Path("r.yaml")
    recipe.write_text("source: {path: 'hf:org/model@aaaaaaa'}\nsteps: []\noutput: {path: out}\n")
    cli("run", "--config", recipe)
    assert float(open_source("out").tensors[0].numpy()[0, 0]) == 1.0
    assert "--output-root" in refused(
        "nunchaku", "convert", "--quant-path", "org/model", "--model-name", "flux.1-dev"
    )
    assert "by its name on the hub" in refused("run", "org/model", "org/model")
    assert not Path("org").exists()


def test_a_lora_and_a_calibration_are_recorded_by_name_and_revision(model, cache, cli):
    lora = cache / "models--org--lora" / "snapshots" / OLD / "l.safetensors"
    lora.parent.mkdir(parents=True)
    save_file({"blocks.0.lora_A.weight": torch.ones(1, 4), "blocks.0.lora_B.weight": torch.ones(4, 1)}, lora)
    cli("run", "org/model", "out.safetensors", "--lora", "hf:org/lora:0.5", "-q")
    assert float(open_source("out.safetensors").tensors[0].numpy()[0, 0]) == 2.5
    shown = cli("recipe", "show", "out.safetensors").out
    assert "org/lora@aaaaaaa" in shown
    assert str(cache) not in shown
    step = tc.calibrate("org/model/model.safetensors")
    assert step.recorded()["path"] == "org/model@bbbbbbb/model.safetensors"
    assert tc.calibrate("a/calib.pt").recorded()["path"] == "calib.pt"


def test_the_store_of_blobs_that_models_share(model, cache):
    """huggingface_hub 2: a repository's blob is a link into a store of the whole cache."""
    digest = "cd" * 32
    store = cache / "blobs" / "cd" / digest
    store.parent.mkdir(parents=True)
    blob = model / "blobs" / "2.0"
    blob.rename(store)
    blob.symlink_to(os.path.relpath(store, blob.parent))
    path = model / "snapshots" / NEW / "model.safetensors"
    assert leads_out(path, path.parent) == store  # without its mark it is any folder
    (cache / "blobs" / ".huggingface-shared-blobs").write_text("1\n")
    assert leads_out(path, path.parent) is None
    assert "blob of the hub cache" in (shared(path) or "")
    assert local("org/model/model.safetensors") == path
