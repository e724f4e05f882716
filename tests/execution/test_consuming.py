"""A source that is deleted as it is done: killed anywhere, it and what is staged hold the model."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
from pathlib import Path

import pytest
import torch
from attacks.engine import Injection, dying, survives
from safetensors.torch import save_file

import transcode as tc
from transcode.core.performance import Performance
from transcode.errors import Interrupted, PlanError, TranscodeError
from transcode.execution import carry, consuming, moves, working
from transcode.execution.consuming import Consumption
from transcode.execution.staged import Staged
from transcode.io.commit import CONSUMING

TILE = 16 << 10
SHARDS = 4


def save(folder: Path) -> Path:
    """Four shards; blocks.1's q and k, which share a scale where that is asked for, lie in two of them."""
    draw = torch.Generator().manual_seed(0)
    folder.mkdir()
    shards: list[dict[str, torch.Tensor]] = [{} for _ in range(SHARDS)]
    for block, place in enumerate([(0, 0, 0), (1, 1, 2), (3, 3, 3)]):
        for name, shard in zip(("ffn.0", "attn.q", "attn.k"), place, strict=True):
            shards[shard][f"blocks.{block}.{name}.weight"] = torch.randn(64, 256, generator=draw).bfloat16()
    shards[2]["head.bias"] = torch.randn(300, generator=draw)
    names = [f"model-{number:05}-of-{SHARDS:05}.safetensors" for number in range(1, SHARDS + 1)]
    where = {}
    for name, tensors in zip(names, shards, strict=True):
        save_file(tensors, folder / name)
        where |= dict.fromkeys(tensors, name)
    index = {"metadata": {}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text("{}")
    return folder


def weights(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.safetensors"))


def written(place: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(place.iterdir())}


STEPS = {
    "int8": [tc.quantize("int8", include=["blocks.*"])],
    "shared": [tc.quantize("nvfp4", include=["blocks.*"], share_scale=[["attn.q", "attn.k"]])],
    "copy": [],
}


def plan_of(source: Path, kind: str, out: Path, **options):
    flow = tc.open(source)
    for step in STEPS[kind]:
        flow = flow | step
    return flow.plan(tc.write(out, convention="neutral", layout="chunked", max_tensors=4, **options))


PERFORMANCE = Performance(workers=1, tile=TILE)


def consume(plan, on_progress=None):
    consumption = Consumption(plan, PERFORMANCE)
    carry.check(plan, PERFORMANCE, force=False, consumption=consumption)
    return carry.consume(consumption, PERFORMANCE, on_progress)


@pytest.mark.parametrize("kind", STEPS)
def test_shards_go_as_they_are_done(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(moves, "LEAST", 1 << 12)
    source, out = save(tmp_path / "src"), tmp_path / "out"
    tc.open(source)  # maps of it are open
    right = plan_of(source, kind, tmp_path / "right")
    carry.carry_out(right, PERFORMANCE)
    seen = []
    consume(plan_of(source, kind, out), lambda now: seen.append((now.stage, len(weights(source)))))
    assert written(out) == written(tmp_path / "right")
    assert weights(source) == []
    assert sorted(path.name for path in source.iterdir()) == ["config.json", "model.safetensors.index.json"]
    left = [count for stage, count in seen if stage == "convert"]
    assert left == sorted(left, reverse=True)
    # q and k of block 1 share a scale: their two shards go together.
    assert set(left) == ({4, 3, 1} if kind == "shared" else {4, 3, 2, 1})
    held = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if fd.isdigit()
            and os.path.lexists(f"/proc/self/fd/{fd}")]  # fmt: skip
    assert not [path for path in held if str(source) in path], "nothing keeps the room of a deleted file"
    assert str(source) not in Path("/proc/self/maps").read_text()
    assert not list(tmp_path.rglob("*transcode-part*"))


@pytest.mark.parametrize("seed", range(3))
def test_killed_at_calls_again_and_again(seed, tmp_path, monkeypatch):
    monkeypatch.setattr(working, "_INTERVAL", 0.0)
    monkeypatch.setattr(moves, "LEAST", 1 << 12)
    kind = ("int8", "shared", "copy")[seed]
    source, out = save(tmp_path / "src"), tmp_path / "out"
    carry.carry_out(plan_of(source, kind, tmp_path / "right"), PERFORMANCE)
    plan, dice, deaths = plan_of(source, kind, out), random.Random(seed), 0

    def run() -> None:
        Injection(tmp_path, at, dying(signal.SIGKILL)).install()
        consume(plan)

    at = dice.randint(20, 60)
    while not survives(run):
        deaths += 1
        assert deaths < 60
        if out.exists():  # nothing was left to do but to clear away
            break
        gone = set(range(SHARDS)) - {
            number for number, one in enumerate(plan.inputs) if one.path is not None and one.path.exists()
        }
        assert gone <= consuming.consumed(plan)
        at = dice.randint(20, 60 + 60 * deaths)
    assert deaths
    assert written(out) == written(tmp_path / "right")
    assert weights(source) == []


def stopping(monkeypatch, shards: int, source: Path) -> None:
    """The first write once so many shards are gone ends the run."""
    real = Staged.write

    def write(self, *arguments):
        if len(weights(source)) <= SHARDS - shards:
            raise KeyboardInterrupt
        return real(self, *arguments)

    monkeypatch.setattr(Staged, "write", write)


def hidden(out: Path) -> Path:
    return out.parent / f".{out.name}.transcode-part"


@pytest.mark.parametrize("after", [0, 2])
def test_what_became_of_shards_is_never_cleared(after, tmp_path, monkeypatch, cli, refused):
    """Neither by the same command, nor by another to the same place, nor by whoever makes the folder."""
    source, out = save(tmp_path / "src"), tmp_path / "out"
    words = ["--scheme", "int8", "--include", "blocks.*", "--convention", "neutral", "--max-tensors", "4"]
    cli("run", source, tmp_path / "right", *words)
    shutil.copytree(source, tmp_path / "other")
    with monkeypatch.context() as patch:
        stopping(patch, after, source)
        said = cli("run", source, out, *words, "--consume-source", code=130).err
    assert "4 weight files" in said
    assert "will be DELETED" in said
    assert "what is done is kept" in said or not after
    assert len(weights(source)) == SHARDS - after
    if not after:
        assert cli("run", tmp_path / "other", out, *words)
        return
    before = written(hidden(out) / "files")
    go_on = ["run", "--plan", hidden(out) / CONSUMING, "--consume-source"]
    typed = " ".join(map(str, go_on))
    assert typed in refused("run", source, out, *words, "--consume-source")
    assert typed in refused("run", tmp_path / "other", out, *words, "--force")
    assert typed in refused("run", tmp_path / "other", out, *words, "--resume")
    out.mkdir()
    cli("run", tmp_path / "other", out, *words)
    shutil.rmtree(out)
    assert written(hidden(out) / "files") == before
    cli(*go_on)
    assert written(out) == written(tmp_path / "right")
    assert weights(source) == []
    assert not list(tmp_path.rglob("*transcode-part*"))


@pytest.mark.parametrize("damage", ["journal", "size"])
def test_what_cannot_go_on_is_kept_and_said(damage, tmp_path, monkeypatch):
    source, out = save(tmp_path / "src"), tmp_path / "out"
    plan = plan_of(source, "int8", out)
    with monkeypatch.context() as patch:
        stopping(patch, 2, source)
        with pytest.raises(Interrupted):
            consume(plan)
    if damage == "journal":
        (hidden(out) / "journal").write_bytes(b"")
    else:
        staged = next((hidden(out) / "files").glob("*.safetensors"))
        os.truncate(staged, staged.stat().st_size - 1)
    with pytest.raises(TranscodeError, match=r"shards of the source that are gone|cannot be read"):
        consume(plan)
    assert len(list((hidden(out) / "files").glob("*.safetensors"))) == len(plan.files)


def test_a_shard_that_changed_is_not_deleted(tmp_path, monkeypatch):
    source, out = save(tmp_path / "src"), tmp_path / "out"
    plan = plan_of(source, "int8", out)
    changed, verified = source / weights(source)[1], consuming.verify

    def verify(inputs):
        if len(weights(source)) == 3:
            changed.touch()
        verified(inputs)

    monkeypatch.setattr(consuming, "verify", verify)
    with pytest.raises(TranscodeError, match="was changed since planning began"):
        consume(plan)
    assert len(weights(source)) == 3
    assert hidden(out).exists()


def test_what_is_not_the_sources_alone_is_refused(tmp_path):
    source, out = save(tmp_path / "src"), tmp_path / "out"
    first = source / weights(source)[0]
    plan = plan_of(source, "int8", out)

    def refusal(plan=plan, performance=PERFORMANCE) -> str:
        with pytest.raises(PlanError) as caught:
            Consumption(plan, performance)
        return str(caught.value)

    os.link(first, tmp_path / "another-name")
    assert "2 hard links share its bytes: to delete one frees nothing" in refusal()
    (tmp_path / "another-name").unlink()
    first.rename(tmp_path / "blob")
    first.symlink_to(tmp_path / "blob")
    assert "is a link to" in refusal(plan_of(source, "int8", out))
    first.unlink()
    (tmp_path / "blob").rename(first)
    plan = plan_of(source, "int8", out)
    assert "is hashed for the statement" in refusal(plan, Performance(attest=True))
    assert "is read by other parts" in refusal(plan, Performance(part="1/2"))
    assert "nothing can go before the end" in refusal(tc.open(first).plan(tc.write(tmp_path / "o")))
    assert len(weights(source)) == SHARDS
    Consumption(plan, PERFORMANCE)


def test_the_room_that_it_takes(tmp_path, monkeypatch):
    """A disk that has room for the model once and a little more: refused as a plain run, done as this one."""
    source, out = save(tmp_path / "src"), tmp_path / "out"
    plan = plan_of(source, "copy", out)
    shards = [path.stat().st_size for path in sorted(source.glob("*.safetensors"))]
    need = Consumption(plan, PERFORMANCE).room()
    assert max(shards) * 0.9 < need < 0.5 * plan.file_bytes
    from transcode.execution import destination

    monkeypatch.setattr(destination.system, "free_space", lambda _: need)
    with pytest.raises(PlanError, match="the file system has"):
        carry.check(plan, PERFORMANCE, force=False)
    consume(plan)
    assert weights(source) == []


def test_a_lora_beside_the_shards_stays(tmp_path):
    source, out = save(tmp_path / "src"), tmp_path / "out"
    lora = tmp_path / "src" / "lora.safetensors"
    flow = tc.open(source)
    save_file(
        {
            "blocks.0.ffn.0.lora_A.weight": torch.randn(4, 256),
            "blocks.0.ffn.0.lora_B.weight": torch.randn(64, 4),
        },
        lora,
    )
    plan = (flow | tc.lora(lora)).plan(tc.write(out, layout="chunked", max_tensors=4))
    consume(plan)
    assert weights(source) == ["lora.safetensors"]


@pytest.mark.parametrize("flags", [["--consume-source"], ["--part", "1/2"], ["--checksums"], ["--nice", 3]])
def test_a_plan_that_is_only_saved_deletes_nothing_and_the_flag_says_so(flags, tmp_path, refused):
    source = save(tmp_path / "src")
    told = refused("run", source, tmp_path / "out", *flags, "--plan-out", tmp_path / "plan.json")
    assert f"{flags[0]} does nothing with --plan-out" in told
    assert len(weights(source)) == SHARDS
    assert not (tmp_path / "plan.json").exists()
