"""Parts of a run, in any order, killed, twice at once: the same bytes; and what does not belong together."""

from __future__ import annotations

import json
import random
import shutil
import signal
import threading
from pathlib import Path

import pytest
import torch
from attacks.engine import Injection, dying, survives
from safetensors.torch import save_file

import transcode as tc
from transcode import catalog
from transcode.errors import Interrupted, PlanError, TranscodeError
from transcode.execution import moves, parts, working
from transcode.execution.staged import Staged
from transcode.schemes import SCHEMES

TILE = 16 << 10


@pytest.fixture
def source(tmp_path: Path) -> Path:
    draw = torch.Generator().manual_seed(0)
    tensors = {
        f"blocks.{block}.{name}.weight": torch.randn(256, 256, generator=draw).bfloat16()
        for block in range(2)
        for name in ("ffn.0", "attn.q", "attn.k")
    }
    tensors |= {"head.bias": torch.randn(1000, generator=draw), "none": torch.zeros(0, 5)}
    path = tmp_path / "src" / "model.safetensors"
    path.parent.mkdir()
    save_file(tensors, path)
    (path.parent / "config.json").write_text('{"a": 1}')
    return path


def only(scheme: str, **options):
    return tc.quantize(scheme, include=["blocks.*"], **options)


def written(place: Path) -> dict[str, bytes]:
    files = [place] if place.is_file() else sorted(place.rglob("*"))
    return {path.name: path.read_bytes() for path in files}


def part(flow, out, number, count, **options):
    options = {"workers": 1, "tile": TILE, "convention": "neutral", **options}
    return flow | tc.write(out, part=f"{number}/{count}", **options)


def shared(out: Path) -> Path:
    return out.parent / f".{out.name}.transcode-parts"


def left(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in tmp_path.iterdir() if path.name.startswith("."))


ALIKE = {
    "q3_k", "q5_k", "q6_k", "q5_0", "q5_1", "q8_0", "q4_1", "iq4_nl", "iq2_xxs", "iq2_xs", "iq2_s", "iq3_xxs",
}  # fmt: skip
"""Written by the code of their kin, which are tried."""


@pytest.mark.parametrize("scheme", [*sorted(SCHEMES.keys() - ALIKE), None])
def test_the_same_bytes_for_every_scheme(scheme, source, tmp_path, monkeypatch):
    monkeypatch.setattr(moves, "LEAST", 1 << 14)
    dice = random.Random(str(scheme))
    flow = tc.open(source)
    if scheme is not None:
        flow = flow | only(scheme)
    neutral = scheme is None or scheme in catalog.convention("neutral").schemes
    convention, name = ("neutral", "o.safetensors") if neutral else ("gguf", "o.gguf")
    flow | tc.write(tmp_path / "right" / name, convention=convention)
    count, out = dice.choice([2, 2, 3, 5]), tmp_path / name
    order = list(range(1, count + 1))
    dice.shuffle(order)
    for done, number in enumerate(order, 1):
        assert not out.exists()
        report = part(flow, out, number, count, convention=convention)
        assert report.part.left == tuple(sorted(order[done:]))
        assert report.to_json()["part"]["number"] == number
    assert out.read_bytes() == (tmp_path / "right" / name).read_bytes()
    assert not left(tmp_path)


SHARING = {
    "a scale of a tensor": [only("fp8", granularity="tensor")],
    "a scale of several": [only("nvfp4", share_scale=[["attn.q", "attn.k"]])],
    "a search": [only("int4", optimize="mse", group_size=32)],
}


@pytest.mark.parametrize("kind", SHARING)
def test_looks_at_whole_tensors_and_losses_are_as_of_one_run(kind, source, tmp_path):
    """Into a folder that exists, with checksums; more parts than there is to do."""
    flow = tc.open(source)
    for step in SHARING[kind]:
        flow = flow | step
    options = {"measure": True, "checksums": True, "max_tensors": 3}
    single = {"workers": 1, "tile": TILE, "convention": "neutral", **options}
    wanted = (flow | tc.write(tmp_path / "right", **single)).losses()
    out = tmp_path / "out"
    out.mkdir()
    for number in range(1, 13):
        report = part(flow, out, number, 12, **options)
    assert written(out) == written(tmp_path / "right")
    assert report.losses() == wanted
    assert report.checksums is not None
    assert not left(out)


def test_killed_at_calls_again_and_again(source, tmp_path, monkeypatch):
    """Each process at a part dies at some call of the system, the one that joins as well."""
    monkeypatch.setattr(working, "_INTERVAL", 0.0)
    flow, out = tc.open(source) | only("int8"), tmp_path / "out"
    flow | tc.write(tmp_path / "right", max_tensors=4, convention="neutral")
    dice, deaths, pending = random.Random(1), 0, [1, 2, 3]

    def run() -> None:
        Injection(tmp_path, at, dying(signal.SIGKILL)).install()
        part(flow, out, number, 3, max_tensors=4, force=True)

    while pending and not out.exists():  # who joins may die when all is written: it would begin anew
        number = dice.choice(pending)
        at = dice.randint(1, 40 + 40 * deaths)
        if survives(run):
            pending.remove(number)
        else:
            deaths += 1
            assert deaths < 100
    assert deaths > 2
    if not out.exists():  # who was to join died, and its part was done
        tc.join(out)
    assert written(out) == written(tmp_path / "right")
    assert pending or not left(tmp_path)


class Stop(Exception):
    """Ends a part at a write."""


def stopping(monkeypatch, at: int, error: type[BaseException]) -> list[int]:
    real, count = Staged.write, [0]

    def write(self, *arguments):
        count[0] += 1
        if count[0] == at:
            raise error
        return real(self, *arguments)

    monkeypatch.setattr(Staged, "write", write)
    return count


def test_a_part_goes_on_where_it_stopped(source, tmp_path, monkeypatch):
    flow, out = tc.open(source) | only("int8"), tmp_path / "o.safetensors"
    with monkeypatch.context() as patch:
        count = stopping(patch, 9, KeyboardInterrupt)
        with pytest.raises(Interrupted, match="what is done is kept: the same command goes on there"):
            part(flow, out, 1, 2)
    with monkeypatch.context() as patch:
        count = stopping(patch, 0, Stop)
        report = part(flow, out, 1, 2)
        again = count[0]
    assert report.resumed > 0
    assert report.part.left == (2,)
    assert part(flow, out, 1, 2).bytes_read == 0  # it is done
    shutil.rmtree(shared(out))
    with monkeypatch.context() as patch:
        count = stopping(patch, 0, Stop)
        part(flow, out, 1, 2)
    assert again <= count[0] - 7  # of eight that were done one may have been of a tile that was not finished


def test_two_processes_at_the_same_part(source, tmp_path):
    flow, out = tc.open(source) | only("int8"), tmp_path / "o.safetensors"
    flow | tc.write(tmp_path / "right.safetensors", convention="neutral")
    lefts = []
    threads = [
        threading.Thread(target=lambda: lefts.append(part(flow, out, 1, 2).part.left)) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert lefts == [(2,)] * 4
    part(flow, out, 2, 2)
    assert out.read_bytes() == (tmp_path / "right.safetensors").read_bytes()
    assert not left(tmp_path)


def test_all_at_once_are_joined_once(source, tmp_path):
    """Eight that begin at the same time: one makes the folder, one joins, none fails."""
    flow, out = tc.open(source) | only("nvfp4"), tmp_path / "out"
    flow | tc.write(tmp_path / "right", max_tensors=3, convention="neutral")
    errors: list[BaseException] = []

    def run(number: int) -> None:
        try:
            part(flow, out, number, 8, max_tensors=3)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert written(out) == written(tmp_path / "right")
    assert not left(tmp_path)


def test_what_does_not_belong_together_is_refused(source, tmp_path):
    flow, out = tc.open(source) | only("int8"), tmp_path / "o.safetensors"
    part(flow, out, 2, 3)
    before = {path: path.read_bytes() for path in shared(out).rglob("*") if path.is_file()}
    for other in (tc.open(source) | only("fp8"), tc.open(source)):
        with pytest.raises(PlanError, match="parts of another plan"):
            part(other, out, 1, 3)
    with pytest.raises(PlanError, match="is shared out in 3 parts, not in 4"):
        part(flow, out, 1, 4)
    with pytest.raises(PlanError, match=r"2 of 3 parts are not done: 1, 3; .*part='1/3'"):
        tc.join(out)
    assert {path: path.read_bytes() for path in shared(out).rglob("*") if path.is_file()} == before
    source.touch()  # the same bytes at another time
    with pytest.raises(PlanError, match="parts of another plan"):
        part(tc.open(source) | only("int8"), out, 1, 3)
    assert not out.exists()


def test_a_source_that_changed_is_not_joined(source, tmp_path, monkeypatch):
    flow, out = tc.open(source) | only("int8"), tmp_path / "o.safetensors"
    part(flow, out, 1, 2)
    monkeypatch.setattr(parts.Part, "joins", lambda self: False)
    part(flow, out, 2, 2)
    source.touch()
    with pytest.raises(TranscodeError, match="was changed since planning began"):
        tc.join(out)
    assert not out.exists()


@pytest.mark.parametrize("damage", ["mark", "cut", "files", "head"])
def test_what_is_damaged_is_named(damage, source, tmp_path, monkeypatch):
    flow, out = tc.open(source) | only("int8"), tmp_path / "o.safetensors"
    flow | tc.write(tmp_path / "right.safetensors", convention="neutral")
    with monkeypatch.context() as patch:
        patch.setattr(parts.Part, "joins", lambda self: False)
        for number in (1, 2):
            part(flow, out, number, 2)
    mark = shared(out) / "2.done"
    if damage == "mark":
        mark.write_bytes(mark.read_bytes().replace(b'"done"', b'"dome"'))
    elif damage == "cut":
        mark.write_bytes(mark.read_bytes().splitlines(keepends=True)[0])
    elif damage == "files":
        shutil.rmtree(shared(out) / "files")
    else:
        (shared(out) / "head").write_bytes(b"{}")
    says = {
        "files": "the files of the parts are gone; remove it",
        "head": "is no whole folder of parts; remove it",
    }
    with pytest.raises(PlanError, match=says.get(damage, "1 of 2 parts is not done: 2")):
        tc.join(out)
    if damage in ("mark", "cut"):
        part(flow, out, 2, 2)
        assert out.read_bytes() == (tmp_path / "right.safetensors").read_bytes()


@pytest.mark.parametrize("how", ["cut", "gone"])
def test_staged_files_that_were_cut_between_two_parts(how, source, tmp_path):
    """The second part wrote behind what was lost of the first, and the output was joined with a hole."""
    flow, out = tc.open(source) | only("int8"), tmp_path / "o.safetensors"
    part(flow, out, 1, 2)
    staged = shared(out) / "files" / out.name
    if how == "cut":
        staged.write_bytes(staged.read_bytes()[:100])
    else:
        staged.unlink()
    with pytest.raises(PlanError, match="was damaged; remove it to start anew"):
        part(flow, out, 2, 2)
    assert not out.exists()


def test_who_died_while_it_joined_joins_again(source, tmp_path, monkeypatch):
    flow, out = tc.open(source) | only("int8"), tmp_path / "o.safetensors"
    flow | tc.write(tmp_path / "right.safetensors", convention="neutral")
    part(flow, out, 1, 2)
    from transcode.execution import carry

    def dies(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(carry, "_whole", dies)
        with pytest.raises(KeyboardInterrupt):
            part(flow, out, 2, 2)
    assert part(flow, out, 1, 2).part.left == ()  # that is for the other one, or for join
    assert not out.exists()
    part(flow, out, 2, 2)
    assert out.read_bytes() == (tmp_path / "right.safetensors").read_bytes()
    assert not left(tmp_path)
    with pytest.raises(PlanError, match="there are no parts of a run to join"):
        tc.join(out)


def test_on_the_command_line(source, tmp_path, cli, refused):
    out, plan = tmp_path / "o.safetensors", tmp_path / "plan.json"
    words = ("--scheme", "int8", "--include", "blocks.*")
    cli("run", source, out, *words, "--plan-out", plan, "-q")
    said = cli("run", "--plan", plan, "--part", "1/2").out
    assert said.startswith("part 1 of 2 is done, 1 left: 2; in ")
    assert json.loads(cli("run", source, out, *words, "--part", "2/2", "--json").out)["part"]["left"] == []
    cli("run", source, tmp_path / "right.safetensors", *words)
    assert out.read_bytes() == (tmp_path / "right.safetensors").read_bytes()
    assert "part: '5/4' is no part; write 1/64" in refused("run", source, out, *words, "--part", "5/4")
    assert "there are no parts of a run to join" in refused("join", out)
    out.unlink()
    cli("run", source, out, *words, "--part", "1/2")
    assert "1 of 2 parts is not done: 2; run the same command with --part 2/2" in refused("join", out)
    said = cli("run", source, out, *words).err
    assert "never joined lie beside it, as .DST.transcode-parts" in said
    assert shared(out).exists()
    shutil.rmtree(shared(out))
    assert "transcode-parts" not in cli("run", source, out, *words, "-f").err
