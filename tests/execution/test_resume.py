"""A run that was stopped goes on: the same bytes, nothing done twice, and never on what is of another run."""

from __future__ import annotations

import random
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from attacks.engine import Injection, dying, survives
from safetensors.torch import load_file, save_file

import transcode as tc
from transcode.errors import Interrupted, PlanError, TranscodeError
from transcode.execution import carry, moves, working
from transcode.execution.staging import Staging
from transcode.io.commit import JOURNAL

TILE = 64 << 10


@pytest.fixture
def source(tmp_path: Path) -> Path:
    draw = torch.Generator().manual_seed(0)
    tensors = {
        f"blocks.{block}.{name}.weight": torch.randn(shape, generator=draw).bfloat16()
        for block in range(3)
        for name, shape in {"ffn.0": (512, 256), "attn.q": (256, 256), "attn.k": (256, 256)}.items()
    }
    tensors["head.bias"] = torch.randn(1000, generator=draw)
    tensors["wide"] = torch.randn(2, 200_000, generator=draw)
    tensors["none"] = torch.zeros(0, 5)
    path = tmp_path / "src" / "model.safetensors"
    path.parent.mkdir()
    save_file(tensors, path)
    return path


@pytest.fixture
def adapter(source: Path) -> Path:
    draw = torch.Generator().manual_seed(1)
    path = source.parent.parent / "lora.safetensors"
    save_file(
        {
            f"blocks.{block}.ffn.0.lora_{side}.weight": torch.randn(shape, generator=draw)
            for block in range(3)
            for side, shape in {"A": (4, 256), "B": (512, 4)}.items()
        },
        path,
    )
    return path


def only(scheme: str, **options: object) -> object:
    return tc.quantize(scheme, include=["blocks.*"], **options)


FLOWS = {
    "int8": lambda _: [only("int8")],
    "nvfp4": lambda _: [only("nvfp4")],
    "int4 mse": lambda _: [only("int4", optimize="mse", group_size=32)],
    "fp8 tensor": lambda _: [only("fp8", granularity="tensor")],
    "cast": lambda _: [tc.cast("f32")],
    "moved": lambda _: [],
    "lora": lambda adapter: [tc.lora(adapter), only("int8")],
}
OUTPUTS = {"file": ("out.safetensors", {}), "folder": ("out", {"max_tensors": 4})}


def written(place: Path) -> dict[str, bytes]:
    files = [place] if place.is_file() else sorted(place.rglob("*"))
    return {path.name: path.read_bytes() for path in files}


class Stop(Exception):
    """Ends a run at a write."""


@pytest.fixture
def stopping(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Have the N-th write of a run, or copy by the system, fail; counts them."""
    state = SimpleNamespace(at=None, count=0)

    def counted(method):
        def call(self, *arguments):
            state.count += 1
            if state.count == state.at:
                raise KeyboardInterrupt
            return method(self, *arguments)

        return call

    monkeypatch.setattr(Staging, "write", counted(Staging.write))
    monkeypatch.setattr(Staging, "copy", counted(Staging.copy))
    monkeypatch.setattr(moves, "LEAST", 1 << 16)
    return state


@pytest.mark.parametrize("kind", FLOWS)
@pytest.mark.parametrize("output", OUTPUTS)
def test_the_same_bytes_wherever_it_is_stopped(kind, output, source, adapter, tmp_path, stopping):
    name, options = OUTPUTS[output]
    flow = tc.open(source.parent)
    for stage in FLOWS[kind](adapter):
        flow = flow | stage
    dice = random.Random(kind + output)
    options = {**options, "convention": "neutral", "layout": "chunked" if options else None}
    flow | tc.write(tmp_path / "right" / name, workers=1, tile=TILE, **options)
    right = written(tmp_path / "right" / name)
    whole, out = stopping.count, tmp_path / name
    for _ in range(6):
        stopping.count, ends = 0, 0
        while True:
            stopping.at = stopping.count + dice.randint(1, whole)
            ends += 1
            try:
                flow | tc.write(
                    out, resume=True, workers=dice.choice([1, 3]), tile=dice.choice([4096, TILE, 1 << 20]),
                    **options,
                )  # fmt: skip
            except Interrupted:
                assert not out.exists()
                continue
            break
        assert written(out) == right
        assert not list(tmp_path.rglob("*transcode-part*"))
        shutil.rmtree(out, ignore_errors=True)
        out.unlink(missing_ok=True)


def test_what_is_done_is_not_done_again(source, tmp_path, stopping):
    flow = tc.open(source) | only("int8")
    out = tmp_path / "o.safetensors"
    options = {"workers": 1, "tile": TILE, "resume": True}
    flow | tc.write(tmp_path / "right.safetensors", **options)
    whole = stopping.count
    for at in range(2, whole, 5):
        stopping.at, stopping.count = at, 0
        with pytest.raises(Interrupted, match="what is done is kept: the same command goes on there"):
            flow | tc.write(out, **options)
        stopping.at, stopping.count = None, 0
        seen = []
        report = flow | tc.write(out, **options, on_progress=seen.append)
        assert stopping.count <= whole - at + 3  # the writes of the tile that was not finished come again
        assert min(one.done for one in seen if one.stage == "convert") >= report.resumed
        assert out.read_bytes() == (tmp_path / "right.safetensors").read_bytes()
        out.unlink()


def test_without_resume_nothing_stays(source, tmp_path, stopping):
    flow, out = tc.open(source) | only("int8"), tmp_path / "o.safetensors"
    stopping.at = 9
    with pytest.raises(Interrupted, match="nothing was written"):
        flow | tc.write(out, workers=1, tile=TILE)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["src"]


def test_a_killed_run_can_be_resumed_though_nobody_asked_before(source, tmp_path, monkeypatch):
    monkeypatch.setattr(working, "_INTERVAL", 0.0)
    monkeypatch.setattr(Staging, "write", slowly(Staging.write))
    flow, out = tc.open(source) | only("nvfp4"), tmp_path / "o.safetensors"

    def run() -> None:
        Injection(tmp_path, 40, dying(signal.SIGKILL), ("fsync",)).install()
        flow | tc.write(out, workers=1, tile=TILE)

    assert not survives(run)
    assert list(tmp_path.glob(".o.safetensors.transcode-part"))
    shutil.copytree(hidden(out), tmp_path / "kept")
    stages = []
    report = flow | tc.write(out, resume=True, on_progress=lambda now: stages.append(now.stage))
    assert report.resumed > 0
    assert "resume" in stages
    flow | tc.write(tmp_path / "right.safetensors")
    assert out.read_bytes() == (tmp_path / "right.safetensors").read_bytes()
    out.unlink()
    shutil.move(tmp_path / "kept", hidden(out))
    stages.clear()
    report = flow | tc.write(out, on_progress=lambda now: stages.append(now.stage))
    assert report.resumed == 0
    assert "anew" in stages
    assert "resume" not in stages


def test_who_waited_for_long_is_told_of_going_on(source, tmp_path, monkeypatch, stopping):
    monkeypatch.setattr(carry, "_LONG", 0.0)
    stopping.at = 9
    with pytest.raises(Interrupted, match="nothing was written; with resume=True what is done is kept"):
        tc.open(source) | only("int8") | tc.write(tmp_path / "o.safetensors", workers=1, tile=TILE)


def slowly(method):
    import time

    def call(self, *arguments):
        time.sleep(0.002)
        return method(self, *arguments)

    return call


@pytest.mark.parametrize("seed", range(3))
def test_killed_at_calls_again_and_again(seed, source, tmp_path, monkeypatch):
    """Each run dies at some call of the system, until one gets to its end."""
    monkeypatch.setattr(working, "_INTERVAL", 0.0)
    flow, out = tc.open(source) | only("int8"), tmp_path / "out"
    options = {"workers": 1, "tile": TILE, "max_tensors": 4, "convention": "neutral"}
    flow | tc.write(tmp_path / "right", **options)
    dice, deaths = random.Random(seed), 0

    def run() -> None:
        Injection(tmp_path, at[0], dying(signal.SIGKILL)).install()
        flow | tc.write(out, resume=True, force=True, **options)

    at = [dice.randint(1, 60)]
    while not survives(run):
        deaths += 1
        assert deaths < 100
        at[0] = dice.randint(1, 60 + 40 * deaths)
    assert deaths
    assert written(out) == written(tmp_path / "right")
    assert not list(tmp_path.rglob("*transcode-part*"))


def interrupted(flow, out, stopping, **options):
    stopping.at, stopping.count = 12, 0
    with pytest.raises(Interrupted):
        flow | tc.write(out, resume=True, workers=1, tile=TILE, **options)
    stopping.at = None


def hidden(out: Path) -> Path:
    return out.parent / f".{out.name}.transcode-part"


def test_another_recipe_or_source_is_refused_and_what_lies_there_stays(source, tmp_path, stopping):
    out = tmp_path / "o.safetensors"
    interrupted(tc.open(source) | only("int8"), out, stopping)
    before = {path: path.read_bytes() for path in hidden(out).rglob("*") if path.is_file()}
    for flow in (tc.open(source) | only("fp8"), tc.open(source)):
        with pytest.raises(PlanError, match="of another plan"):
            flow | tc.write(out, resume=True)
    tensors = load_file(source)
    save_file(tensors, source)  # the same bytes at another time
    with pytest.raises(PlanError, match="of another plan"):
        tc.open(source) | only("int8") | tc.write(out, resume=True)
    assert {path: path.read_bytes() for path in hidden(out).rglob("*") if path.is_file()} == before
    report = tc.open(source) | only("int8") | tc.write(out)  # which starts anew
    assert report.resumed == 0
    assert not hidden(out).exists()


@pytest.mark.parametrize("damage", ["journal", "head", "size", "file", "files"])
def test_what_is_damaged_is_done_anew(damage, source, tmp_path, stopping):
    flow, out = tc.open(source) | only("int8"), tmp_path / "o.safetensors"
    flow | tc.write(tmp_path / "right.safetensors", convention="neutral")
    interrupted(flow, out, stopping, convention="neutral")
    staged = next(path for path in hidden(out).rglob("*.safetensors"))
    log = hidden(out) / JOURNAL
    if damage == "journal":
        log.unlink()
    elif damage == "head":
        log.write_bytes(b"x" + log.read_bytes()[1:])
    elif damage == "size":
        staged.write_bytes(staged.read_bytes()[:-1])
    elif damage == "file":
        staged.unlink()
    else:
        shutil.rmtree(staged.parent)
    report = flow | tc.write(out, resume=True, convention="neutral")
    assert report.resumed == 0
    assert out.read_bytes() == (tmp_path / "right.safetensors").read_bytes()


def test_an_error_keeps_what_is_done(source, tmp_path, monkeypatch, stopping):
    flow, out = tc.open(source) | only("int8"), tmp_path / "o.safetensors"
    real, count = Staging.write, [0]

    def full(self, *arguments):
        count[0] += 1
        if count[0] == 20:
            raise TranscodeError("writing failed: No space left on device", file="o", hint="free some space")
        return real(self, *arguments)

    monkeypatch.setattr(Staging, "write", full)
    with pytest.raises(TranscodeError, match="free some space; what is done is kept"):
        flow | tc.write(out, resume=True, workers=1, tile=TILE)
    assert (flow | tc.write(out, resume=True)).resumed > 0


def test_a_sync_that_fails_ends_the_run(source, tmp_path, monkeypatch):
    """The system tells once that bytes are lost: the run must not take a later sync for good."""
    from transcode.execution import keeping

    def sync(fd):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(working, "_INTERVAL", 0.0)
    monkeypatch.setattr(keeping.system, "sync", sync)
    monkeypatch.setattr(Staging, "write", slowly(Staging.write))
    with pytest.raises(TranscodeError, match="writing failed: Input/output error"):
        tc.open(source) | only("int8") | tc.write(tmp_path / "o.safetensors", workers=1, tile=TILE)
    assert not (tmp_path / "o.safetensors").exists()


def test_nothing_to_resume_is_an_ordinary_run(source, tmp_path):
    report = tc.open(source) | only("int8") | tc.write(tmp_path / "o.safetensors", resume=True)
    assert report.resumed == 0


@pytest.mark.parametrize("scheme", ["int8", "nvfp4"])
def test_losses_of_what_was_done_are_kept(scheme, source, tmp_path, stopping, monkeypatch):
    """Stopped at many writes, with other tiles each time: what is lost of each tensor is as of one run."""
    monkeypatch.setattr("transcode.execution.working._INTERVAL", 0.0)
    flow = tc.open(source) | only(scheme)
    wanted = (
        flow | tc.write(tmp_path / "a.safetensors", measure=True, workers=1, convention="neutral")
    ).losses()
    whole, out, resumed = stopping.count, tmp_path / "b.safetensors", 0
    for at in range(3, 4 * whole, max(whole // 2, 3)):
        stopping.count, stopping.at = 0, at
        try:
            report = flow | tc.write(
                out, measure=True, resume=True, workers=1, tile=TILE * (1 + at % 3), convention="neutral"
            )
            break
        except (KeyboardInterrupt, Interrupted):
            resumed += 1
    else:
        stopping.at = None
        report = flow | tc.write(out, measure=True, resume=True, convention="neutral")
    assert resumed
    assert report.resumed
    held = report.losses()
    assert held.keys() == wanted.keys()
    for name, (_, loss) in wanted.items():
        assert held[name][1].signal == pytest.approx(loss.signal, rel=1e-12)
        assert held[name][1].noise == pytest.approx(loss.noise, rel=1e-9)
        assert held[name][1].largest == loss.largest


def test_losses_of_a_run_that_did_not_measure_are_asked_for_in_vain(source, tmp_path, stopping, monkeypatch):
    monkeypatch.setattr("transcode.execution.working._INTERVAL", 0.0)
    out = tmp_path / "o.safetensors"
    interrupted(tc.open(source) | only("int8"), out, stopping)
    with pytest.raises(tc.PlanError, match="was not measured"):
        tc.open(source) | only("int8") | tc.write(out, resume=True, measure=True)
    assert (tc.open(source) | only("int8") | tc.write(out, resume=True)).resumed


def test_on_the_command_line(source, tmp_path, cli, stopping):
    out = tmp_path / "o.safetensors"
    interrupted(tc.open(source) | tc.quantize("int8", include=["blocks.*"]), out, stopping)
    done = cli("run", source, out, "--scheme", "int8", "--include", "blocks.*", "--resume", "--json")
    assert done.json["bytes_resumed"] > 0
    assert not hidden(out).exists()
