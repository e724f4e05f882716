"""Names of outputs and sources that cannot be meant are refused, with what to do; a folder keeps its name."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from transcode.errors import PlanError
from transcode.plan.location import destination, refuse_destination

URLS = ["ftp://bucket/x", "oss://b/x", "OSS://b/x", "r2://b/x.safetensors"]
OTHERS = ["pth", "pt", "bin", "ckpt", "onnx", "h5", "npz", "sft", "zip", "yaml"]
MISSPELLED = [
    "safetensor", "safetensors.", "SAFETENSORS", "Safetensors", "saftensors", "safetesnors", "safetensorss",
    "safetensors.index.json", "safetensors.gz", "safetensors.tmp",
]  # fmt: skip
FOLDERS = ["out", "Wan2.1-I2V-14B", "models.v1", "v1.5", "x.fp8", "a.b.c", ".hidden", "model-00001", "x.int8"]


@pytest.mark.parametrize("url", URLS)
def test_urls(url, wan, tmp_path, refused, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told = refused("run", wan, url)
    assert f"{url}: is a URL" in told
    assert "write to a local path" in told
    for words in (["run", url, "out"], ["inspect", url], ["open", url], ["recipe", "show", url]):
        told = refused(*words)
        assert "is a URL of a kind that is not read; https://, hf://, s3://, gs:// and az:// are" in told
    assert list(tmp_path.iterdir()) == []


def test_urls_of_files_and_standard_streams(wan, tmp_path, refused, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "write the path, /data/x" in refused("run", wan, "file:///data/x")
    assert "write the path, /data/x" in refused("inspect", "file:///data/x")
    assert "cannot write to standard output" in refused("run", wan, "-")
    assert "standard input" in refused("inspect", "-")
    assert "is a URL" in refused("run", wan, "o.safetensors", "--lora", "ftp://host/x.safetensors:0.5")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [*OTHERS, *MISSPELLED])
def test_suffixes_of_other_files(suffix, wan, tmp_path, refused):
    for layout in ("single_file", "by_block"):
        told = refused("run", wan, tmp_path / f"x.{suffix}", "--layout", layout)
        assert f"{tmp_path}/x.safetensors for one file" in told
        assert f"{tmp_path}/x.{suffix}/ if a folder" in told
        if suffix in OTHERS:
            whose = "PyTorch's" if suffix in ("pth", "pt", "bin", "ckpt") else "another format"
            assert (
                f"x.{suffix}: .{suffix.lower()} is {whose}, transcode writes safetensors and GGUF; " in told
            )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", ["GGUF", "ggufs", "gguf.tmp", "ggu"])
def test_misspelled_gguf(suffix, wan, tmp_path, refused):
    told = refused("run", wan, tmp_path / f"x.{suffix}")
    assert f"name {tmp_path}/x.gguf for one file" in told
    assert list(tmp_path.iterdir()) == []


def test_files_of_another_format_than_the_convention_is_for(wan, tmp_path, refused, cli):
    """Codes that no reader of GGUF knows, and files that say they are for one and are none."""
    told = refused("run", wan, tmp_path / "x.safetensors", "--convention", "gguf")
    assert told.endswith(
        "programs that read GGUF; name a file that ends in .gguf, or leave --convention gguf out"
    )
    for convention in ("lightx2v", "comfyui", "neutral"):
        assert "would be GGUF" in refused("run", wan, tmp_path / "x.gguf", "--convention", convention)
    assert list(tmp_path.iterdir()) == []
    for number, convention in enumerate(("plain", "diffusers", "gguf")):
        cli("run", wan, tmp_path / f"{number}.gguf", "--convention", convention)


def test_what_is_a_folder_may_be_called_anything(wan, tmp_path, cli):
    (tmp_path / "x.onnx").mkdir()
    cli("run", wan, tmp_path / "x.onnx", "--layout", "by_block")
    assert (tmp_path / "x.onnx" / "non_block.safetensors").exists()
    cli("run", wan, f"{tmp_path}/y.bin/")
    assert (tmp_path / "y.bin").is_dir()
    colon = tmp_path / "hf:local"
    colon.mkdir()
    refuse_destination(colon)
    assert len(cli("inspect", colon, code=2).err.splitlines()) == 1


@pytest.mark.parametrize("name", FOLDERS)
def test_usual_names_of_folders(name, tmp_path):
    refuse_destination(tmp_path / name)
    refuse_destination(name)


@pytest.mark.parametrize("name", ["x.safetensors", "a.b.safetensors", "x.bin.safetensors"])
def test_files(name, tmp_path):
    refuse_destination(tmp_path / name)


def test_path_objects_lose_a_slash():
    with pytest.raises(PlanError, match=r"^https://host/x: is a URL of a kind that is not written"):
        refuse_destination(Path("https://host/x?signature=1"))
    for path in (Path("s3://bucket/x"), "gs://b/x.safetensors", "az://b/x/", "hf://org/name"):
        refuse_destination(path)
    assert str(destination("s3:/bucket/x/")) == "s3://bucket/x"
    assert destination("a/b") == Path("a/b")


class TestSource:
    """The source is never written to, whatever the name by which the destination leads there."""

    @pytest.fixture
    def src(self, wan, tmp_path):
        folder = tmp_path / "src"
        folder.mkdir()
        for path in wan.iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        return folder

    def told(self, refused, src, dst, digests, *more):
        before = digests(src)
        told = refused("run", src, dst, *more)
        assert digests(src) == before
        # Neither forcing nor removing is the way out.
        assert "--force" not in told
        assert "remove" not in told
        return told

    @pytest.mark.parametrize("more", [[], ["--force"], ["--layout", "by_block", "--force"]])
    def test_the_folder_itself(self, src, tmp_path, refused, digests, more):
        (tmp_path / "link").symlink_to(src)
        for dst in (src, tmp_path / "link", f"{src}/../src"):
            assert "is the folder of the source" in self.told(refused, src, dst, digests, *more)

    def test_the_folder_of_a_file_or_an_index(self, src, refused, digests):
        (index,) = src.glob("*.index.json")
        before = digests(src)
        for path in (index, next(src.glob("*.safetensors"))):
            assert "is the folder of the source" in refused("run", path, src, "--force")
        assert digests(src) == before

    @pytest.mark.parametrize("link", [os.link, os.symlink])
    def test_other_names_of_its_files(self, src, tmp_path, refused, digests, link):
        shard = next(src.glob("*.safetensors"))
        other = tmp_path / "other"
        other.mkdir()
        link(shard, other / "x.safetensors")
        told = self.told(refused, src, other / "x.safetensors", digests, "--force")
        assert f"{other / 'x.safetensors'}: is the source ({shard}), which is never written to" in told
        assert "x.safetensors" in self.told(refused, src, other, digests, "--force")

    @pytest.mark.parametrize("name", ["model.pth", "model.bin", "model.safetensors", "weights"])
    def test_a_file_of_any_name(self, wan, tmp_path, refused, digests, name, monkeypatch):
        import torch

        path = tmp_path / name
        if name.endswith((".pth", ".bin")):
            torch.save({"a.weight": torch.zeros(4, 4)}, path)
        else:
            path.write_bytes(next(wan.glob("*.safetensors")).read_bytes())
        (tmp_path / "hard").hardlink_to(path)
        monkeypatch.chdir(tmp_path)
        before = digests(path)
        for dst in (name, f"./{name}", f"../{tmp_path.name}/{name}", path, "hard"):
            assert "is the source" in refused("run", name, dst, "--force")
        assert digests(path) == before

    def test_its_index(self, src, refused, digests):
        (index,) = src.glob("*.index.json")
        assert f"{index}: is the source, which" in self.told(refused, index, index, digests)

    def test_among_the_files_of_a_folder(self, src, tmp_path, refused, digests):
        told = self.told(refused, src, src / "one.safetensors", digests)
        assert "would lie among the files of the source" in told
        (tmp_path / "link").symlink_to(src)
        assert "among the files" in self.told(refused, src, tmp_path / "link" / "one.safetensors", digests)

    def test_beside_a_file_is_as_people_do(self, wan, tmp_path, cli):
        path = tmp_path / "model.safetensors"
        path.write_bytes(next(wan.glob("*.safetensors")).read_bytes())
        cli("run", path, tmp_path / "model-f32.safetensors", "--cast", "F32")

    def test_below_it_is_a_model_for_itself(self, src, cli):
        cli("run", src, src / "fp32", "--cast", "F32")
        assert (src / "fp32").is_dir()
