"""SHA-256 of what is written: that of hashlib and sha256sum, however it is written; and verify by it."""

# ruff: noqa: E501  flows read better in long lines

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import threading
import time

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import transcode as tc
from transcode.errors import FormatError, Interrupted, RecipeError
from transcode.execution.checksums import Hashing, load
from transcode.execution.pace import Pace


def sha(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def source(tmp_path):
    """Tensors of many sizes, some empty: parts of several, and one of several tiles."""
    draw = torch.Generator().manual_seed(4)
    shapes = [(64, 64), (1, 1), (0, 4), (512, 1024), (3,), (128, 64)]
    tensors = {
        f"blocks.{i}.ffn.{i}.weight": torch.randn(shape, generator=draw) for i, shape in enumerate(shapes)
    }
    save_file(tensors, tmp_path / "source.safetensors", {"format": "pt"})
    return tmp_path / "source.safetensors"


@pytest.mark.parametrize("how", [{}, {"workers": 1}, {"workers": 7, "tile": 65536}, {"drop_cache": True}])
@pytest.mark.parametrize("target", ["o.safetensors", "o", "o.gguf"])
def test_they_are_those_of_the_bytes(source, tmp_path, target, how):
    out = tmp_path / target
    layout = {"layout": "chunked", "max_tensors": 2} if target == "o" else {}
    stage = tc.quantize("int8", include=["*"]) if target != "o.gguf" else tc.cast("f16")
    report = tc.open(source) | stage | tc.write(out, checksums=True, **how, **layout)
    files = [one for one in (out.iterdir() if out.is_dir() else [out]) if one.name != "SHA256SUMS"]
    assert report.checksums.files == {one.name: sha(one) for one in files}
    for one in files:
        if one.suffix == ".safetensors":
            with safe_open(one, "pt") as opened:
                wanted = {
                    name: hashlib.sha256(opened.get_tensor(name).contiguous().view(torch.uint8).numpy().tobytes()
                                         if opened.get_tensor(name).numel() else b"").hexdigest()
                    for name in opened.keys()  # noqa: SIM118
                }  # fmt: skip
            assert report.checksums.tensors[one.name] == wanted
    assert report.to_json()["checksums"]["files"] == dict(report.checksums.files)
    assert load(out).files == report.checksums.files
    if shutil.which("sha256sum"):
        beside = "SHA256SUMS" if out.is_dir() else f"{out.name}.sha256"
        folder = out if out.is_dir() else tmp_path
        done = subprocess.run(
            ["sha256sum", "-c", "--strict", beside], cwd=folder, capture_output=True, text=True
        )
        assert (done.returncode, done.stderr) == (0, "")


def test_a_run_that_is_resumed_has_them_too(source, tmp_path, monkeypatch):
    """What an interrupted run wrote is read back."""
    from transcode.execution import working

    whole = (
        tc.open(source)
        | tc.quantize("int8", include=["*"])
        | tc.write(tmp_path / "a.safetensors", checksums=True)
    )
    out = tmp_path / "b.safetensors"

    def stop(now):
        if now.done > 100_000:
            raise KeyboardInterrupt

    monkeypatch.setattr(working, "_INTERVAL", 0.0)
    with pytest.raises((KeyboardInterrupt, Interrupted)):
        (
            tc.open(source)
            | tc.quantize("int8", include=["*"])
            | tc.write(
                out,
                resume=True,
                checksums=True,
                workers=1,
                tile=65536,
                max_read_rate=2_000_000,
                on_progress=stop,
            )
        )
    assert not out.exists()
    assert not out.with_name("b.safetensors.sha256").exists()
    report = tc.open(source) | tc.quantize("int8", include=["*"]) | tc.write(out, resume=True, checksums=True)
    assert report.checksums.tensors["b.safetensors"] == whole.checksums.tensors["a.safetensors"]
    assert report.checksums.files == {"b.safetensors": sha(out)}


def test_nothing_is_left_running_or_lying_where_a_run_fails(source, tmp_path):
    def fail(now):
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        (
            tc.open(source)
            | tc.cast("f16")
            | tc.write(tmp_path / "o.safetensors", checksums=True, on_progress=fail)
        )
    assert not [one.name for one in threading.enumerate() if one.name.startswith("checksum")]
    assert {one.name for one in tmp_path.iterdir()} == {"source.safetensors"}


def test_what_lies_there_is_not_replaced_unasked(source, tmp_path):
    (tmp_path / "o.safetensors.sha256").write_text("mine\n")
    with pytest.raises(tc.PlanError, match="exists already"):
        tc.open(source) | tc.cast("f16") | tc.write(tmp_path / "o.safetensors", checksums=True)
    tc.open(source) | tc.cast("f16") | tc.write(tmp_path / "o.safetensors", checksums=True, force=True)
    assert load(tmp_path / "o.safetensors").files == {"o.safetensors": sha(tmp_path / "o.safetensors")}


def test_verify_without_a_source(source, tmp_path, cli):
    """One flipped bit of a tensor, of a header, a file that is gone: told by name."""
    out = tmp_path / "o"
    (
        tc.open(source)
        | tc.quantize("int8", include=["*"])
        | tc.write(out, checksums=True, layout="chunked", max_tensors=2)
    )
    done = tc.verify(out)
    assert done.right
    assert done.source is None
    assert cli("verify", out).out.startswith(f"{out} is what its checksums say")
    path = next(one for one in sorted(out.glob("*.safetensors")))
    raw = bytearray(path.read_bytes())
    with safe_open(path, "pt") as opened:
        name = next(iter(sorted(opened.keys())))
    begin = 8 + int.from_bytes(raw[:8], "little")
    offset = json.loads(raw[8:begin])[name]["data_offsets"][0]
    raw[begin + offset] ^= 1
    path.write_bytes(raw)
    done = tc.verify(out)
    assert [one.name for one in done.differences] == [name]
    assert cli("verify", out, code=1).out.startswith(f"{out} IS NOT")
    assert cli("verify", out, "--json", code=1).json["differences"][0]["name"] == name
    with_source = tc.verify(out, source)
    assert [one.name for one in with_source.differences] == [name]
    raw[begin + offset] ^= 1
    raw[10] ^= 1  # of the header
    path.write_bytes(raw)
    assert not tc.verify(out).right
    path.unlink()
    assert [one.name for one in tc.verify(out).differences] == [path.name]


def test_what_verify_cannot_do(source, tmp_path):
    tc.open(source) | tc.cast("f16") | tc.write(tmp_path / "o.safetensors")
    with pytest.raises(RecipeError, match="no checksums beside it"):
        tc.verify(tmp_path / "o.safetensors")
    (tmp_path / "o.safetensors.sha256").write_text("zz  o.safetensors\n")
    with pytest.raises(FormatError, match="line 1"):
        tc.verify(tmp_path / "o.safetensors")


def test_any_order_of_writes(source, tmp_path):
    """Pieces that come in any order, and overlap, are hashed as the file is at the end."""
    plan = tc.open(source).plan(tc.write(tmp_path / "o.safetensors"))
    (file,) = plan.files
    content = bytearray(file.size)
    content[: len(file.header)] = file.header
    body = torch.randint(0, 256, (file.size - len(file.header),), generator=torch.Generator().manual_seed(1))
    content[len(file.header) :] = bytes(body.tolist())
    path = tmp_path / "staged"
    path.write_bytes(bytes(content[: len(file.header)]).ljust(file.size, b"\0"))
    hashing = Hashing(plan, lambda number: path.open("rb", buffering=0), [source], 3, Pace(None))
    step = 50_000
    for begin in sorted(range(0, file.size, step), key=lambda at: (at * 7919) % 104729):
        end = min(begin + step + 100, file.size)
        with path.open("r+b") as staged:
            staged.seek(begin)
            staged.write(content[begin:end])
        hashing.wrote(0, begin, end)
        time.sleep(0.002)  # whoever is too early reads zeros
    digests = hashing.finish()
    assert digests.files == {"o.safetensors": hashlib.sha256(content).hexdigest()}
    assert digests.sources == {str(source): sha(source)}
    for place in file.places:
        held = content[len(file.header) + place.begin : len(file.header) + place.end]
        assert digests.tensors["o.safetensors"][place.name] == hashlib.sha256(held).hexdigest()
